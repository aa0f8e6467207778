"""Reconstructions of held-out images by a tokenizer: their error in decibels, and a picture of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from flowar.data.transforms import to_unit_range
from flowar.images.grid import image_grid, to_pil
from flowar.system.files import write_aside
from flowar.tokenizers.base import Tokenizer

COLOURS = {1: ("grey",), 3: ("red", "green", "blue")}
BATCH = 64
COLUMNS = 10
ROWS = 2  # of images from all over, in the picture; one more of those that are worst
SMALLEST_SHOWN = 96  # pixels a side that an image of the picture is enlarged to


@dataclass(frozen=True)
class Reconstruction:
    """Images after encoding and decoding, and how far they are from the originals.

    Attributes:
        psnr: peak signal-to-noise ratio of all pixels, in decibels.
        by_colour: the ratio of red, green and blue, or of grey alone; it is low for a colour that the tokenizer misses.
        worst: the ratio of the tenth of the images that have the largest errors.
        decoded: the reconstructed images, uint8 [N, C, H, W].
        errors: the mean squared error of every image, float64 [N].
    """

    psnr: float
    by_colour: dict[str, float]
    worst: float
    decoded: Tensor
    errors: Tensor

    def __str__(self) -> str:
        colours = ", ".join(f"{name} {value:.1f}" for name, value in self.by_colour.items())
        return f"{self.psnr:.2f} dB ({colours}; worst tenth of the images {self.worst:.1f})"


@torch.no_grad()
def reconstruct(tokenizer: Tokenizer, images: Tensor) -> Reconstruction:
    """Encode and decode uint8 images [N, C, H, W], and compare."""
    device, decoded, errors = tokenizer.mean.device, [], []
    for part in images.split(BATCH):
        unit = to_unit_range(part.to(device))
        again = tokenizer.decode(tokenizer.encode(unit))
        errors.append((again - unit).square().mean((2, 3)).cpu().double())
        decoded.append(((again + 1) * 127.5).round().to("cpu", torch.uint8))
    by_image = torch.cat(errors)  # [N, C]
    names, tenth = COLOURS[images.shape[1]], -(-len(images) // 10)
    return Reconstruction(
        decibels(by_image.mean()),
        {name: decibels(error) for name, error in zip(names, by_image.mean(0), strict=True)},
        decibels(by_image.mean(1).topk(tenth).values.mean()),
        torch.cat(decoded),
        by_image.mean(1),
    )


def decibels(error: Tensor) -> float:
    """The peak signal-to-noise ratio for a mean squared error of pixels in [-1, 1], at most 100."""
    return float(10 * torch.log10(4 / error.clamp(min=4e-10)))


def draw(images: Tensor, found: Reconstruction, path: Path) -> None:
    """Write a picture: rows of images, evenly spaced among them, each above a row of their reconstructions.

    The last rows are those with the largest errors.
    """
    even = torch.linspace(0, len(images) - 1, min(ROWS * COLUMNS, len(images))).long()
    worst = found.errors.topk(min(COLUMNS, len(images))).indices
    shown: list[Image.Image] = []
    for row in [*even.split(COLUMNS), worst]:
        for pixels in (images[row], found.decoded[row]):
            shown += enlarged(pixels)
            shown += [Image.new(shown[0].mode, shown[0].size, "white")] * (COLUMNS - len(row))
    write_aside(path, lambda aside: image_grid(shown, COLUMNS).save(aside, "PNG"))


def enlarged(pixels: Tensor) -> list[Image.Image]:
    """Pictures of uint8 images [B, C, H, W], each pixel a square."""
    factor = max(1, SMALLEST_SHOWN // min(pixels.shape[2:]))
    return [
        each.resize((each.width * factor, each.height * factor), Image.Resampling.NEAREST)
        for each in to_pil(to_unit_range(pixels))
    ]
