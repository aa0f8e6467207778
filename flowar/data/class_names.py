"""Classes by name: which names a model has, and which class a name means."""

from __future__ import annotations

import difflib
import functools
import operator
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple, SupportsIndex

from flowar.config import IMAGENET_CLASSES, FlowARConfig
from flowar.errors import FlowARError
from flowar.system.structured import read_json

FOLDER = Path(__file__).parents[1] / "assets" / "class_names"
DATASETS = ("imagenet", "fashion_mnist")
IMAGENET_FOLDERS = ("n01440764", "n15075141")  # the first and the last of 1000
PROPOSALS = 3
SIMILARITY = 0.6  # of difflib: 1 is the same word


@functools.cache
def read_class_names(name: str) -> tuple[str, ...]:
    """The names that come with this package, by label: those of one of `DATASETS`."""
    return tuple(read_json(FOLDER / f"{name}.json", dict)["names"])


def class_names_of(config: FlowARConfig) -> tuple[str, ...]:
    """The names of a model's classes by label: its own; without any, ImageNet's if it has 1000 classes, else none."""
    if config.class_names or config.num_classes != IMAGENET_CLASSES:
        return tuple(config.class_names)
    return read_class_names("imagenet")


def name_of(label: int, class_names: Sequence[str]) -> str:
    """What a class is called where there are names, or "class 3" where there are none."""
    return class_names[label] if class_names else f"class {label}"


def labels_by_name(class_names: Sequence[str]) -> dict[str, int]:
    """The label of every name and synonym that means one class, in alphabetical order."""
    known = sorted(_known_names(tuple(class_names)).values())
    return {name.spelling: name.labels[0] for name in known if len(name.labels) == 1}


def names_of_folders(folders: Sequence[str]) -> tuple[str, ...]:
    """What the classes of these sorted folders are called: as the folders, but for ImageNet's (n01440764, ...)."""
    if len(folders) == IMAGENET_CLASSES and (folders[0], folders[-1]) == IMAGENET_FOLDERS:
        return read_class_names("imagenet")
    return tuple(folders)


def resolve(names_or_indices: Iterable[str | SupportsIndex], class_names: Sequence[str]) -> list[int]:
    """The labels that names and indices mean; whether an index is in range is the model's to check.

    A name is one that a class has, or any of its synonyms ("tench, Tinca tinca", "T-shirt/top"); upper case, hyphens
    and underscores do not matter. A word that is an integer, but no name, is an index.

    Raises:
        FlowARError: for a word that is the name of no class, or of several; the closest names are proposed. For "7"
            where the class called "007" has another number.
    """
    return [_resolve(each, class_names) for each in names_or_indices]


def search(word: str, class_names: Sequence[str]) -> list[int]:
    """The labels with `word` in their names."""
    return [label for label, name in enumerate(class_names) if normalised(word) in normalised(name)]


def closest(word: str, class_names: Sequence[str]) -> list[str]:
    """A few names that are like `word`, as "golden retriever (207)": those that hold it, then those spelled like it."""
    known, word = _known_names(tuple(class_names)), normalised(word)
    holding = sorted((name for name in known if word and set(word.split()) <= set(name.split())), key=len)
    alike = difflib.get_close_matches(word, known, PROPOSALS, SIMILARITY)
    found = [known[name] for name in dict.fromkeys([*holding, *alike])][:PROPOSALS]
    return [f"{name.spelling} ({', '.join(map(str, name.labels))})" for name in found]


def normalised(name: str) -> str:
    """A name as names are compared; some file systems spell "é" with one character, some with two."""
    return re.sub(r"[\s_-]+", " ", unicodedata.normalize("NFC", name)).strip().lower()


def _resolve(word: str | SupportsIndex, class_names: Sequence[str]) -> int:
    if isinstance(word, SupportsIndex):
        return operator.index(word)
    if not isinstance(word, str):
        raise FlowARError(f"classes: expected names or integers, got {word!r}")
    found = _labels_called(word, class_names) or _labels_numbered(word, class_names)
    if not found and not class_names:
        raise FlowARError(f"classes: expected integers as in 0,3,7, as these classes have no names, got {word!r}")
    if not found:
        proposals = ", ".join(closest(word, class_names)) or "none; flowar classes lists them all"
        expected = f"names or integers from 0 to {len(class_names) - 1}"
        raise FlowARError(f"classes: expected {expected}, got {word!r}; closest names: {proposals}")
    if len(found) > 1:
        several = ", ".join(f"{label} ({class_names[label]})" for label in found)
        raise FlowARError(f"classes: expected the name of one class, got {word!r}, the name of several: {several}")
    return found[0]


def _labels_called(word: str, class_names: Sequence[str]) -> Sequence[int]:
    """The labels whose name or synonym a word is. Where names are alike but for their spelling, its own counts."""
    known = _known_names(tuple(class_names)).get(normalised(word))
    if known is None:
        return ()
    alike = all(normalised(class_names[label]) == normalised(word) for label in known.labels)
    exact = [label for label in known.labels if class_names[label] == word]
    return exact if alike and exact else known.labels


def _labels_numbered(word: str, class_names: Sequence[str]) -> Sequence[int]:
    """The label that a word is as a number; also those of classes with that number for a name, as 7 is that of 007."""
    if not re.fullmatch(r"\s*[+-]?\d+\s*", word):
        return ()
    index = int(word)
    named = {label for label, name in enumerate(class_names) if name.isdecimal() and int(name) == index}
    return sorted(named | {index}) if index in range(len(class_names)) else sorted(named) or [index]


class _Known(NamedTuple):
    """A name or synonym as it is written, and the classes that have it."""

    spelling: str
    labels: tuple[int, ...] = ()


@functools.lru_cache(maxsize=4)
def _known_names(class_names: tuple[str, ...]) -> dict[str, _Known]:
    """Every name and synonym, by what `normalised` makes of it."""
    known: dict[str, _Known] = {}
    for label, name in enumerate(class_names):
        for key, spelling in {normalised(each): each.strip() for each in (name, *re.split(r"[,/]", name))}.items():
            before = known.get(key, _Known(spelling))
            known[key] = before._replace(labels=(*before.labels, label))
    return known
