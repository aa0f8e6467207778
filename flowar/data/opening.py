"""The one way to open a picture, whatever it holds: upright, opaque, 8 bits a channel."""

from __future__ import annotations

import functools
import os
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL.Image
from PIL.ExifTags import Base
from PIL.Image import Image, Transpose

from flowar.config import Grid
from flowar.errors import first_line
from flowar.system.files import open_regular

# What Pillow decodes by itself, or by a plugin that the user has registered (HEIF, JXL). EPS would start Ghostscript,
# WMF draws, FITS unpacks without bound, and files of SPIDER and its like do not say what they are. TGA's do not either,
# and are tried last.
FORMATS = (
    *("JPEG", "MPO", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "HEIF", "JXL", "ICO"),
    *("CUR", "ICNS", "QOI", "PSD", "DDS", "FTEX", "BLP", "PCX", "DCX", "PCD", "PIXAR", "SGI", "SUN", "XBM", "XPM"),
    *("IM", "GBR", "MSP", "FLI", "TGA"),
)
BACKGROUND = "white"  # of what is transparent
MOST_BYTES = 2**31  # of a file: more than any picture has that Pillow's limit of pixels lets pass
OVERSAMPLING = 2  # how many times as large as what is cut from it a picture is, when it is not opened in full size
CONVERTED_AT_ONCE = 2**22  # pixels
TURNS = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}  # what makes a picture upright, by its EXIF orientation
SIDEWAYS = (5, 6, 7, 8)  # the orientations that exchange width and height


def open_image(path: Path, channels: int, cover: Grid | None = None, background: str = BACKGROUND) -> Image:
    """The picture in a file, as `decode` reads it.

    Raises:
        ValueError: as `decode`.
        OSError: for a file that cannot be read, or is a pipe, a device or a socket.
    """
    with open_regular(path) as file:
        return decode(file, channels, cover, background)


def decode(file: BinaryIO, channels: int, cover: Grid | None = None, background: str = BACKGROUND) -> Image:
    """The picture in an open file, the first one of an animation, as `plain` has it.

    Args:
        file: of one of `FORMATS`, of which it may have no more pixels than Pillow allows (`PIL.Image.MAX_IMAGE_PIXELS`
            twice: 179 million), which the file's header tells.
        channels: 1 for grey, 3 for RGB.
        cover: height and width that are to be cut from it: a picture that is far larger then comes at least twice as
            large as that, whatever its file has.
        background: of what is transparent.

    Raises:
        ValueError: for bytes that are damaged, too many, or of another format.
    """
    try:
        check_length(file.seek(0, os.SEEK_END))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about what it mends by itself
            with PIL.Image.open(file, formats=openable()) as image:
                if cover is not None and image.format in ("JPEG", "MPO"):
                    image.draft(None, least_size(image, cover))  # decoded at a reduced scale
                return plain(image, channels, background, cover)
    except PIL.UnidentifiedImageError as error:  # which speaks of an address in memory
        raise ValueError("of no format that is read here, or damaged from the first bytes on") from error
    except PIL.Image.DecompressionBombError as error:
        raise ValueError(f"larger than {2 * (PIL.Image.MAX_IMAGE_PIXELS or 0)} pixels") from error
    except Exception as error:  # damaged files make Pillow fail in many ways
        raise ValueError(first_line(error)) from error


def check_length(size: int) -> None:
    """Check the bytes of a picture's file. Raises ValueError for more than `MOST_BYTES`."""
    if size > MOST_BYTES:
        raise ValueError(f"larger than {MOST_BYTES} bytes")


@functools.cache
def openable() -> tuple[str, ...]:
    """Those of `FORMATS` that this Pillow opens."""
    PIL.Image.init()
    return tuple(name for name in FORMATS if name in PIL.Image.OPEN)


@functools.cache
def image_suffixes() -> frozenset[str]:
    """How files of these formats end, as ".png"."""
    formats = openable()
    return frozenset(suffix for suffix, name in PIL.Image.registered_extensions().items() if name in formats)


def orientation(image: Image) -> int:
    """How the camera was held, from 1 to 8 as in EXIF."""
    return image.getexif().get(Base.Orientation, 1)


def least_size(image: Image, cover: Grid) -> tuple[int, int]:
    """Width and height, as the picture lies, that must not be gone below to cut `cover` from it."""
    height, width = (OVERSAMPLING * side for side in cover)
    return (height, width) if orientation(image) in SIDEWAYS else (width, height)


def plain(image: Image, channels: int, background: str = BACKGROUND, cover: Grid | None = None) -> Image:
    """A copy of a picture: upright, opaque, in mode L (1 channel) or RGB (3); without what a file says besides.

    What is transparent shows the background. 16-bit grey is scaled by its range; `value_range` tells that of mode I
    and F. With `cover`, as in `decode`, it is reduced by averaging, so that only the original is ever there in full.

    Raises:
        ValueError: for a mode without a way to RGB, and for pixels that are no numbers.
        Exception: whatever Pillow raises for a file that it has opened, but cannot decode.
    """
    mode = "L" if channels == 1 else "RGB"
    image.load()  # which turns TIFFs upright by itself
    step = 1 if cover is None else reduction(image.size, least_size(image, cover))
    limits = value_range(image)
    converted = PIL.Image.new(mode, (-(-image.width // step), -(-image.height // step)))
    rows = step * max(1, CONVERTED_AT_ONCE // (image.width * step))
    for top in range(0, image.height, rows):
        strip = image.crop((0, top, image.width, min(top + rows, image.height)))
        shown = opaque(narrowed(strip, limits), background).convert(mode)
        converted.paste(shown.reduce(step), (0, top // step))
    turn = TURNS.get(orientation(image))
    return converted if turn is None else converted.transpose(turn)


def reduction(size: tuple[int, int], least: tuple[int, int]) -> int:
    """The greatest power of two by which an image can be reduced and not be smaller than `least`; 1 if none can."""
    times = min(whole // part for whole, part in zip(size, least, strict=True))
    return 1 << max(0, times.bit_length() - 1)


def value_range(image: Image) -> tuple[float, float]:
    """The values of a picture that are black and white.

    In mode I and F nothing says so but the values themselves: it is the least of 0 to 1, 0 to 255 and 0 to 65535 that
    holds them all, but if they fill less than a hundredth of it, or none does, their own range.
    """
    if image.mode not in ("I", "F"):
        return (0, 65535) if image.mode.startswith("I;16") else (0, 255)
    low, high = image.getextrema()
    assert isinstance(low, (int, float))
    assert isinstance(high, (int, float))
    for top in (1, 255, 65535):
        if low >= 0 and high <= top and (top == 1 or high > top / 100):
            return 0, top
    return low, high


def narrowed(image: Image, limits: tuple[float, float]) -> Image:
    """A picture of more than 8 bits a pixel in 8, rounded (Pillow's own conversion clips); others as they are."""
    if image.mode not in ("I", "F") and not image.mode.startswith("I;16"):
        return image
    low, high = limits
    values = np.asarray(image).astype(np.float64)
    if not np.isfinite(values).all():
        raise ValueError("expected finite pixels, got NaN or infinity")
    scaled = (values - low) * (255 / (high - low) if high > low else 0.0)
    narrow = PIL.Image.fromarray((scaled.clip(0, 255) + 0.5).astype(np.uint8))
    if image.has_transparency_data:
        hidden = values == image.info["transparency"]
        narrow.putalpha(PIL.Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8)))
    return narrow


def opaque(image: Image, background: str) -> Image:
    """A picture in front of a background, in mode RGBA; one without transparency as it is."""
    if not image.has_transparency_data:
        return image
    above = image.convert("RGBA")
    return PIL.Image.alpha_composite(PIL.Image.new("RGBA", above.size, background), above)
