"""Class folders of emoji to train on, from the unpacked npm packages `emoji-datasource-google` and `-twitter`.

    python -m experiments.emoji google/package twitter/package --size 32 --output data/emoji-32

docs/train.md says where they come from and what to do with them.

Ten classes, each of one look: what a small model can learn from a few dozen drawings. An emoji is in `train` or in
`held_out` with all of its skin tones, in the drawings of all packages; so is one that a package draws exactly as
another, as many flags are. `train` has mirrored copies beside the originals, but not of flags, clocks and emoji with
writing on them, so train without further flips. What is transparent becomes white.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from flowar.errors import DataError
from flowar.system.files import write_aside
from flowar.system.structured import read_json

HELD_OUT_EVERY = 8  # one emoji of so many, in their order, is held out

SOURCES = {
    "emoji-datasource-google": (
        "Noto Emoji, copyright Google LLC, Apache License 2.0, https://github.com/googlefonts/noto-emoji"
    ),
    "emoji-datasource-twitter": (
        "Twemoji, copyright Twitter, Inc. and other contributors, CC-BY 4.0 "
        "(https://creativecommons.org/licenses/by/4.0/), https://github.com/jdecked/twemoji"
    ),
}


@dataclass(frozen=True)
class EmojiClass:
    """Which emoji a class has.

    Attributes:
        subcategories: all emoji of these.
        named: and those of these short names.
        without: but none of these.
        mirrored: whether a mirrored picture is as good.
        written: short names of those with writing on them, which are not mirrored.
    """

    subcategories: tuple[str, ...] = ()
    named: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    mirrored: bool = True
    written: tuple[str, ...] = ()

    def has(self, emoji: Mapping[str, Any]) -> bool:
        name = emoji["short_name"]
        return name not in self.without and (emoji["subcategory"] in self.subcategories or name in self.named)


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


CLASSES = {
    "animals": EmojiClass(  # faces
        subcategories=("cat-face", "monkey-face"),
        named=words(
            "monkey_face dog wolf fox_face raccoon cat lion_face tiger horse moose unicorn_face cow pig boar mouse "
            "hamster rabbit bear polar_bear koala panda_face frog dragon_face chicken"
        ),
    ),
    "clocks": EmojiClass(
        named=tuple(f"clock{hour}{half}" for hour in range(1, 13) for half in ("", "30")), mirrored=False
    ),
    "flags": EmojiClass(("country-flag", "subdivision-flag"), mirrored=False),
    "flowers": EmojiClass(("plant-flower",)),
    "fruit": EmojiClass(  # as botanists see it
        ("food-fruit",), words("avocado eggplant corn hot_pepper bell_pepper cucumber pea_pod peanuts chestnut")
    ),
    "hands": EmojiClass(
        words("hand-fingers-closed hand-fingers-open hand-fingers-partial hand-single-finger hands"),
    ),
    "hearts": EmojiClass(
        ("heart",), without=words("love_letter heart_decoration heavy_heart_exclamation_mark_ornament")
    ),
    "people": EmojiClass(  # heads and shoulders
        ("person", "person-role"),
        without=words(
            "teacher male-teacher female-teacher technologist male-technologist female-technologist pregnant_woman "
            "pregnant_man pregnant_person breast-feeding woman_feeding_baby man_feeding_baby person_feeding_baby"
        ),
    ),
    "smileys": EmojiClass(
        words(
            "face-affection face-concerned face-glasses face-hand face-hat face-neutral-skeptical face-sleepy "
            "face-smiling face-tongue face-unwell"
        ),
        ("triumph", "rage", "angry"),
        ("face_in_clouds", "dotted_line_face"),
    ),
    "vehicles": EmojiClass(
        named=words(
            "steam_locomotive railway_car bullettrain_side bullettrain_front train2 light_rail tram monorail train bus "
            "oncoming_bus trolleybus minibus ambulance fire_engine police_car oncoming_police_car taxi oncoming_taxi "
            "car oncoming_automobile blue_car pickup_truck truck articulated_lorry tractor racing_car "
            "racing_motorcycle motor_scooter auto_rickshaw"
        ),
        written=words("police_car oncoming_police_car taxi oncoming_taxi racing_car"),
    ),
}


@dataclass(frozen=True)
class Package:
    """An unpacked package.

    Attributes:
        name: as npm knows it.
        emoji: its emoji, in the order of keyboards.
        pictures: the folder of its PNGs of 64x64 pixels.
    """

    name: str
    emoji: list[dict[str, Any]]
    pictures: Path

    @staticmethod
    def open(folder: Path) -> Package:
        """The package in `folder`.

        Raises:
            DataError: if it is none of `SOURCES`.
        """
        name = read_json(folder / "package.json", dict).get("name")
        if name not in SOURCES:
            raise DataError(f"{folder}: expected the package {' or '.join(SOURCES)}, got {name}")
        emoji = sorted(json.loads((folder / "emoji.json").read_text()), key=lambda each: each["sort_order"])
        return Package(name, emoji, folder / "img" / set_of(name) / "64")

    def drawings(self, emoji: Mapping[str, Any]) -> dict[str, Image.Image]:
        """The pictures of an emoji in all of its skin tones, on white, by file name; none if it was not drawn."""
        files = [emoji["image"], *(tone["image"] for tone in emoji.get("skin_variations", {}).values())]
        return {file: on_white(self.pictures / file) for file in files if (self.pictures / file).is_file()}


def set_of(name: str) -> str:
    """What the drawings of the package called `name` are called: google, twitter."""
    return name.rpartition("-")[2]


def on_white(path: Path) -> Image.Image:
    """The RGB picture of a file; what is transparent becomes white."""
    with Image.open(path) as file:
        picture = file.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def write_classes(packages: Sequence[Package], size: int, output: Path) -> dict[str, Counter[str]]:
    """Write the folders `train` and `held_out` and `ATTRIBUTION.md`; how many pictures a class has in each."""
    counts = {name: write_class(name, members, packages, size, output) for name, members in CLASSES.items()}
    text = attribution(packages)
    write_aside(output / "ATTRIBUTION.md", lambda aside: aside.write_text(text))
    return counts


def write_class(name: str, members: EmojiClass, packages: Sequence[Package], size: int, output: Path) -> Counter[str]:
    """Write the pictures of one class; how many went to train and to held_out."""
    splits: dict[str, str] = {}  # of an emoji
    drawn: dict[bytes, str] = {}  # the split of a picture
    written: Counter[str] = Counter()
    for package in packages:
        for emoji in filter(members.has, package.emoji):
            drawings = package.drawings(emoji)
            same = [drawn[picture.tobytes()] for picture in drawings.values() if picture.tobytes() in drawn]
            turn = len(splits) % HELD_OUT_EVERY == HELD_OUT_EVERY // 2
            split = splits.setdefault(emoji["unified"], same[0] if same else "held_out" if turn else "train")
            mirrored = members.mirrored and emoji["short_name"] not in members.written and split == "train"
            for file, picture in drawings.items():
                drawn.setdefault(picture.tobytes(), split)
                small = picture.resize((size, size), Image.Resampling.LANCZOS)
                path = output / split / name / f"{set_of(package.name)}-{file}"
                path.parent.mkdir(parents=True, exist_ok=True)
                small.save(path)
                if mirrored:
                    ImageOps.mirror(small).save(path.with_stem(f"{path.stem}-mirrored"))
                written[split] += 1 + mirrored
    return written


def attribution(packages: Sequence[Package]) -> str:
    """Whose pictures these are, and what was done to them."""
    lines = [f"- `{package.name}`: {SOURCES[package.name]}" for package in packages]
    changes = "Put on white, scaled down, sorted into classes, some mirrored, by `python -m experiments.emoji`."
    return "\n".join(["# Whose pictures these are", "", *lines, "", changes, ""])


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Turn unpacked emoji packages into class folders.")
    parser.add_argument("packages", type=Path, nargs="+", help="folders with package.json, emoji.json and img")
    parser.add_argument("--size", type=int, default=32, help="sides of the pictures, at most 64")
    parser.add_argument("--output", type=Path, required=True, help="folder for train, held_out and ATTRIBUTION.md")
    options = parser.parse_args(arguments)
    packages = [Package.open(folder) for folder in options.packages]
    for name, written in write_classes(packages, options.size, options.output).items():
        print(f"{name:<10}{written['train']:>6} pictures to train on, {written['held_out']} held out")


if __name__ == "__main__":
    main()
