"""Photos to one size of 8-bit pixels, with Pillow and numpy alone: decoding, crops, flips."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from flowar.config import Grid

LARGEST_CROP = 1.25  # a random crop is cut from an image scaled so that it is at most so many times as large
WIDE_MODES = ("I", "I;16", "I;16B", "I;16L", "I;16N")  # grey of 16 bits, which Pillow keeps in 32 for some formats


def decode(content: bytes, channels: int) -> Image.Image:
    """The image of a file's bytes, upright, in mode L (1 channel) or RGB (3); what is transparent becomes white.

    Raises:
        Exception: whatever Pillow raises for bytes that are damaged, or no image.
        ValueError: for an unknown format, and for pixels that are neither of 8 nor of 16 bits.
    """
    try:
        with Image.open(io.BytesIO(content)) as file:
            image = ImageOps.exif_transpose(file)
    except UnidentifiedImageError as error:  # which speaks of an address in memory
        raise ValueError("of no format that Pillow knows") from error
    if image.mode in WIDE_MODES:
        image = from_16_bits(image)
    elif image.mode == "F":
        raise ValueError("expected 8 or 16 bits a channel, got floating-point pixels")
    elif "transparency" in image.info or image.mode in ("RGBA", "LA", "PA"):
        opaque = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", opaque.size, "white"), opaque)
    return image.convert("L" if channels == 1 else "RGB")


def from_16_bits(image: Image.Image) -> Image.Image:
    """A grey image of 16 bits in 8, rounded; Pillow's own conversion clips."""
    pixels = np.asarray(image).astype(np.int64)
    if pixels.min() < 0 or pixels.max() > 65535:
        raise ValueError(f"expected 8 or 16 bits a channel, got values from {pixels.min()} to {pixels.max()}")
    return Image.fromarray(((pixels + 128) // 257).astype(np.uint8))


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
    image = scale_to_cover(image, size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    return image.crop((left, top, left + width, top + height))


def random_crop(image: Image.Image, size: Grid, generator: np.random.Generator) -> Image.Image:
    """A rectangle of `size` (height, width) anywhere in the image, which is scaled to cover 1 to 1.25 times that."""
    height, width = size
    short = min(size)
    scaled = int(generator.integers(short, int(LARGEST_CROP * short), endpoint=True))
    image = scale_to_cover(image, (round(height * scaled / short), round(width * scaled / short)))
    left = int(generator.integers(0, image.width - width, endpoint=True))
    top = int(generator.integers(0, image.height - height, endpoint=True))
    return image.crop((left, top, left + width, top + height))


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
