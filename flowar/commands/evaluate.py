"""`flowar evaluate`: images of a model, or stored ones, against a reference; or two cards against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from flowar.commands import say
from flowar.commands.labels import Classes, parse_labels
from flowar.system.fields import checks_fields
from flowar.system.rules import Count, Guidance, Index, Interval, Place, Seed, Side, Steps


@dataclass
@checks_fields
class Options:
    """Draw images, or take stored ones, measure how far they are from a reference, and write an evaluation card.

    Interrupted, the same command goes on where it was. Under torchrun the images are shared out over the processes.

    Attributes:
        model: shipped name, folder, or Hub id.
        images: images to evaluate instead of a model's: a folder, tars, idx files, or an npz.
        reference: reference to compare with: a file of `flowar reference`, an npz with images or Inception's
            statistics, or images as above.
        output: folder for the card, the features and the images.
        extractor: network whose features are compared: inception (FID), efficientnet-lite0 (FD-EffLite0) or fashion
            (FD-fashion).
        classifier: file of another classifier for extractor fashion (`python -m experiments.fashion_classifier`
            makes one); if left out, the one that ships.
        num_images: number of images to draw; image i has the i-th class in turn, and seed + i as its seed.
        classes: labels or names to draw, as in 0,3,7 or "otter, 3"; all classes if left out.
        seed: seed of image 0.
        schedule: preset or .json file, see `flowar sample`; the model's own if left out.
        num_inference_steps: steps of the ODE at each scale; the model's own preset if left out.
        guidance_scale: strength of guidance, 1 for none; the model's own preset if left out.
        guidance_interval: [low, high], the times at which guidance acts; the model's own preset if left out.
        dtype: dtype of the networks, see `flowar sample`.
        batch_size: images drawn, and features computed, at once.
        save_images: whether to write the images as PNGs too, in a subfolder per class.
        image_size: size that stored images are scaled and cropped to, a side or [height, width]; if left out, they must
            all be of one size.
        split: split of idx files, "train" or "t10k".
        bootstrap: number of replicates that the intervals come from, each of which takes a Fréchet distance; 0 leaves
            intervals out.
        compare: two cards to compare instead of an evaluation: whether they differ by more than chance, and in which
            settings.
        device: device to compute on; "auto" is the GPU if there is one.
    """

    several: ClassVar[str] = "compare"

    model: Place = "flowar-fashion"
    images: Place | None = None
    reference: Place | None = None
    output: Path = Path("evaluation")
    extractor: str = "inception"
    classifier: Path | None = None
    num_images: Count = 10_000
    classes: Classes | None = None
    seed: Seed = 0
    schedule: Place | None = None
    num_inference_steps: Steps | None = None
    guidance_scale: Guidance | None = None
    guidance_interval: Interval | None = None
    dtype: str = "auto"
    batch_size: Count = 100
    save_images: bool = False
    image_size: Side | Sequence[Side] | None = None
    split: str = "train"
    bootstrap: Index = 100
    compare: tuple[Path, Path] | None = None
    device: str = "auto"


def run(options: Options) -> None:
    """Evaluate, and print the metrics and where the card is; or compare two cards."""
    if options.compare:
        from flowar.evaluation.card import read_card
        from flowar.evaluation.compare import compare_cards

        say(*compare_cards(*map(read_card, options.compare)))
        return
    from flowar.commands.classes import names_of
    from flowar.evaluation.card import MARKDOWN_FILE, bias_note
    from flowar.evaluation.run import EvaluationConfig, evaluate
    from flowar.system.ranks import join_ranks

    if options.reference is None:
        raise ValueError("reference: expected a file or a folder to compare with, got none")
    values = {name: value for name, value in vars(options).items() if name not in ("compare", "device", "classes")}
    classes = None if options.classes is None else tuple(parse_labels(options.classes, 0, names_of(options.model)))
    with join_ranks(options.device) as ranks:
        card = evaluate(EvaluationConfig(**values, classes=classes), ranks)
    if card is None:
        return
    for name, found in card["metrics"].items():
        interval = "" if found["interval"] is None else " (95 %: {:.5g} to {:.5g})".format(*found["interval"])
        say(f"{name}: {found['value']:.5g}{interval}{bias_note(found)}")
    say(f"card in {options.output / MARKDOWN_FILE}")
