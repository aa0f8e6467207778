"""One folder a class: which folders are classes, and which only look like it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from flowar.data.folders import Contents, Ignored, identity, images_below, look_into
from flowar.errors import DataError

PARTS = r"train|training|val|valid|validation|dev|test|testing|eval|evaluation|held[-_ ]?out"
SPLIT = re.compile(rf"({PARTS})([-_ ]?(set|data|images|imgs|[AB]|\d+))?", re.IGNORECASE)
CONTAINER = re.compile(r"images?|imgs?|jpe?g(images)?|png|data(set)?|masks?|labels?|annotations?", re.IGNORECASE)
TABLE = re.compile(r".*\.(csv|tsv|jsonl|parquet|xlsx|mat)|.*(label|class|annot).*\.(txt|json|xml)", re.IGNORECASE)
EXPECTED = "expected one folder a class"


def class_folders(root: Path, ignored: Ignored) -> dict[Path, list[Path]]:
    """The images of every class: those in the folders of `root`, or those of `root` itself if no folder has any.

    Raises:
        DataError: if there is no image at all, or none in one of the folders; and for folders that are no classes, as
            those of splits, or that of images beside a table of their labels.
    """
    contents = look_into(root, ignored)
    ignored.add_files(contents.others)
    classes = images_of_folders(root, contents.folders, ignored)
    filled = [folder for folder, images in classes.items() if images]
    if contents.images and not filled:
        check_no_table(root, contents)
        ignored.add("folders without images", len(classes))
        return {root: contents.images}
    if filled:
        check_classes(root, filled, contents)
    for folder, images in classes.items():
        if not images:
            raise DataError(f"{folder}: expected images in every class folder, found none{instead(folder)}")
    ignored.add("images outside of the class folders", len(contents.images))
    return classes


def images_of_folders(root: Path, folders: Sequence[Path], ignored: Ignored) -> dict[Path, list[Path]]:
    """The images of each of `folders`, but for links to `root` or what it is in."""
    above = {identity(each) for each in (root, *root.resolve().parents)}
    own = [folder for folder in folders if identity(folder) not in above]
    ignored.add("links to where they come from", len(folders) - len(own))
    return {folder: images_below(folder, above, ignored) for folder in own}


def instead(folder: Path) -> str:
    """What a folder without images has, in brackets."""
    found = Ignored()
    images_below(folder, (), found)
    return f" ({found})" if str(found) else ""


def check_classes(root: Path, folders: Sequence[Path], beside: Contents) -> None:
    """Check that these folders of `root` are classes, as far as their names and what lies beside them tell.

    Raises:
        DataError: with what to give instead.
    """
    names = [folder.name for folder in folders]
    shown = ", ".join(names)
    splits = [name for name in names if SPLIT.fullmatch(name)]
    if len(splits) > 1 or (splits == names and only_folders(folders[0])):
        raise DataError(f"{root}: {EXPECTED}, got splits ({shown}): give one of them, as {root / splits[0]}")
    if len(folders) > 1 and all(map(CONTAINER.fullmatch, names)):
        raise DataError(f"{root}: {EXPECTED}, got {shown}, whose names are not those of classes")
    if len(folders) == 1:
        check_no_table(root, beside)
        check_no_table(folders[0], look_into(folders[0], Ignored()))
        again = CONTAINER.fullmatch(names[0]) or names[0] == root.resolve().name
        if again and only_folders(folders[0]):
            raise DataError(f"{root}: {EXPECTED}, got {shown} with folders in it: give {folders[0]}")


def check_no_table(folder: Path, contents: Contents) -> None:
    """Check that no table of labels lies beside images that would all be of one class. Raises DataError."""
    for path in contents.others:
        if TABLE.fullmatch(path.name):
            advice = "no table is read: sort the images into folders, or take it away to have one class"
            raise DataError(f"{folder}: {EXPECTED}, got {path.name} for all images; {advice}")


def only_folders(folder: Path) -> bool:
    """Whether a folder has folders, and no image of its own."""
    contents = look_into(folder, Ignored())
    return bool(contents.folders and not contents.images)
