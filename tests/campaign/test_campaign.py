"""The campaign: no bad input gets further than one line; and it sees what is wrong, whatever there is to be seen."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from campaign.commands import COMMANDS
from campaign.option_values import refused_values
from campaign.options import TOGETHER, option_names
from campaign.process import Outcome
from campaign.verdict import Expected, findings
from flowar import cli

PROGRAM = Path(__file__).parent
REFUSED = Outcome(2, b"", b"flowar: seed: expected an integer, got x\n", 0.1, 2**20, False, ())
ACCEPTED = replace(REFUSED, code=0, out=b"1 image in out.png\n", err=b"", changed=("work/out.png",))
LATENTS = (r"/shard_\d+\.safetensors$",)


@pytest.mark.slow
def test_no_bad_input_gets_further_than_one_line() -> None:
    done = subprocess.run([sys.executable, PROGRAM, "--cases", "300"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_is_tried() -> None:
    assert {command.name for command in COMMANDS} == {*cli.COMMANDS}
    assert {title for title, _ in TOGETHER} <= {str(command) for command in COMMANDS}
    assert len({str(command) for command in COMMANDS}) == len(COMMANDS)


def test_every_option_is_tried() -> None:
    """A new option needs a line in `option_values.py`: what it does not take."""
    for command in COMMANDS:
        for option in option_names(command):
            assert isinstance(refused_values(command.name, option), tuple)


@pytest.mark.parametrize("expected", Expected)
def test_what_is_right(expected: Expected) -> None:
    right = ACCEPTED if expected is Expected.ACCEPTED else REFUSED
    assert findings(right, expected) == []
    assert findings(replace(REFUSED, err=b"12 images, 3 classes\n" + REFUSED.err), Expected.REFUSED) == []
    assert findings(replace(REFUSED, changed=("work/shard_0.safetensors",)), Expected.REFUSED, LATENTS) == []
    assert findings(replace(REFUSED, code=1, out=b"model wrong\n", err=b""), Expected.REFUSED, codes=(1,)) == []


@pytest.mark.parametrize(
    ("outcome", "finding"),
    [
        (ACCEPTED, "nonsense accepted"),
        (replace(REFUSED, code=1, err=b"Traceback (most recent call last):\nKeyError: 'x'\n"), "traceback"),
        (replace(REFUSED, code=1, err=b"KeyError: 'x'\n"), "exit code 1: KeyError: 'x'"),
        (replace(REFUSED, code=70), "exit code 70: flowar: seed: expected an integer, got x"),
        (replace(REFUSED, code=-9, idle=True), "waits for ever"),
        (replace(REFUSED, code=-11), "exit code -11: flowar: seed: expected an integer, got x"),
        (replace(REFUSED, err=REFUSED.err * 2), "expected one line of flowar at the end, got 2"),
        (replace(REFUSED, err=REFUSED.err + b"and more\n"), "expected one line of flowar at the end, got 1"),
        (replace(REFUSED, err=b""), "expected one line of flowar at the end, got 0"),
        (replace(REFUSED, err=b"flowar: \n"), "says nothing"),
        (replace(REFUSED, err=b"flowar: " + 301 * b"x"), "a line of 301 characters"),
        (replace(REFUSED, err=b"flowar: \x1b[31m\n"), r"control characters ['\x1b']"),
        (
            replace(REFUSED, err=b"x.py:3: UserWarning: odd\n" + REFUSED.err),
            "warning of Python: x.py:3: UserWarning: odd",
        ),
        (replace(REFUSED, changed=("work/out.png",)), "wrote work/out.png"),
        (replace(REFUSED, changed=("work/.out.png.12.part",)), "left work/.out.png.12.part"),
        (replace(REFUSED, changed=("tmp/a/b",)), "left tmp/a/b"),
        (replace(REFUSED, changed=("work/RAN",)), "ran the code in a pickle"),
        (replace(REFUSED, seconds=99.0), "99 s of the processor"),
        (replace(REFUSED, memory=2**31), "2048 MiB of memory"),
    ],
)
def test_what_is_wrong(outcome: Outcome, finding: str) -> None:
    assert finding in findings(outcome, Expected.REFUSED)


def test_what_is_right_is_not_refused() -> None:
    assert findings(REFUSED, Expected.ACCEPTED) == ["refused: flowar: seed: expected an integer, got x"]
