"""Class folders of emoji, from packages made up here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from experiments import emoji
from experiments.emoji import CLASSES, HELD_OUT_EVERY, EmojiClass
from flowar.errors import DataError

TONES = ("1F3FB", "1F3FC")
FRUIT = 2 * HELD_OUT_EVERY


def drawing(path: Path, colour: tuple[int, ...]) -> None:
    """A transparent picture of 64x64, its left half of one colour."""
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.new("RGBA", (64, 64))
    picture.paste((*colour, 255), (0, 0, 32, 64))
    picture.save(path)


def entry(name: str, subcategory: str, order: int, tones: tuple[str, ...] = ()) -> dict[str, Any]:
    variations = {tone: {"image": f"{name}-{tone}.png"} for tone in tones}
    about = {"short_name": name, "subcategory": subcategory, "sort_order": order, "unified": name.upper()}
    return about | {"image": f"{name}.png"} | ({"skin_variations": variations} if tones else {})


def write_package(folder: Path, source: str) -> Path:
    """Fruit, two of them drawn alike; a hand of three skin tones; a flag; a clock; a taxi; something of no class."""
    entries = [entry(f"fruit{number:02}", "food-fruit", number) for number in range(FRUIT)]
    entries += [entry("wave", "hand-fingers-open", 100, TONES), entry("flag", "country-flag", 101)]
    entries += [entry("clock1", "time", 102), entry("taxi", "transport-ground", 103), entry("hammer", "tool", 104)]
    pictures = folder / "img" / source / "64"
    for number, each in enumerate(reversed(entries)):  # in another order than that of keyboards
        drawing(pictures / each["image"], (number, 0, 0))
        for shade, tone in enumerate(each.get("skin_variations", {}).values(), 1):
            drawing(pictures / tone["image"], (number, shade, 0))
    twin, held_out = FRUIT - 1, HELD_OUT_EVERY // 2
    (pictures / f"fruit{twin:02}.png").write_bytes((pictures / f"fruit{held_out:02}.png").read_bytes())
    (folder / "emoji.json").write_text(json.dumps(entries[::-1]))
    (folder / "package.json").write_text(json.dumps({"name": f"emoji-datasource-{source}"}))
    return folder


@pytest.fixture
def packages(tmp_path: Path) -> list[Path]:
    return [write_package(tmp_path / source, source) for source in ("google", "twitter")]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*"))


def write(packages: list[Path], output: Path) -> None:
    emoji.main([*map(str, packages), "--size", "32", "--output", str(output)])


def test_classes(packages: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(packages, tmp_path / "out")
    assert names(tmp_path / "out") == ["ATTRIBUTION.md", "held_out", "train"]
    assert names(tmp_path / "out" / "train") == ["clocks", "flags", "fruit", "hands", "vehicles"]
    held_out = [f"{source}-fruit{n:02}.png" for source in ("google", "twitter") for n in (4, 12, 15)]
    assert names(tmp_path / "out" / "held_out" / "fruit") == held_out  # the last one is drawn as the first
    shown = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert shown["fruit"] == f"{2 * 2 * (FRUIT - 3)} pictures to train on, 6 held out"
    assert set(shown) == set(CLASSES)


def test_skin_tones_and_mirrored_copies(packages: list[Path], tmp_path: Path) -> None:
    write(packages[:1], tmp_path / "out")
    train = tmp_path / "out" / "train"
    hands = ["google-wave", *(f"google-wave-{tone}" for tone in TONES)]
    assert names(train / "hands") == sorted(f"{hand}{end}.png" for hand in hands for end in ("", "-mirrored"))
    assert names(train / "flags") == ["google-flag.png"]
    assert names(train / "clocks") == ["google-clock1.png"]
    assert names(train / "vehicles") == ["google-taxi.png"]  # which has writing on it
    picture, mirrored = (Image.open(train / "hands" / f"google-wave{end}.png") for end in ("", "-mirrored"))
    assert picture.size == mirrored.size == (32, 32)
    assert picture.mode == "RGB"
    assert picture.getpixel((31, 0)) == mirrored.getpixel((0, 0)) == (255, 255, 255)
    assert picture.getpixel((0, 0)) == mirrored.getpixel((31, 0)) != (255, 255, 255)


def test_attribution(packages: list[Path], tmp_path: Path) -> None:
    write(packages, tmp_path / "out")
    text = (tmp_path / "out" / "ATTRIBUTION.md").read_text()
    for word in ("Noto Emoji", "Apache License 2.0", "Twemoji", "CC-BY 4.0", "emoji-datasource-google", "mirrored"):
        assert word in text


def test_pictures_that_a_package_lacks(packages: list[Path], tmp_path: Path) -> None:
    (packages[1] / "img" / "twitter" / "64" / "fruit00.png").unlink()
    write(packages, tmp_path / "out")
    assert [name for name in names(tmp_path / "out" / "train" / "fruit") if "fruit00" in name] == [
        "google-fruit00-mirrored.png",
        "google-fruit00.png",
    ]


def test_another_package(packages: list[Path], tmp_path: Path) -> None:
    (packages[0] / "package.json").write_text('{"name": "emoji-datasource-apple"}')
    with pytest.raises(
        DataError, match=r"expected the package emoji-datasource-google or .*, got emoji-datasource-apple"
    ):
        write(packages, tmp_path / "out")


def test_members_of_a_class() -> None:
    members = EmojiClass(("face",), ("extra",), ("odd",))
    found = [
        members.has({"short_name": name, "subcategory": kind})
        for name, kind in (("one", "face"), ("odd", "face"), ("extra", "other"), ("two", "other"))
    ]
    assert found == [True, False, True, False]
