"""Wrong pictures and masks, and odd ones that are right."""

from __future__ import annotations

import io
import random
import struct
import zlib
from functools import cache

import numpy as np
from PIL import Image, ImageOps

from campaign.case import Case, Fault, Ground
from campaign.documents import flipped
from campaign.verdict import Expected

REFUSED, EITHER, ACCEPTED = Expected.REFUSED, Expected.EITHER, Expected.ACCEPTED
HUGE_GIF = b"GIF89a\xff\xff\xff\xff\x80\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\2\2\x44\1\0;"
HUGE_BMP = b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0)


def wrong_picture(ground: Ground) -> Case:
    """A picture to edit, or one of many to learn from, with one thing wrong, or only odd."""
    command, path = ground.reader("picture.png", "small.png", "f*.png")
    rng = ground.random
    fault = rng.choice((broken, broken, odd))(rng, path.read_bytes(), alone=path.parent == ground.work)
    return ground.spoil(command, path, (*fault[:2], EITHER) if command.goes_on else fault)


def broken(rng: random.Random, png: bytes, alone: bool) -> Fault:
    """A picture that cannot be read; `alone` says that it is the one to edit, whose size matters."""
    faults: list[Fault] = [
        ("cut off", png[: rng.randrange(1, len(png) - 60)], REFUSED),
        ("empty", b"", REFUSED),
        ("random bytes", rng.randbytes(500), REFUSED),
        ("text", b"<html><body>404 Not Found</body></html>", REFUSED),
        ("a bit flipped", flipped(rng, png), EITHER),
        ("a bomb", header_of_png(60_000, 60_000), REFUSED),
        ("a bomb in one row", header_of_png(2**31 - 1, 1), REFUSED),
        ("of no size", header_of_png(0, 0), REFUSED),
        ("pixels missing", header_of_png(28, 28) + chunk(b"IDAT", zlib.compress(bytes(100))), REFUSED),
        ("a bomb of text", png[:33] + chunk(b"zTXt", b"a\0\0" + zeros_compressed()) + png[33:], EITHER),
        ("a thousand chunks", png[:33] + chunk(b"tEXt", b"a\0b") * 1000 + png[33:], EITHER),
        ("of Postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 28 28\n(RAN) (w) file closefile\n", REFUSED),
        ("of vectors", b'<svg xmlns="http://www.w3.org/2000/svg" width="28" height="28"/>', REFUSED),
        ("FITS", b"SIMPLE  =                    T".ljust(80) + b"BITPIX  =  8".ljust(80) + b"END".ljust(2720), REFUSED),
        ("a TIFF that points to itself", b"II*\0\x08\0\0\0\1\0\0\1\3\0\1\0\0\0\x1c\0\0\0\x08\0\0\0", REFUSED),
        ("a TIFF of NaN", encoded(Image.fromarray(np.full((28, 28), np.nan, np.float32)), "TIFF"), REFUSED),
        ("a GIF of 65535x65535", HUGE_GIF, REFUSED),
        ("a BMP of a billion rows", HUGE_BMP, REFUSED),
        ("an icon without a picture", b"\0\0\1\0\1\0\x1c\x1c\0\0\1\0\x20\0\xff\xff\0\0\x16\0\0\0", REFUSED),
        ("a JPEG that stops", encoded(Image.new("L", (28, 28)), "JPEG")[:200], REFUSED),
        ("a PSD without layers", b"8BPS\0\1" + bytes(6) + struct.pack(">HIIHH", 1, 28, 28, 8, 1) + bytes(12), EITHER),
    ]
    if alone:
        faults += [
            ("a pixel too wide", encoded(Image.new("L", (29, 28))), EITHER),
            ("long and thin", encoded(Image.new("L", (20_000, 1))), EITHER),
            ("a single pixel", encoded(Image.new("L", (1, 1))), EITHER),
        ]
    return rng.choice(faults)


def odd(rng: random.Random, png: bytes, alone: bool) -> Fault:
    """A picture that must be read, of an uncommon kind."""
    image = Image.open(io.BytesIO(png)).convert("L")
    values = np.asarray(image).astype(np.uint16) * 257
    rotated = Image.Exif()
    rotated[0x0112] = rng.choice(range(2, 9))
    faults: list[Fault] = [
        *(
            (f"of mode {mode}", encoded(image.convert(mode), "TIFF" if mode == "CMYK" else "PNG"), ACCEPTED)
            for mode in ("1", "LA", "P", "RGB", "RGBA", "CMYK")
        ),
        ("of 16 bits", encoded(Image.fromarray(values)), ACCEPTED),
        ("of integers", encoded(Image.fromarray(values.astype(np.int32)), "TIFF"), ACCEPTED),
        ("of floats", encoded(Image.fromarray(values.astype(np.float32) / 65535), "TIFF"), ACCEPTED),
        ("turned", encoded(image, "JPEG", exif=rotated), ACCEPTED),
        ("an animation", encoded(image, "GIF", save_all=True, append_images=[ImageOps.invert(image)]), ACCEPTED),
        ("a GIF", encoded(image, "GIF"), ACCEPTED),
        ("a WebP", encoded(image, "WEBP"), ACCEPTED),
        ("a BMP", encoded(image, "BMP"), ACCEPTED),
        ("with EXIF that is none", encoded(image, "JPEG", exif=b"Exif\0\0" + rng.randbytes(50)), ACCEPTED),
    ]
    if not alone:
        faults += [
            ("long and thin", encoded(Image.new("L", (20_000, 1))), ACCEPTED),
            ("high and thin", encoded(Image.new("RGB", (1, 20_000))), ACCEPTED),
            ("a single pixel", encoded(Image.new("L", (1, 1))), ACCEPTED),
            ("large", large(), ACCEPTED),
        ]
    return rng.choice(faults)


@cache
def large() -> bytes:
    return encoded(Image.new("L", (5000, 5000)))


def encoded(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def header_of_png(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))


@cache
def zeros_compressed() -> bytes:
    return zlib.compress(bytes(2**26))


def wrong_mask(ground: Ground) -> Case:
    """A mask with one thing wrong, or only odd."""
    command, path = ground.reader("mask.png")
    rng = ground.random
    mask = Image.open(path).convert("L")
    noisy = Image.fromarray(np.clip(np.asarray(mask).astype(int) + rng.randrange(-90, 90), 0, 255).astype(np.uint8))
    clear = mask.convert("RGBA")
    clear.putalpha(mask)
    faults: list[Fault] = [
        broken(rng, path.read_bytes(), alone=True),
        ("black", encoded(Image.new("L", mask.size)), REFUSED),
        ("almost black", encoded(Image.new("L", mask.size, 20)), REFUSED),
        ("transparent", encoded(Image.new("RGBA", mask.size, (255, 255, 255, 0))), REFUSED),
        ("of another size", encoded(mask.resize((14, 14))), REFUSED),
        ("a row too high", encoded(mask.resize((28, 29))), REFUSED),
        ("white", encoded(Image.new("L", mask.size, 255)), ACCEPTED),
        ("noisy", encoded(noisy, "JPEG"), ACCEPTED),
        ("of alpha", encoded(clear), ACCEPTED),
        *((f"of mode {mode}", encoded(mask.convert(mode)), ACCEPTED) for mode in ("1", "P", "RGB", "LA")),
    ]
    return ground.spoil(rng.choice((command, command.with_option("paste", "true"))), path, rng.choice(faults))
