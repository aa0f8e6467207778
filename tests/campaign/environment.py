"""What is around a process: where its output goes, how full the disk is, how the terminal writes.

A full disk is a limit on the size of files: that stops writing at any byte, and needs no disk. Nothing is ever written
to a device: one of the user's that `root` writes to might not be there afterwards.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from campaign.case import Case, Ground
from campaign.commands import Command
from campaign.process import USUAL, Surroundings
from campaign.verdict import Expected

REFUSED, EITHER, ACCEPTED = Expected.REFUSED, Expected.EITHER, Expected.ACCEPTED
CLOSED_PIPE = 141  # as of a program that SIGPIPE ends
ANYTHING = (".",)  # a pattern of all files

OUTPUTS = ("output", "latents", "animate", "npz")
SURROUNDINGS: tuple[tuple[str, Surroundings, Expected], ...] = (
    ("stdout closed", replace(USUAL, stdout="closed"), EITHER),
    ("stdout on a full disk", replace(USUAL, stdout="full"), REFUSED),
    ("stdout that nobody reads", replace(USUAL, stdout="broken"), EITHER),
    ("a terminal of ASCII", replace(USUAL, encoding="ascii"), ACCEPTED),
    ("a terminal of Latin-1", replace(USUAL, encoding="latin-1"), ACCEPTED),
    ("no home", replace(USUAL, variables={"HOME": "/nonexistent"}), ACCEPTED),
    ("no place for temporary files", replace(USUAL, variables={"TMPDIR": "/nonexistent"}), ACCEPTED),
    ("a bogus number of threads", replace(USUAL, variables={"OMP_NUM_THREADS": "bogus"}), EITHER),
    ("ranks that are none", replace(USUAL, variables={"WORLD_SIZE": "2", "RANK": "7"}), EITHER),
    ("a rank that is no number", replace(USUAL, variables={"WORLD_SIZE": "x", "RANK": "y", "LOCAL_RANK": ""}), EITHER),
)


def wrong_surroundings(ground: Ground) -> Case:
    """A command that is right, in surroundings that are not."""
    command = ground.command(lambda each: each.works)
    fault, surroundings, expected = ground.random.choice(SURROUNDINGS)
    codes = (CLOSED_PIPE,) if surroundings.stdout == "broken" else ()
    return Case(command, command.arguments, fault, expected, surroundings, ANYTHING, codes)


def full_disk(ground: Ground) -> Case:
    """A command that is right, on a disk that is full sooner or later; it works when there is room again."""
    command, size = ground.command(lambda each: each.works), ground.random.choice((1, 100, 512, 4096, 2**16))
    writes = command.name not in ("classes", "info", "doctor", "push") and "compare" not in command.options
    expected = REFUSED if size == 1 and writes else EITHER
    surroundings = replace(USUAL, largest_file=size)
    return Case(
        command, command.arguments, f"files of {size} bytes", expected, surroundings, command.may_write, mended=True
    )


def wrong_output(ground: Ground) -> Case:
    """A command whose output is to go where nothing can be written, or where something else is."""
    command, rng = ground.command(lambda each: bool(outputs(each)) and each.works), ground.random
    name = rng.choice(outputs(command))
    suffix = Path(command.options[name]).suffix
    fault, make, target, expected = rng.choice((*ANY_OUTPUT, *(FILE_OUTPUT if suffix else FOLDER_OUTPUT)))
    if name == "output" and command.name in TAKE_FOLDERS and "folder" in fault:
        fault, make, target, expected = A_FOLDER_OF_PICTURES
    target = target.replace(".png", suffix)
    make(ground.work / target)
    changed = command.with_option(name, target)
    return Case(changed, changed.arguments, f"{name} {fault}", expected, may_write=command.may_write)


def outputs(command: Command) -> list[str]:
    """The options that say where the results go, but for those of a run that goes on."""
    own = [name for name in OUTPUTS if name in command.options]
    return [] if "resume" in command.options else own


def nothing(path: Path) -> None:
    """The name itself is the obstacle."""


def full_folder(path: Path) -> None:
    path.mkdir()
    (path / "other.txt").write_text("something else")


Obstacle = tuple[str, Callable[[Path], object], str, Expected]
ANY_OUTPUT: tuple[Obstacle, ...] = (
    ("below a file", lambda path: path.parent.write_text("x"), "file/out.png", REFUSED),
    ("where the system has no files", nothing, "/proc/new.png", REFUSED),
    ("below what is no folder", nothing, "/dev/null/out.png", REFUSED),
    ("of a long name", nothing, "n" * 300 + ".png", REFUSED),
    ("of a long path", nothing, "n/" * 3000 + "out.png", REFUSED),
    ("of control characters", nothing, "a\x1b[31mb\nc.png", EITHER),
    ("that is no UTF-8", nothing, "\udcff.png", EITHER),
    ("of another home", nothing, "~nobody-at-all/out.png", EITHER),
    ("a link to nothing", lambda path: path.symlink_to("nowhere"), "link.png", EITHER),
)
FILE_OUTPUT: tuple[Obstacle, ...] = (
    ("a folder", full_folder, "folder.png", REFUSED),
    ("this folder", nothing, ".", REFUSED),
    ("the folder above", nothing, "..", REFUSED),
    ("a pipe", os.mkfifo, "pipe.png", REFUSED),
    ("of no known format", nothing, "out.xyz", EITHER),
    ("there already", lambda path: path.write_text("x"), "there.png", EITHER),
)
TAKE_FOLDERS = ("sample", "edit")
A_FOLDER_OF_PICTURES: Obstacle = ("a folder", full_folder, "folder.png", ACCEPTED)
FOLDER_OUTPUT: tuple[Obstacle, ...] = (
    ("a file", lambda path: path.write_text("x"), "there", REFUSED),
    ("a pipe", os.mkfifo, "pipe", REFUSED),
    ("a link to itself", lambda path: path.symlink_to(path.name), "itself", REFUSED),
    ("a folder of something else", full_folder, "other", EITHER),
)
