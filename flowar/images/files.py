"""Pictures as files, which say of themselves what they show: as text of a PNG, as Exif of a JPEG or a WebP."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from flowar.errors import FlowARError, first_line
from flowar.system.arguments import check_path
from flowar.system.files import open_regular, write_aside
from flowar.system.picture_paths import ENDINGS, FORMATS

if TYPE_CHECKING:
    from PIL.Image import Image

DESCRIPTION = 0x010E  # the tag of Exif that programs show as the description of a picture
SAVING: dict[str, dict[str, Any]] = {
    "PNG": {},
    "JPEG": {"quality": 95, "subsampling": 0},
    "WEBP": {"lossless": True},
}
LONGEST_SIDE = {"PNG": 2**31 - 1, "JPEG": 65_500, "WEBP": 16_383}  # pixels


def write_picture(path: str | Path, image: Image, record: Mapping[str, str] | None = None) -> None:
    """Write a picture, aside first, in the format that the ending of `path` names: a WebP without loss, as a PNG is.

    Args:
        path: a file that ends in .png, .jpg, .jpeg or .webp.
        image: a PIL image.
        record: what is to be known of it, by name, as `read_record` reads it.

    Raises:
        ValueError: for another ending, and for a picture that is too large for the format.
        OSError: if writing fails; what was at `path` stays as it was.
    """
    path = check_path("path", path)
    form = FORMATS.get(path.suffix.lower())
    if form is None:
        raise FlowARError(f"path: expected a file that ends in {ENDINGS}, got {path}")
    write_aside(path, lambda aside: save_picture(aside, image, form, record))


def save_picture(file: Path | IO[bytes], image: Image, form: str, record: Mapping[str, str] | None = None) -> None:
    """Write a picture into a file in a format of `FORMATS`, with its record."""
    check_side("image", image.size, form)
    if form == "JPEG" and image.mode not in ("L", "RGB"):
        image = image.convert("RGB")
    image.save(file, form, **SAVING[form], **embedded(form, record or {}))


def check_side(name: str, size: tuple[int, int], form: str) -> None:
    """Check that a format can hold a picture of (width, height).

    Raises:
        FlowARError: if it cannot, naming the option that asks for the picture.
    """
    if max(size) > LONGEST_SIDE[form]:
        raise FlowARError(
            f"{name}: expected at most {LONGEST_SIDE[form]} pixels a side for {form}, got {size[0]}x{size[1]}"
        )


def embedded(form: str, record: Mapping[str, str]) -> dict[str, Any]:
    """The arguments with which Pillow writes a record into a file."""
    if not record:
        return {}
    if form == "PNG":
        from PIL.PngImagePlugin import PngInfo

        chunks = PngInfo()
        for name, value in record.items():
            chunks.add_text(name, value)
        return {"pnginfo": chunks}
    from PIL.Image import Exif

    exif = Exif()
    exif[DESCRIPTION] = json.dumps(dict(record))  # in ASCII, as the tag wants it
    return {"exif": exif}


def read_record(path: str | Path) -> dict[str, str]:
    """What a picture says of itself, by name; nothing if it says nothing.

    Pictures of `flowar sample` and `flowar edit` have `model`, `class`, `seed`, `schedule` (the JSON that
    `flowar sample --schedule` takes), `dtype` and `software`.

    Raises:
        FlowARError: for a file that is no picture.
        OSError: for one that cannot be read.

    Example:
        ```python
        read_record("bag.png")["seed"]
        ```
    """
    from PIL import Image

    path = check_path("path", path)
    with open_regular(path) as file:
        try:
            with Image.open(file) as image:
                image.load()
                texts = getattr(image, "text", None)
                described = image.getexif().get(DESCRIPTION, "")
        except Exception as error:  # damaged pictures make Pillow fail in many ways
            raise FlowARError(f"{path}: expected a picture, got what cannot be read ({first_line(error)})") from error
    if texts:
        return {name: str(value) for name, value in texts.items()}
    try:
        found = json.loads(described)
    except ValueError:  # another program's words
        return {"description": str(described)} if described else {}
    return {str(name): str(value) for name, value in found.items()} if isinstance(found, dict) else {}
