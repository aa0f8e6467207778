"""Quality of inpainting Fashion-MNIST: against pasting a fresh sample of the same class into the hole.

`python -m experiments.fashion_editing --data FOLDER` takes test images one by one, each with one of its halves hidden,
and prints for both ways the share that the judge puts into the right class, and the error at the boundary: how far the
step in brightness across it is from the original's, in grey levels.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from experiments.fashion_classifier import judge
from flowar.data.sources import open_idx
from flowar.data.transforms import to_unit_range
from flowar.editing.edits import inpaint
from flowar.editing.pictures import paste_known
from flowar.evaluation.fashion_classifier import SHIPPED, FashionClassifier, load
from flowar.pipeline import FlowARPipeline
from flowar.system.files import write_json
from flowar.system.precision import default_device
from flowar.system.progress import step_progress

Pixels = npt.NDArray[np.uint8]
HALVES = ("lower", "upper", "left", "right")


def half_mask(which: str, side: int) -> Pixels:
    """White [side, side] where one half of a picture is to be drawn anew."""
    first, second = slice(0, side // 2), slice(side // 2, side)
    parts = {"lower": (second, slice(side)), "upper": (first, slice(side))}
    parts |= {"left": (slice(side), first), "right": (slice(side), second)}
    mask = np.zeros((side, side), dtype=np.uint8)
    mask[parts[which]] = 255
    return mask


def boundary_error(edited: Pixels, original: Pixels, mask: Pixels) -> float:
    """Mean difference of the steps across the mask's edge, [H, W] pictures, in grey levels."""
    errors = []
    for axis in (0, 1):
        edge = np.diff((mask > 0).astype(int), axis=axis) != 0
        steps = (np.diff(picture.astype(float), axis=axis)[edge] for picture in (edited, original))
        errors.append(np.abs(np.subtract(*steps)))
    return float(np.concatenate(errors).mean())


def compare(
    pipeline: FlowARPipeline, classifier: FashionClassifier, images: Pixels, labels: list[int], seed: int = 0
) -> dict[str, dict[str, float]]:
    """Agreement and boundary error of both ways over images [N, H, W], and those of the originals."""
    made: dict[str, list[Pixels]] = {"inpainted": [], "pasted": []}
    errors: dict[str, list[float]] = {"inpainted": [], "pasted": []}
    with step_progress(len(images), None, "images") as advance:
        for index, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            mask = half_mask(HALVES[index % len(HALVES)], pixels.shape[0])
            picture, hole = Image.fromarray(pixels), Image.fromarray(mask)
            own: dict[str, Any] = {"seed": seed + index, "progress": False}
            (inpainted,) = inpaint(pipeline, picture, hole, label, paste=True, **own)
            (pasted,) = paste_known(picture, pipeline([label], **own).images, hole)
            for name, edited in (("inpainted", inpainted), ("pasted", pasted)):
                made[name].append(np.array(edited))
                errors[name].append(boundary_error(made[name][-1], pixels, mask))
            advance()
    results = {"original": {"agreement": agreement(classifier, images, labels)}}
    for name, edits in made.items():
        error = float(np.mean(errors[name]))
        results[name] = {"agreement": agreement(classifier, np.stack(edits), labels), "boundary_error": error}
    return results


def agreement(classifier: FashionClassifier, images: Pixels, labels: list[int]) -> float:
    """Share of images [N, H, W] that the judge puts into their classes."""
    _, predicted = judge(classifier, to_unit_range(torch.from_numpy(images)[:, None]))
    return (predicted == torch.tensor(labels)).float().mean().item()


def main() -> None:
    parser = argparse.ArgumentParser(description="Judge inpainting of Fashion-MNIST.")
    parser.add_argument("--model", default="flowar-fashion", help="shipped name, folder, or Hub id")
    parser.add_argument("--data", type=Path, required=True, help="folder of Fashion-MNIST's four idx files")
    parser.add_argument("--classifier", type=Path, default=SHIPPED, help="file of experiments.fashion_classifier")
    parser.add_argument("--count", type=int, default=200, help="test images, the first ones")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    options = parser.parse_args()
    test = open_idx(options.data, "t10k")
    images, labels = test.images[: options.count, 0].numpy(), test.labels[: options.count].tolist()
    pipeline = FlowARPipeline.from_pretrained(options.model).to(default_device())
    results = compare(pipeline, load(options.classifier), images, labels, options.seed)
    for name, values in results.items():
        print(name, json.dumps({key: round(value, 4) for key, value in values.items()}))
    if options.output:
        settings = {"count": len(labels), "seed": options.seed, "dtype": pipeline.model.precision().name}
        write_json(options.output, settings | {"results": results})


if __name__ == "__main__":
    main()
