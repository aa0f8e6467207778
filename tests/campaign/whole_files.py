"""A file that is not there, is something else, or is damaged, whatever its format."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

from campaign.case import Case, Ground
from campaign.verdict import Expected

TERABYTE = 2**40
REFUSED, EITHER = Expected.REFUSED, Expected.EITHER


def wrong_file(ground: Ground) -> Case:
    """One of the files of a command replaced."""
    command, path = ground.reader("*")
    fault, replace, expected = ground.random.choice(REPLACEMENTS)
    content = path.read_bytes()
    path.unlink()
    replace(ground.random, path, content)
    # Of several pictures or tars in a folder, one may be gone, or no regular file; and a tar of zeros is an empty one.
    several = path.parent != ground.work and path.suffix in (".png", ".tar")
    if several and (not path.is_file() or (path.suffix, fault) == (".tar", "zeros")):
        expected = EITHER
    # A store without its last file is one that is not finished; who has the pictures finishes it.
    if path.name == "store.json" and "data.folder" in command.options and not path.exists():
        expected = EITHER
    return ground.of_file(command, path, fault, expected)


Replace = Callable[[random.Random, Path, bytes], object]


def sparse(rng: random.Random, path: Path, content: bytes) -> None:
    """The file with a terabyte of zeros behind it, which take no space."""
    path.write_bytes(content)
    os.truncate(path, TERABYTE)


REPLACEMENTS: tuple[tuple[str, Replace, Expected], ...] = (
    ("gone", lambda rng, path, content: None, REFUSED),
    ("a folder", lambda rng, path, content: path.mkdir(), REFUSED),
    ("a pipe", lambda rng, path, content: os.mkfifo(path), REFUSED),
    ("a link to zeros without end", lambda rng, path, content: path.symlink_to("/dev/zero"), REFUSED),
    ("a link to random bytes without end", lambda rng, path, content: path.symlink_to("/dev/urandom"), REFUSED),
    ("a link to nothing", lambda rng, path, content: path.symlink_to("nowhere"), REFUSED),
    ("a link to itself", lambda rng, path, content: path.symlink_to(path.name), REFUSED),
    ("a link to the folder", lambda rng, path, content: path.symlink_to("."), REFUSED),
    ("empty", lambda rng, path, content: path.write_bytes(b""), REFUSED),
    ("a byte", lambda rng, path, content: path.write_bytes(b"x"), REFUSED),
    ("random bytes", lambda rng, path, content: path.write_bytes(rng.randbytes(2000)), REFUSED),
    ("zeros", lambda rng, path, content: path.write_bytes(bytes(len(content))), REFUSED),
    ("text", lambda rng, path, content: path.write_text("I am not the file that you look for.\n" * 20), REFUSED),
    (
        "cut off",
        lambda rng, path, content: path.write_bytes(content[: rng.randrange(1, max(2, len(content) * 9 // 10))]),
        REFUSED,
    ),
    ("a terabyte", sparse, EITHER),
    ("twice", lambda rng, path, content: path.write_bytes(content + content), EITHER),
)
