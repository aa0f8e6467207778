"""A mutant: a source with one small fault in it."""

from __future__ import annotations

from dataclasses import dataclass

# What an operator becomes: its neighbour, which a test that looks at the border, or at the numbers, tells apart.
SWAPS = {
    "<": "<=",
    "<=": "<",
    ">": ">=",
    ">=": ">",
    "==": "!=",
    "!=": "==",
    "+": "-",
    "-": "+",
    "*": "/",
    "/": "*",
    "%": "*",
    "&": "|",
    "|": "&",
    "^": "|",
    "<<": ">>",
    ">>": "<<",
}


@dataclass(frozen=True)
class Mutant:
    """The bytes from `start` to `end` of a file are replaced.

    Attributes:
        file: the path in the repository.
        start, end: offsets of bytes.
        replacement: what stands there instead.
        lines: the first and last line, from 1, by which a test has to come to see the fault; none if it is there as
            soon as the file is imported.
    """

    file: str
    start: int
    end: int
    replacement: str
    lines: tuple[int, int] | None = None

    def applied(self, source: bytes) -> bytes:
        """The source with the fault."""
        return source[: self.start] + self.replacement.encode() + source[self.end :]

    def shown(self, source: bytes) -> tuple[str, str]:
        """The lines that are changed, before and after, each as one line."""
        begin, end = source.rfind(b"\n", 0, self.start) + 1, source.find(b"\n", self.end)
        end = len(source) if end < 0 else end
        before = source[begin:end]
        after = source[begin : self.start] + self.replacement.encode() + source[self.end : end]
        return one_line(before), one_line(after)


def one_line(text: bytes) -> str:
    return " ".join(text.decode().split())
