"""Photos to squares of 8-bit pixels, with Pillow and numpy alone: decoding, crops, flips."""

from __future__ import annotations

import io

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

LARGEST_CROP = 1.25  # a random crop is cut from an image whose short side is at most so many times its own
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


def variants(image: Image.Image, size: int, flips: bool, crops: int, index: int) -> Tensor:
    """What the store keeps of image number `index`: uint8 [V, channels, size, size].

    The centre crop, that flipped, then random crops, each flipped or not; without `flips` nothing is. An image's crops
    are the same at every call.
    """
    centre = center_crop(image, size)
    squares = [centre, flip(centre)] if flips else [centre]
    generator = np.random.default_rng(index)
    for _ in range(crops):
        crop = random_crop(image, size, generator)
        squares.append(flip(crop) if flips and generator.random() < 0.5 else crop)
    return torch.stack([to_tensor(square) for square in squares])


def center_crop(image: Image.Image, size: int) -> Image.Image:
    """The central square, its side scaled to `size`, as ADM has it."""
    image = scale_short_side(image, size)
    width, height = image.size
    left, top = (width - size) // 2, (height - size) // 2
    return image.crop((left, top, left + size, top + size))


def random_crop(image: Image.Image, size: int, generator: np.random.Generator) -> Image.Image:
    """A square of side `size` anywhere in the image, its short side scaled to `size` at least, 1.25 `size` at most."""
    image = scale_short_side(image, int(generator.integers(size, int(LARGEST_CROP * size), endpoint=True)))
    left, top = (int(generator.integers(0, side - size, endpoint=True)) for side in image.size)
    return image.crop((left, top, left + size, top + size))


def scale_short_side(image: Image.Image, size: int) -> Image.Image:
    """Scaled so that the short side is `size`: halved by averaging while that is possible, then bicubic."""
    while min(image.size) >= 2 * size:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = size / min(image.size)
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
