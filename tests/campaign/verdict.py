"""What is wrong with the way in which a command ended."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from enum import Enum

from campaign.process import Outcome

LONGEST_MESSAGE = 300  # characters
MOST_SECONDS = 15.0  # of the processor
MOST_MEMORY = 2**30  # bytes
BAD_INPUT = 2
RAN = "work/RAN"  # the file that a pickle's code writes, if anything runs it


class Expected(Enum):
    """How a command may end: refused (exit code 2, one line, nothing written), accepted, or either."""

    REFUSED = "refused"
    ACCEPTED = "accepted"
    EITHER = "either"


def findings(
    outcome: Outcome, expected: Expected, may_write: tuple[str, ...] = (), codes: tuple[int, ...] = ()
) -> list[str]:
    """Everything that is wrong, in a few words each.

    Args:
        outcome: how the command ended.
        expected: how it was to end.
        may_write: patterns of the files that it may leave although it fails, such as those that it goes on from.
        codes: further exit codes that are right, as that of `flowar doctor`, which found something wrong.
    """
    return [
        *wrong_ending(outcome, expected, codes),
        *wrong_words(outcome),
        *wrong_files(outcome, may_write, codes),
        *wrong_use(outcome),
    ]


def wrong_ending(outcome: Outcome, expected: Expected, codes: tuple[int, ...]) -> Iterator[str]:
    if outcome.idle:
        yield "waits for ever"
    elif outcome.code == 0:
        if expected is Expected.REFUSED:
            yield "nonsense accepted"
    elif outcome.code == BAD_INPUT:
        if expected is Expected.ACCEPTED:
            yield f"refused: {last_line(outcome)}"
    elif outcome.code not in codes:
        yield f"exit code {outcome.code}: {last_line(outcome)}"


def wrong_words(outcome: Outcome) -> Iterator[str]:
    err = outcome.err.decode(errors="replace")
    if "Traceback (most recent call last)" in err:
        yield "traceback"
    if odd := {character for character in err + outcome.out.decode(errors="replace") if is_control(character)}:
        yield f"control characters {sorted(odd)}"
    if warning := re.search(r"^.*\b\w*Warning: .*$", err, re.MULTILINE):
        yield f"warning of Python: {warning[0]}"
    if outcome.code != BAD_INPUT:
        return
    lines = err.splitlines()
    said = [line for line in lines if line.startswith("flowar: ")]
    if len(said) != 1 or said != lines[-1:]:
        yield f"expected one line of flowar at the end, got {len(said)}"
    messages = [line.removeprefix("flowar: ") for line in lines]
    if too_long := [len(message) for message in messages if len(message) > LONGEST_MESSAGE]:
        yield f"a line of {max(too_long)} characters"
    if any(not line.removeprefix("flowar:").strip() for line in said):
        yield "says nothing"


def wrong_files(outcome: Outcome, may_write: tuple[str, ...], codes: tuple[int, ...]) -> Iterator[str]:
    if RAN in outcome.changed:
        yield "ran the code in a pickle"
    if parts := [name for name in outcome.changed if re.search(r"\.part$|^tmp/", name)]:
        yield f"left {', '.join(map(shown, parts))}"
    if outcome.code == 0 or outcome.code in codes:
        return
    left = [
        name for name in outcome.changed if name not in parts and not any(re.search(each, name) for each in may_write)
    ]
    if left:
        yield f"wrote {', '.join(map(shown, left[:3]))}{' and more' if len(left) > 3 else ''}"


def wrong_use(outcome: Outcome) -> Iterator[str]:
    if outcome.seconds > MOST_SECONDS:
        yield f"{outcome.seconds:.0f} s of the processor"
    if outcome.memory > MOST_MEMORY:
        yield f"{outcome.memory / 2**20:.0f} MiB of memory"


def is_control(character: str) -> bool:
    """Whether a character has no place in a line that a terminal shows."""
    return character != "\n" and unicodedata.category(character) in ("Cc", "Zl", "Zp")


def last_line(outcome: Outcome) -> str:
    return shown((outcome.err.decode(errors="replace").splitlines() or [""])[-1])


def shown(text: str, most: int = 160) -> str:
    """A text in a report: without control characters, and not too long."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)[:most]
