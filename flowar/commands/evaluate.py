"""`flowar evaluate`: images of a model, or stored ones, against a reference; or two cards against each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar


@dataclass
class Options:
    """Draw images, or take stored ones, measure how far they are from a reference, and write an evaluation card.

    Interrupted, the same command goes on where it was. Under torchrun the images are shared out over the processes.

    Attributes:
        model: shipped name, folder, or Hub id.
        images: evaluate these instead of a model's: a folder, tars, idx files, or an npz.
        reference: what to compare with: a file of `flowar reference`, an npz with images or Inception's statistics, or
            images as above.
        output: folder for the card, the features and the images.
        extractor: of the features: inception (FID), efficientnet-lite0 (FD-EffLite0) or fashion (FD-fashion).
        classifier: for extractor fashion, file that flowar.evaluation.fashion_classifier wrote; if left out, the
            one that ships.
        num_images: to draw; image i has the i-th class in turn, and seed + i as its seed.
        classes: labels or names to draw, as in 0,3,7 or "otter, 3"; all classes if left out.
        seed: of image 0.
        schedule: a preset or a .json file, as of `flowar sample`; the model's own if left out.
        num_inference_steps: of the ODE of each scale; the model's own preset if left out.
        guidance_scale: 1 is none; the model's own preset if left out.
        guidance_interval: [low, high], the times that guidance acts at; the model's own preset if left out.
        dtype: of the networks, as of `flowar sample`.
        batch_size: images drawn, and features computed, at once.
        save_images: write the images as PNGs too, in a folder a class.
        image_size: scale and crop the stored images to this, a side or [height, width]; if left out they must all
            be of one size.
        split: of idx files, "train" or "t10k".
        bootstrap: replicates that the intervals come from; 0 leaves them out. Each takes a Fréchet distance anew.
        compare: two cards, instead of an evaluation: do they differ by more than chance, and in which settings?
        device: "auto" is the GPU if there is one.
    """

    several: ClassVar[str] = "compare"

    model: str = "flowar-fashion"
    images: str | None = None
    reference: str | None = None
    output: Path = Path("evaluation")
    extractor: str = "inception"
    classifier: Path | None = None
    num_images: int = 10_000
    classes: list[int | str] | str | None = None
    seed: int = 0
    schedule: str | None = None
    num_inference_steps: int | None = None
    guidance_scale: float | None = None
    guidance_interval: tuple[float, float] | None = None
    dtype: str = "auto"
    batch_size: int = 100
    save_images: bool = False
    image_size: int | Sequence[int] | None = None
    split: str = "train"
    bootstrap: int = 100
    compare: tuple[Path, Path] | None = None
    device: str = "auto"


def run(options: Options) -> None:
    """Evaluate and say what came out, a line a metric, and where the card is; or compare."""
    if options.compare:
        from flowar.evaluation.card import read_card
        from flowar.evaluation.compare import compare_cards

        print("\n".join(compare_cards(*map(read_card, options.compare))))
        return
    from flowar.commands.classes import names_of
    from flowar.commands.sample import parse_labels
    from flowar.evaluation.card import MARKDOWN_FILE
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
        print(f"{name}: {found['value']:.5g}{interval}")
    print(f"card in {options.output / MARKDOWN_FILE}")
