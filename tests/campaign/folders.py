"""Folders of pictures that are none, or that hold more than pictures."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from campaign.case import Case, Ground
from campaign.verdict import Expected

REFUSED, EITHER, ACCEPTED = Expected.REFUSED, Expected.EITHER, Expected.ACCEPTED
Change = Callable[[Path, Path], object]  # of a folder, and one of the pictures in it


def wrong_folder(ground: Ground) -> Case:
    """A folder of pictures that is not one, or has more in it than pictures."""
    command, some = ground.reader("folders/*", "flat/*")
    root = ground.work / some.relative_to(ground.work).parts[0]
    fault, change, expected = ground.random.choice(FOLDERS)
    change(root, some)
    return Case(command, command.arguments, fault, expected, may_write=command.may_write)


def instead(make: Callable[[Path], object]) -> Change:
    """Make something in the place of the folder."""

    def change(root: Path, some: Path) -> None:
        root.rename(root.with_name("elsewhere"))
        make(root)

    return change


def beside(name: str | bytes, make: Callable[[Path], object]) -> Change:
    """Make something of this name beside a picture."""
    return lambda root, some: make(some.parent / os.fsdecode(name))


def unreadable(path: Path) -> None:
    path.write_bytes(b"x")


def without_pictures(root: Path, some: Path) -> None:
    for path in root.rglob("*.png"):
        path.unlink()


def splits(root: Path, some: Path) -> None:
    """The folder as train, in a folder of its name, beside a val."""
    root.rename(root.with_name("train"))
    root.mkdir()
    root.with_name("train").rename(root / "train")
    (root / "val").mkdir()
    (root / "val" / some.name).write_bytes((root / "train" / some.relative_to(root)).read_bytes())


def hidden(root: Path, some: Path) -> None:
    (root / ".ipynb_checkpoints").mkdir()
    unreadable(root / ".ipynb_checkpoints/x.png")


def renamed(name: str) -> Change:
    """Rename the class of a picture, if it has one."""
    return lambda root, some: None if some.parent == root else some.parent.rename(root / name)


FOLDERS: tuple[tuple[str, Change, Expected], ...] = (
    ("without pictures", without_pictures, REFUSED),
    ("gone", instead(lambda root: None), REFUSED),
    ("a file instead of a folder", instead(unreadable), REFUSED),
    ("a pipe instead of a folder", instead(os.mkfifo), REFUSED),
    ("a link to itself", instead(lambda root: root.symlink_to(root.name)), REFUSED),
    ("splits instead of classes", splits, EITHER),
    ("a class without pictures", lambda root, some: (root / "zebra").mkdir(), EITHER),
    ("a class that is a link to the root", lambda root, some: (root / "again").symlink_to("."), EITHER),
    ("a class that is a link to all processes", lambda root, some: (root / "all").symlink_to("/proc"), EITHER),
    ("a class of control characters", renamed("\x1b[31m\n"), EITHER),
    ("a class that is no UTF-8", renamed("\udcff"), EITHER),
    ("a table of labels", lambda root, some: (root / "labels.csv").write_text("file,label\n0.png,1\n"), EITHER),
    ("a pipe", beside("pipe.png", os.mkfifo), EITHER),
    ("a link to zeros", beside("zeros.png", lambda path: path.symlink_to("/dev/zero")), EITHER),
    ("a link to nothing", beside("nothing.png", lambda path: path.symlink_to("nowhere.png")), EITHER),
    ("a folder named as a picture", beside("folder.png", Path.mkdir), EITHER),
    ("a picture of another size", beside("wide.png", lambda path: Image.new("L", (300, 28)).save(path)), EITHER),
    ("a hidden folder", hidden, ACCEPTED),
    ("a hidden file", beside(".DS_Store", unreadable), ACCEPTED),
    ("half a file of another system", beside("._a.png", unreadable), ACCEPTED),
    ("a name of two lines", beside("two\nlines.png", unreadable), REFUSED),
    ("a name of control characters", beside("\x1b[2J\x1b[31m.png", unreadable), REFUSED),
    ("a name that is no UTF-8", beside(b"\xff\xfe.png", unreadable), REFUSED),
    ("a long name", beside("n" * 250 + ".png", unreadable), REFUSED),
)
