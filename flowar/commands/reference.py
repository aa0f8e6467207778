"""`flowar reference`: the features of a reference, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flowar.commands import say
from flowar.system.fields import checks_fields
from flowar.system.rules import Count, OutputFile, Place, Side


@dataclass
@checks_fields
class Options:
    """Compute the statistics of a reference's features, and keep up to 10,000 of the features, for `flowar evaluate`.

    Interrupted, the same command goes on where it was. Under torchrun the images are shared out over the processes.

    Attributes:
        images: folder of images, tars, idx files, an npz of images, or one of Inception's statistics.
        output: safetensors file to write.
        extractor: network whose features are compared: inception, efficientnet-lite0 or fashion.
        classifier: file of another classifier for extractor fashion (`python -m experiments.fashion_classifier`
            makes one); if left out, the one that ships.
        image_size: size that images are scaled and cropped to, a side or [height, width]; if left out, they must all be
            of one size.
        split: split of idx files, "train" or "t10k".
        batch_size: images whose features are computed at once.
        device: device to compute on; "auto" is the GPU if there is one.
    """

    images: Place
    output: OutputFile
    extractor: str = "inception"
    classifier: Path | None = None
    image_size: Side | Sequence[Side] | None = None
    split: str = "train"
    batch_size: Count = 100
    device: str = "auto"


def run(options: Options) -> None:
    """Write the file, and print what it holds."""
    import shutil

    from flowar.evaluation.extractors import open_extractor
    from flowar.evaluation.reference import open_reference
    from flowar.system.lock import locked_by_main
    from flowar.system.ranks import join_ranks

    if options.output.suffix != ".safetensors":
        raise ValueError(f"output: expected a file that ends with .safetensors, got {options.output}")
    chunks, form = options.output.with_suffix(".features"), (options.image_size, options.split)
    with join_ranks(options.device) as ranks, locked_by_main(chunks, ranks):
        extractor = open_extractor(options.extractor, ranks.device, options.classifier)
        reference = open_reference(options.images, extractor, chunks, ranks, options.batch_size, *form, renew=True)
        if not ranks.main:
            return
        reference.save(options.output)
        shutil.rmtree(chunks, ignore_errors=True)
    count = "statistics" if reference.count is None else f"{reference.count} images"
    say(f"{extractor.name} features of {count} in {options.output}")
