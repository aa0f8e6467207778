"""Pictures to one size of 8-bit pixels: crops, flips, and tensors of them."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from flowar.config import Grid

LARGEST_CROP = 1.25  # a random crop is cut from an image scaled so that it is at most so many times as large
LONGEST = 4  # times as long as a crop of its width is what is scaled of an image


def variants(image: Image.Image, size: Grid, flips: bool, crops: int, index: int) -> Tensor:
    """What the store keeps of image number `index`: uint8 [V, channels, height, width].

    The centre crop, that flipped, then random crops, each flipped or not; without `flips` nothing is. An image's crops
    are the same at every call.
    """
    centre = center_crop(image, size)
    cut = [centre, flip(centre)] if flips else [centre]
    generator = np.random.default_rng(index)
    for _ in range(crops):
        crop = random_crop(image, size, generator)
        cut.append(flip(crop) if flips and generator.random() < 0.5 else crop)
    return torch.stack([to_tensor(each) for each in cut])


def center_crop(image: Image.Image, size: Grid) -> Image.Image:
    """The central rectangle of the aspect of `size` (height, width), scaled to it; a square is cut as ADM cuts it."""
    height, width = size
    image = scale_to_cover(shortened(image, size), size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def random_crop(image: Image.Image, size: Grid, generator: np.random.Generator) -> Image.Image:
    """A rectangle of `size` (height, width) anywhere in the image, which is scaled to cover 1 to 1.25 times that."""
    height, width = size
    short = min(size)
    image = shortened(image, size, generator)
    scaled = int(generator.integers(short, int(LARGEST_CROP * short), endpoint=True))
    image = scale_to_cover(image, (round(height * scaled / short), round(width * scaled / short)))
    left = int(generator.integers(0, image.width - width, endpoint=True))
    top = int(generator.integers(0, image.height - height, endpoint=True))
    return image.crop((left, top, left + width, top + height))


def shortened(image: Image.Image, size: Grid, generator: np.random.Generator | None = None) -> Image.Image:
    """The middle of an image that is far longer than a crop of `size` (height, width), or a part drawn at random.

    To scale all of it would take time and memory for what no crop shows.
    """
    height, width = size
    limits = LONGEST * -(-image.height * width // height), LONGEST * -(-image.width * height // width)
    kept = min(image.width, limits[0]), min(image.height, limits[1])
    if kept == image.size:
        return image
    place = 0.5 if generator is None else generator.random()
    left, top = (round(place * (whole - part)) for whole, part in zip(image.size, kept, strict=True))
    return image.crop((left, top, left + kept[0], top + kept[1]))


def scale_to_cover(image: Image.Image, size: Grid) -> Image.Image:
    """Scaled to the least size that covers `size`: halved by averaging while that is possible, then bicubic."""
    height, width = size
    while image.height >= 2 * height and image.width >= 2 * width:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = max(height / image.height, width / image.width)
    return image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)


def flip(image: Image.Image) -> Image.Image:
    """Left and right exchanged."""
    return ImageOps.mirror(image)


def to_tensor(image: Image.Image) -> Tensor:
    """uint8 [channels, height, width]."""
    pixels = np.array(image).reshape(image.height, image.width, -1)
    return torch.from_numpy(pixels).permute(2, 0, 1)


def to_unit_range(images: Tensor) -> Tensor:
    """uint8 pixels to float32 in [-1, 1]."""
    return images.float() / 127.5 - 1
