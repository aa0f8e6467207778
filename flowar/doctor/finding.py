"""The findings of checks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warning", "wrong", "skipped"]


@dataclass(frozen=True)
class Finding:
    """The finding of a check, and its remedy, which is empty if all is well; commands in it are in backticks."""

    status: Status
    found: str
    remedy: str = ""

    @property
    def commands(self) -> list[str]:
        """The commands that the remedy has, if any."""
        return re.findall(r"`([^`]+)`", self.remedy)

    def __str__(self) -> str:
        return f"{self.status:<9}{self.found}" + (f" -> {self.remedy}" if self.remedy else "")


def ok(found: str) -> Finding:
    return Finding("ok", found)


def warning(found: str, remedy: str) -> Finding:
    """A finding of something that works, but not as well as it could."""
    return Finding("warning", found, remedy)


def wrong(found: str, remedy: str) -> Finding:
    """A finding of something that will fail."""
    return Finding("wrong", found, remedy)


def skipped(found: str) -> Finding:
    return Finding("skipped", found)
