"""Pictures of every kind, and files that are none or had better stay closed."""

from __future__ import annotations

import io
import os
import socket
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
from PIL import Image

from flowar.data.opening import FORMATS, MOST_BYTES, decode, image_suffixes, open_image, openable, plain


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> io.BytesIO:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([columns * 255 // width, rows * 255 // height, 0 * rows], -1).astype(np.uint8))


def orientation(value: int) -> Image.Exif:
    exif = Image.Exif()
    exif[274] = value
    return exif


def greys(image: Image.Image) -> list[list[int]]:
    return np.array(plain(image, 1)).tolist()


class TestModes:
    def test_plain(self) -> None:
        image = gradient(6, 4)
        assert decode(encoded(image), 3) == image
        assert decode(encoded(image), 1) == image.convert("L")
        assert decode(encoded(image.convert("L")), 3).mode == "RGB"

    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
    def test_16_bits(self, kind: str) -> None:
        values = np.uint16([[0, 127, 129, 257, 32896, 65535]])
        assert np.array(decode(encoded(Image.fromarray(values), kind), 1)).tolist() == [[0, 0, 1, 1, 128, 255]]

    def test_transparent_grey_of_16_bits(self) -> None:
        image = Image.fromarray(np.uint16([[1000, 32896]]))
        assert np.array(decode(encoded(image, transparency=1000), 1)).tolist() == [[255, 128]]

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([0, 0.5, 1], [0, 128, 255]),
            ([0, 0.25, 0.5], [0, 64, 128]),
            ([0, 100, 255], [0, 100, 255]),
            ([0, 257, 25700], [0, 1, 100]),
            ([0, 0.3, 1.2], [0, 64, 255]),  # brighter than white: no picture of 255 levels is that dark
            ([-1, 0, 1], [0, 128, 255]),
            ([0, 35000, 70000], [0, 128, 255]),
            ([7e8, 7e8, 7e8], [0, 0, 0]),
        ],
    )
    def test_floats_by_the_range_that_they_have(self, values: list[float], expected: list[int]) -> None:
        image = Image.fromarray(np.float32([values]))
        assert np.array(decode(encoded(image, "TIFF"), 1)).tolist() == [expected]

    @pytest.mark.parametrize(
        ("values", "expected"),
        [
            ([0, 1, 1], [0, 255, 255]),
            ([0, 100, 255], [0, 100, 255]),
            ([0, 257, 25700], [0, 1, 100]),
            ([0, 35000, 70000], [0, 128, 255]),
            ([-10, 0, 10], [0, 128, 255]),
        ],
    )
    def test_integers_by_the_range_that_they_have(self, values: list[int], expected: list[int]) -> None:
        assert greys(Image.fromarray(np.int32([values]))) == [expected]

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_pixels_that_are_no_numbers(self, value: float) -> None:
        with pytest.raises(ValueError, match="expected finite pixels, got NaN or infinity"):
            decode(encoded(Image.fromarray(np.float32([[0, value, 1]])), "TIFF"), 1)

    def test_palette(self) -> None:
        image = gradient(8, 8).quantize(16)
        assert decode(encoded(image), 3) == image.convert("RGB")

    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_what_is_transparent_shows_the_background(self, mode: str) -> None:
        image = Image.new(mode, (3, 1), 0)  # black, and nothing of it to be seen
        image.putpixel((1, 0), (100,) * (len(mode) - 1) + (255,))
        image.putpixel((2, 0), (100,) * (len(mode) - 1) + (51,))  # a fifth
        assert np.array(decode(encoded(image), 1)).tolist() == [[255, 100, 224]]
        assert np.array(decode(encoded(image), 1, background="black")).tolist() == [[0, 100, 20]]

    def test_transparent_colour_of_a_palette(self) -> None:
        image = Image.new("P", (2, 1))
        image.putpalette([10, 20, 30, 40, 50, 60])
        image.putpixel((1, 0), 1)
        got = np.array(decode(encoded(image, "GIF", transparency=1), 3)).tolist()
        assert got == [[[10, 20, 30], [255, 255, 255]]]

    def test_cmyk(self) -> None:
        image = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
        red, green, blue = decode(encoded(image, "JPEG", quality=95), 3).getpixel((4, 4))
        assert red > 240
        assert max(green, blue) < 15

    def test_large_pictures_are_converted_in_strips(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = Image.effect_noise((30, 50), 40).convert("RGBA")
        whole.putalpha(Image.effect_noise((30, 50), 40))
        once = plain(whole, 3)
        monkeypatch.setattr("flowar.data.opening.CONVERTED_AT_ONCE", 100)
        assert plain(whole, 3) == once

    def test_nothing_is_done_twice(self) -> None:
        once = decode(encoded(gradient(6, 4), exif=orientation(6)), 3)
        assert plain(once, 3) == once

    def test_the_picture_given_stays_as_it_is(self) -> None:
        image = Image.open(encoded(gradient(6, 4), exif=orientation(6)))
        assert plain(image, 3).size == (4, 6)
        assert image.size == (6, 4)
        grey = Image.new("L", (2, 2))
        plain(grey, 1).putpixel((0, 0), 9)
        assert grey.getpixel((0, 0)) == 0


class TestOrientation:
    @pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
    @pytest.mark.parametrize(
        ("value", "turn"),
        [
            (1, None),
            (2, Image.Transpose.FLIP_LEFT_RIGHT),
            (3, Image.Transpose.ROTATE_180),
            (4, Image.Transpose.FLIP_TOP_BOTTOM),
            (5, Image.Transpose.TRANSPOSE),
            (6, Image.Transpose.ROTATE_270),
            (7, Image.Transpose.TRANSVERSE),
            (8, Image.Transpose.ROTATE_90),
            (99, None),
        ],
    )
    def test_upright(self, kind: str, value: int, turn: Image.Transpose | None) -> None:
        image = gradient(6, 4)
        options = {"lossless": True} if kind == "WEBP" else {}
        got = decode(encoded(image, kind, exif=orientation(value), **options), 3)
        assert got == (image if turn is None else image.transpose(turn))

    def test_an_exif_block_that_cannot_be_written_again_is_read(self) -> None:
        exif = orientation(6)
        exif[282] = 72.0
        content = encoded(gradient(16, 8), "JPEG", exif=exif).getvalue()
        damaged = content.replace(b"\x01\x1a\x00\x05", b"\x01\x1a\x00\x02")  # the resolution as text
        assert damaged != content
        assert decode(io.BytesIO(damaged), 3).size == (8, 16)


class TestReducedScale:
    @pytest.mark.parametrize("kind", ["JPEG", "MPO"])
    def test_large_photos_are_decoded_at_the_scale_that_suffices(self, kind: str) -> None:
        photo = gradient(1600, 1200)
        content = encoded(photo, kind, quality=95)
        small = decode(content, 3, cover=(60, 60))
        assert small.size == (200, 150)
        exact = photo.resize(small.size, Image.Resampling.BOX)
        assert np.abs(np.array(small).astype(int) - np.array(exact)).mean() < 1.5
        assert decode(content, 3, cover=(300, 400)).size == (800, 600)
        assert decode(content, 3, cover=(601, 10)).size == (1600, 1200)
        assert decode(content, 3).size == (1600, 1200)

    @pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "P", "I;16", "F"])
    def test_others_are_reduced_while_they_are_converted(self, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
        values = np.add.outer(np.arange(30), np.arange(41) * 3).astype(np.uint8)
        picture = {
            "I;16": Image.fromarray(values.astype(np.uint16) * 257),
            "F": Image.fromarray(values / np.float32(255)),
        }
        image = picture.get(mode) or Image.fromarray(values).convert(mode)
        expected = np.array(plain(image, 1).reduce(4)).astype(int)
        for at_once in (1, 41 * 8, 2**22):
            monkeypatch.setattr("flowar.data.opening.CONVERTED_AT_ONCE", at_once)
            reduced = plain(image, 1, cover=(3, 4))
            assert reduced.size == (11, 8)
            assert np.abs(np.array(reduced) - expected).max() <= 1
        assert plain(image, 1, cover=(8, 10)).size == image.size

    def test_of_a_photo_that_lies_on_its_side(self) -> None:
        content = encoded(gradient(1600, 400), "JPEG", exif=orientation(6))
        assert decode(content, 3, cover=(400, 100)).size == (200, 800)
        assert decode(content, 3, cover=(100, 400)).size == (400, 1600)


class TestFormats:
    def test_first_picture_of_an_animation(self) -> None:
        frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue", "green")]
        for kind in ("GIF", "PNG", "WEBP", "TIFF"):
            options = {"lossless": True} if kind == "WEBP" else {}
            content = encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)
            assert decode(content, 3).getpixel((0, 0)) == (255, 0, 0)

    @pytest.mark.parametrize(
        "kind", ["AVIF", "BMP", "DDS", "DIB", "ICNS", "ICO", "JPEG2000", "PCX", "PPM", "QOI", "SGI", "TGA"]
    )
    def test_others_that_pillow_writes(self, kind: str) -> None:
        if kind not in openable():
            pytest.skip(f"this Pillow opens no {kind}")
        red, green, blue = decode(encoded(Image.new("RGB", (32, 32), (200, 100, 0)), kind), 3).getpixel((3, 3))
        assert abs(red - 200) + abs(green - 100) + blue < 12

    def test_suffixes(self) -> None:
        assert {".jpg", ".jfif", ".png", ".webp", ".tif", ".jp2", ".ico"} <= image_suffixes()
        assert not {".pdf", ".eps", ".ps", ".mpg", ".h5", ".wmf", ".fits", ".txt"} & image_suffixes()

    def test_nothing_starts_ghostscript(self) -> None:
        eps = encoded(Image.new("RGB", (4, 4)), "EPS")
        with pytest.raises(ValueError, match="of no format that is read here"):
            decode(eps, 3)
        assert not {"EPS", "WMF", "MPEG", "HDF5"} & {*FORMATS}


class TestRefused:
    @pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
    def test_truncated(self, share: float) -> None:
        content = encoded(Image.effect_noise((64, 64), 50)).getvalue()
        with pytest.raises(ValueError, match=r"\w"):
            decode(io.BytesIO(content[: int(len(content) * share)]), 3)

    @pytest.mark.parametrize("content", [b"", b"no image", bytes(10_000)])
    def test_no_picture(self, content: bytes) -> None:
        with pytest.raises(ValueError, match="of no format that is read here"):
            decode(io.BytesIO(content), 3)

    def test_more_pixels_than_pillow_allows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        content = encoded(Image.new("1", (300, 200)))
        monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 30_000)
        assert decode(content, 1).size == (300, 200)  # no warning reaches anybody either
        monkeypatch.setattr(PIL.Image, "MAX_IMAGE_PIXELS", 29_999)
        with pytest.raises(ValueError, match="larger than 59998 pixels"):
            decode(content, 1)

    def test_more_bytes_than_a_picture_has(self, tmp_path: Path) -> None:
        path = tmp_path / "sparse.webp"
        with path.open("wb") as file:
            file.write(b"RIFF\xff\xff\xff\x7fWEBPVP8 ")
            file.truncate(MOST_BYTES + 1)
        with pytest.raises(ValueError, match=f"larger than {MOST_BYTES} bytes"):
            open_image(path, 3)

    def test_files_that_never_begin_or_never_end(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe.png")
        (tmp_path / "endless.png").symlink_to("/dev/zero")
        (tmp_path / "folder.png").mkdir()
        for name in ("pipe", "endless", "folder"):
            with pytest.raises(
                OSError, match=rf"expected a regular file, got a pipe, a device or a folder: '.*{name}\.png'"
            ):
                open_image(tmp_path / f"{name}.png", 3)
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(tmp_path / "socket.png"))
            with pytest.raises(OSError, match=r"socket\.png"):
                open_image(tmp_path / "socket.png", 3)
        (tmp_path / "round.png").symlink_to("round.png")
        with pytest.raises(OSError, match=r"Too many levels"):
            open_image(tmp_path / "round.png", 3)
