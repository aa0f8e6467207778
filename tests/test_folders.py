"""Folders as they are on real disks: one with every oddity, and roots whose folders are no classes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowar.data.folders import Ignored
from flowar.data.image_source import ImageSource
from flowar.data.opening import image_suffixes
from flowar.data.sources import open_images
from flowar.errors import DataError
from flowar.evaluation.images import open_stored

GREY = Image.new("L", (12, 8), 100)
LYING = Image.fromarray(np.uint8([[50] * 8 + [200] * 8] * 8))  # dark at the left, which EXIF 6 turns to the top


def write(path: Path, image: Image.Image = GREY, kind: str = "PNG", **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, kind, **options)


def write_pictures(folder: Path) -> None:
    """Pictures of many formats and modes."""
    exif = Image.Exif()
    exif[274] = 6
    write(folder / "camera.jpg", LYING, "JPEG", exif=exif, quality=95)
    write(folder / "download.jfif", GREY.convert("RGB"), "JPEG")
    write(folder / "UPPER.PNG")
    write(folder / "wrong.png", GREY, "BMP")
    write(folder / "folder.png" / "inside.png")
    write(folder / "drawing.webp", Image.new("RGBA", (8, 8), (0, 0, 0, 0)), "WEBP", lossless=True)
    write(folder / "film.gif", GREY, "GIF", save_all=True, append_images=[Image.new("L", (12, 8), 200)])
    write(folder / "print.jpg", Image.new("CMYK", (8, 8), (0, 0, 0, 155)), "JPEG", quality=95)
    write(folder / "scan.png", Image.fromarray(np.full((8, 8), 25700, np.uint16)))
    write(folder / "depth.tif", Image.fromarray(np.linspace(0, 1, 64, dtype=np.float32).reshape(8, 8)), "TIFF")
    write(folder / "labels.tif", Image.fromarray(np.full((8, 8), 100, np.int32)), "TIFF")
    write(folder / "thin.png", Image.new("L", (30_000, 1), 100))


def write_bad_files(folder: Path) -> None:
    """What looks like a picture, but cannot be read."""
    write(folder / "torn.png", Image.effect_noise((32, 32), 40))
    torn = (folder / "torn.png").read_bytes()
    (folder / "torn.png").write_bytes(torn[: len(torn) // 2])
    (folder / "text.png").write_text("no picture")
    (folder / "broken.png").symlink_to("nowhere.png")
    (folder / "endless.png").symlink_to("/dev/zero")
    os.mkfifo(folder / "pipe.png")


def write_junk(root: Path) -> None:
    """What systems and programs leave."""
    for name in (".ipynb_checkpoints/a.png", "__MACOSX/cats/._a.png", "dogs/@eaDir/a.png/thumb.png", "dogs/._dog.png"):
        write(root / name)
    for name in ("README.md", "dogs/Thumbs.db", "dogs/phone.heic", "dogs/note\x1b[31m.a\nb", "dogs/LICENSE"):
        (root / name).write_text("no picture")
    write(root / "cover.png")
    (root / "dogs" / "back").symlink_to("..")
    (root / "dogs" / "round").symlink_to(".")
    (root / "again").symlink_to(".")
    (root / "birds").symlink_to("unmounted")


@pytest.fixture
def oddities(tmp_path: Path) -> Path:
    """Two classes of pictures and much besides; one of them lies elsewhere."""
    root = tmp_path / "photos"
    write_pictures(root / "cats")
    write(tmp_path / "elsewhere" / "dog.png")
    root.joinpath("dogs").symlink_to(tmp_path / "elsewhere")
    write_bad_files(root / "cats")
    write_junk(root)
    return root


def readings(source: ImageSource) -> dict[str, str]:
    """What each image is read as: its class, and grey levels from the least to the greatest; or what is said of it."""
    found = {}
    for index in range(len(source)):
        try:
            pixels = source.cut(index)[0]
            found[source.name(index)] = f"class {source.labels[index]}, {pixels.min()} to {pixels.max()}"
        except DataError as error:
            found[source.name(index)] = str(error).rpartition("expected a readable image ")[2]
    return found


def test_one_folder_with_every_oddity(oddities: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        source = open_images(oddities, image_size=8, channels=1)
    assert source.class_names == ("cats", "dogs")
    nonsense = "(of no format that is read here, or damaged from the first bytes on)"
    irregular = "expected a regular file, got a pipe, a device or a folder"
    found = readings(source)
    assert found.pop("cats/torn.png").startswith("(")  # in words of Pillow, which may change
    assert found == {
        "cats/UPPER.PNG": "class 0, 100 to 100",
        "cats/broken.png": "(No such file or directory)",
        "cats/camera.jpg": "class 0, 50 to 200",
        "cats/depth.tif": "class 0, 0 to 255",
        "cats/download.jfif": "class 0, 100 to 100",
        "cats/drawing.webp": "class 0, 255 to 255",
        "cats/endless.png": f"({irregular})",
        "cats/film.gif": "class 0, 100 to 100",
        "cats/folder.png/inside.png": "class 0, 100 to 100",
        "cats/labels.tif": "class 0, 100 to 100",
        "cats/pipe.png": f"({irregular})",
        "cats/print.jpg": "class 0, 100 to 100",
        "cats/scan.png": "class 0, 100 to 100",
        "cats/text.png": nonsense,
        "cats/thin.png": "class 0, 100 to 100",
        "cats/wrong.png": "class 0, 100 to 100",
        "dogs/dog.png": "class 1, 100 to 100",
    }
    camera = source.cut([*readings(source)].index("cats/camera.jpg"))[0, 0].float()
    assert camera[0].mean() < 60 < 190 < camera[-1].mean()
    kinds = "links to where they come from 3, hidden 2, without a known suffix 2, @eaDir 1, __MACOSX 1"
    kinds += ", broken links 1, images outside of the class folders 1, .db 1, .heic 1, .md 1"
    assert caplog.messages == [f"{oddities}: 18 images, 2 classes; ignored 14: {kinds}"]


def test_images_without_class_folders_are_one_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("b.png", "a.png", ".hidden.png"):
        write(tmp_path / "cats" / name)
    (tmp_path / "cats" / "raw").mkdir()
    with caplog.at_level(logging.INFO):
        source = open_images(tmp_path / "cats", image_size=8)
    assert (source.class_names, source.labels.tolist()) == (("cats",), [0, 0])
    assert [source.name(index) for index in range(2)] == ["a.png", "b.png"]
    said = "2 images, one class, as no folder in it has images; ignored 2: folders without images 1, hidden 1"
    assert caplog.messages == [f"{tmp_path / 'cats'}: {said}"]


def test_links_that_multiply(tmp_path: Path) -> None:
    """Thirty folders, each with two links to the next one, are a thousand million paths to one picture."""
    for number in range(30):
        (tmp_path / f"{number:02}").mkdir()
        for name in ("left", "right"):
            (tmp_path / f"{number:02}" / name).symlink_to(tmp_path / f"{number + 1:02}")
    write(tmp_path / "30" / "a.png")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cats").symlink_to(tmp_path / "00")
    assert len(open_images(tmp_path / "photos")) == 1


def build(root: Path, names: Iterable[str]) -> Path:
    """Pictures of these names, and empty files with other suffixes."""
    for name in names:
        if Path(name).suffix in image_suffixes():
            write(root / name)
        else:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).touch()
    return root


LAYOUTS: Mapping[str, tuple[list[str], str]] = {
    "splits": (
        ["train/cats/a.png", "train/dogs/b.png", "val/cats/c.png", "README"],
        r"expected one folder a class, got splits \(train, val\): give one of them, as .*photos/train",
    ),
    "flat splits": (["Training/a.png", "Testing/b.png"], r"got splits \(Testing, Training\)"),
    "splits of COCO": (
        ["train2017/a.png", "val2017/b.png", "annotations/x.json"],
        r"got splits \(train2017, val2017\)",
    ),
    "splits and more": (["test/a.png", "train/a.png", "samples/a.png"], r"got splits \(samples, test, train\)"),
    "one split": (
        ["train/cats/a.png", "train/dogs/b.png"],
        r"got splits \(train\): give one of them, as .*photos/train",
    ),
    "images and labels": (["images/a.png", "labels.csv"], r"got labels\.csv for all images; no table is read"),
    "images with labels": (["images/a.png", "images/metadata.jsonl"], r"images: .* got metadata\.jsonl for all images"),
    "flat with labels": (["a.png", "b.png", "image_labels.txt"], r"got image_labels\.txt for all images"),
    "images and masks": (["images/a.png", "masks/a.png"], r"got images, masks, whose names are not those of classes"),
    "one too deep": (
        ["images/cats/a.png", "images/dogs/a.png"],
        r"got images with folders in it: give .*/images",
    ),
    "unpacked twice": (
        ["photos/cats/a.png", "photos/dogs/a.png"],
        r"got photos with folders in it: give .*/photos",
    ),
    "an empty class": (
        ["cats/a.png", "dogs/b.heic"],
        r"dogs: expected images in every .* \(ignored 1: \.heic 1\)",
    ),
    "nothing read": (["a.heic", "b.heic"], r"found none of them \(ignored 2: \.heic 2\)"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_folders_that_are_no_classes(tmp_path: Path, layout: str) -> None:
    names, message = LAYOUTS[layout]
    with pytest.raises(DataError, match=message):
        open_images(build(tmp_path / "photos", names))


@pytest.mark.parametrize(
    ("names", "classes"),
    [
        (["cats/2023/a.png", "cats/2024/b.png"], ("cats",)),
        (["train/a.png", "plane/b.png"], ("plane", "train")),
        (["train/a.png"], ("train",)),
        (["images/a.png", "readme.txt"], ("images",)),
        (["cats/a.png", "dogs/b.png", "labels.csv"], ("cats", "dogs")),
        (["a.png", "a.png.json", "notes.txt"], ("photos",)),
        (["10/a.png", "9/a.png", "1/a.png"], ("1", "10", "9")),
    ],
)
def test_folders_that_are_classes(tmp_path: Path, names: list[str], classes: tuple[str, ...]) -> None:
    assert open_images(build(tmp_path / "photos", names)).class_names == classes


def test_hidden_root(tmp_path: Path) -> None:
    assert open_images(build(tmp_path / ".cache" / "photos", ["cats/a.png", "dogs/a.png"])).class_names == (
        "cats",
        "dogs",
    )


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_folder_that_may_not_be_read(tmp_path: Path) -> None:
    build(tmp_path, ["cats/a.png", "cats/more/b.png"])
    (tmp_path / "cats" / "more").chmod(0)
    with pytest.raises(DataError, match=r"more: expected a readable folder \(.*Permission denied"):
        open_images(tmp_path)


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"data: expected a folder, got .*a\.png \(a file\)"):
        open_images(tmp_path / "a.png")


def test_flat_folders_to_evaluate(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Their images have no labels, and what else is there plays no part."""
    folder = build(tmp_path, ["a.png", "._a.png", "b.jfif", "grids/c.png", "labels.csv"])
    with caplog.at_level(logging.INFO):
        images = open_stored(str(folder), 1)
    assert (len(images), images.labels) == (2, None)
    assert caplog.messages == [f"{folder}: 2 images; ignored 3: folders 1, hidden 1, .csv 1"]


def test_nothing_ignored_is_not_mentioned() -> None:
    nothing = Ignored()
    nothing.add("hidden", 0)
    assert str(nothing) == ""
