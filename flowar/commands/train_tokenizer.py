"""`flowar train-tokenizer`: a small autoencoder, trained on your images."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from flowar.commands import say
from flowar.errors import DataError
from flowar.system.fields import checks_fields
from flowar.system.rules import Channels, Place, Range, Side
from flowar.training.tokenizer_config import TokenizerTrainingConfig

if TYPE_CHECKING:
    from torch import Tensor

    from flowar.data.image_source import ImageSource

log = logging.getLogger(__name__)

READ_BATCH = 256
MOST_HELD_OUT = 1024  # images that are measured at every interval
LOOKED_AT = 64  # of them, whose latents' variance is looked at


@dataclass
@checks_fields
class Validation:
    """The held-out images, which the training measures by.

    Attributes:
        share: share of `data` to hold out, spread evenly, if there is no `folder`.
        folder: folder of images to hold out, in any of the forms of `data`; of idx files the split "t10k".

    Raises:
        ValueError: for a share that is not between 0 and 0.5.
    """

    share: Annotated[float, Range(0, 0.5, "(]")] = 0.05
    folder: Place | None = None


@dataclass
@checks_fields
class Options:
    """Train a small tokenizer on a folder of images, or resume its training.

    Every interval writes a checkpoint and a picture of held-out images above their reconstructions, and logs how good
    these are. Judge a tokenizer by them, not by its loss or that of a model trained on its latents: a tokenizer that
    loses colours has simpler latents, and gives models a lower loss.

    Attributes:
        data: folder with a subfolder of images per class or Fashion-MNIST's idx files, or WebDataset tars (a folder or
            a pattern).
        output: folder to write the tokenizer to, with `reconstructions`, `checkpoints` and `metrics.jsonl`.
        image_size: size that images are scaled and cropped to, a side or [height, width]; those of idx files stay as
            they are.
        image_channels: 1 for grey, 3 for RGB; idx files are grey.
        split: split of idx files, "train" or "t10k".
        on_bad_image: "fail" to end at an unreadable image, or "skip" to go on without it.
        resume: whether to go on from the newest checkpoint in `output`, exactly as if the training had not been
            interrupted.
        device: device to compute on; "auto" is the GPU if there is one.
        validation: images to hold out.
        training: configuration of the training.
    """

    data: Place
    output: Path
    image_size: Side | Sequence[Side] = 32
    image_channels: Channels = 3
    split: str = "train"
    on_bad_image: Literal["fail", "skip"] = "fail"
    resume: bool = False
    device: str = "auto"
    validation: Validation = field(default_factory=Validation)
    training: TokenizerTrainingConfig = field(default_factory=TokenizerTrainingConfig)

    @property
    def skip(self) -> bool:
        """Whether unreadable images are skipped."""
        return self.on_bad_image == "skip"


def run(options: Options) -> None:
    """Train the tokenizer, write its folder, and print where it is and how well it reconstructs."""
    from flowar.data.sources import open_images
    from flowar.data.transforms import to_unit_range
    from flowar.system.precision import default_device
    from flowar.training.calibration import warn_unless_normalised
    from flowar.training.reconstructions import reconstruct
    from flowar.training.tokenizer_training import train_tokenizer
    from flowar.training.tokenizer_watch import WatchOptions

    skip, form = options.skip, (options.image_size, options.image_channels, options.skip)
    source = open_images(options.data, options.split, *form)
    images = read(source, skip)
    if options.validation.folder is None:
        images, held_out = split(images, options.validation.share)
    else:
        held_out = read(open_images(options.validation.folder, "t10k", *form), skip)
    held_out = evenly(held_out, MOST_HELD_OUT)
    height, width = source.image_size
    training = options.training.for_images((height, width), source.flips)
    watched = WatchOptions(options.output, held_out, options.resume)
    tokenizer = train_tokenizer(images, training, default_device(options.device), watched)
    tokenizer.save_pretrained(options.output)
    some = to_unit_range(evenly(held_out, LOOKED_AT).to(tokenizer.mean.device))
    warn_unless_normalised(*tokenizer.posterior(some))
    found = reconstruct(tokenizer, held_out)
    weights = tokenizer.record()["weights"]
    say(f"tokenizer {weights} in {options.output}; {len(held_out)} images held out: {found}")


def read(source: ImageSource, skip_bad: bool) -> Tensor:
    """Read all images of `source`, uint8 [N, C, H, W].

    Raises:
        DataError: for an unreadable image, unless those are skipped, and if none is left.
    """
    import torch

    skipped: list[str] = []
    batches = [*source.batches(READ_BATCH, skipped if skip_bad else None)]
    for reason in skipped:
        log.warning("skipped %s", reason)
    if not batches:
        raise DataError(f"data: expected a readable image in {source.root}, found none")
    return torch.cat(batches)


def split(images: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """Divide images into those to train on and a share to hold out, evenly spaced.

    Raises:
        DataError: for a single image.
    """
    import torch

    if len(images) < 2:
        raise DataError(f"data: expected two images or more, of which some are held out, got {len(images)}")
    every = min(round(1 / share), len(images))
    chosen = torch.arange(len(images)) % every == every // 2
    return images[~chosen], images[chosen]


def evenly(images: Tensor, most: int) -> Tensor:
    """At most `most` of the images, evenly spaced."""
    import torch

    return images[torch.linspace(0, len(images) - 1, min(most, len(images))).long()]
