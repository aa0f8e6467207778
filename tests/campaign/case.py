"""A case: a command, with one thing made wrong."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

from campaign.commands import COMMANDS, Command
from campaign.material import copy
from campaign.process import USUAL, Surroundings
from campaign.verdict import Expected

Fault = tuple[str, bytes, Expected]  # what is wrong with a file, its bytes, and how a command that reads it may end


@dataclass(frozen=True)
class Case:
    """What is run, and how it may end.

    Attributes:
        command: the command that works without the fault.
        arguments: the words of the command line.
        fault: what is wrong, in a few words.
        expected: how the command may end.
        surroundings: what is around its process.
        may_write: patterns of the files that may stay when it fails.
        codes: further exit codes that are right.
        result: patterns of files that are as in the material if the command ends well.
        mended: whether the command itself must work afterwards, in usual surroundings and without the fault.
    """

    command: Command
    arguments: list[str]
    fault: str
    expected: Expected
    surroundings: Surroundings = USUAL
    may_write: tuple[str, ...] = ()
    codes: tuple[int, ...] = ()
    result: str = ""
    mended: bool = False


@dataclass(frozen=True)
class Ground:
    """Where a case is made: its own random numbers, the material, and its folder."""

    random: random.Random
    material: Path
    folder: Path

    @property
    def work(self) -> Path:
        """The folder that the command runs in."""
        return self.folder / "work"

    def command(self, fits: Callable[[Command], bool] = lambda command: True) -> Command:
        """One of the commands that fit, whose files are then in `work`."""
        command = self.random.choice([each for each in COMMANDS if fits(each)])
        copy(self.material, command, self.folder)
        return command

    def reader(self, *patterns: str) -> tuple[Command, Path]:
        """A command that reads a file whose path fits one of the patterns, and that file, now in `work`."""
        read = {command: files_read(self.material, command, patterns) for command in COMMANDS if command.works}
        command = self.command(lambda each: bool(read.get(each)))
        return command, self.work / self.random.choice(read[command])

    def spoil(self, command: Command, path: Path, fault: Fault) -> Case:
        """The case of a command that finds something else in one of its files."""
        what, content, expected = fault
        path.write_bytes(content)
        return self.of_file(command, path, what, expected)

    def of_file(self, command: Command, path: Path, fault: str, expected: Expected) -> Case:
        """The case of a command one of whose files is wrong."""
        name = str(path.relative_to(self.work))
        case = Case(command, command.arguments, f"{name}: {fault}", expected, may_write=command.may_write)
        if fits(name, command.made_anew):
            case = replace(case, expected=Expected.EITHER, result=command.result)
        return case


@cache
def files_read(material: Path, command: Command, patterns: tuple[str, ...]) -> list[str]:
    """The paths of the files that `command` reads, of those that fit a pattern."""
    return [
        name
        for name in files_of(material / "work")
        if any(Path(name).is_relative_to(each) for each in command.files.split())
        and any(fnmatch(name, pattern) for pattern in patterns)
        and not unread(command, name)
    ]


def files_of(work: Path) -> list[str]:
    """The paths of the files below a folder, in order."""
    return sorted(str(path.relative_to(work)) for path in work.rglob("*") if path.is_file())


def unread(command: Command, name: str) -> bool:
    """Whether a file or an option means nothing to a command."""
    return fits(name, command.unread)


def fits(name: str, patterns: str) -> bool:
    """Whether a name fits one of some patterns, which are words of a text."""
    return any(fnmatch(name, pattern) for pattern in patterns.split())
