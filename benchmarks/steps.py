"""A sequence of commands within one budget of time: what fails or takes too long is recorded, and the next goes on."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OUTPUT_LINES = 40  # of a step that are kept


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: in the report.
        command: its arguments.
        seconds: that it may take; earlier steps leave it what they do not need.
        is_test: its failure is that of the whole report.
        environment: in addition to that of this process.
        missing: why it cannot be run here, or nothing.
        refusal: what the output says, as a regular expression, where the machine is at fault for a failure.
    """

    name: str
    command: Sequence[str]
    seconds: float
    is_test: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)
    missing: str = ""
    refusal: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a step: "passed", "failed", "timed out" or "skipped", and the last it wrote."""

    name: str
    status: str
    seconds: float
    is_test: bool
    reason: str
    output: str

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def run_steps(steps: Sequence[Step], budget: float, folder: Path, log: Callable[[str], None]) -> Iterator[Outcome]:
    """Run the steps one after the other in `folder`, all together within `budget` seconds.

    The seconds of the steps are scaled to the budget; each may also use what those before it have left.
    """
    end = time.monotonic() + budget
    scale = budget / sum(step.seconds for step in steps)
    for index, step in enumerate(steps):
        reserved = scale * sum(later.seconds for later in steps[index + 1 :])
        allowed = end - time.monotonic() - reserved
        log(f"{step.name}: at most {max(allowed, 0):.0f} s")
        outcome = run_step(step, allowed, folder)
        log(f"{step.name}: {outcome.status} after {outcome.seconds:.0f} s {outcome.reason}".rstrip())
        yield outcome


def run_step(step: Step, seconds: float, folder: Path) -> Outcome:
    """Run one step for at most `seconds`, and whatever it has started no longer than itself."""
    if step.missing:
        return Outcome(step.name, "skipped", 0.0, step.is_test, step.missing, "")
    started = time.monotonic()
    with tempfile.TemporaryFile() as output:  # not a pipe: a grandchild that lives on could hold that open
        environment = {**os.environ, **step.environment}
        streams: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        try:
            process = subprocess.Popen(step.command, cwd=folder, env=environment, start_new_session=True, **streams)
        except OSError as error:
            return Outcome(step.name, "failed", 0.0, step.is_test, f"{step.command[0]}: {error.strerror}", "")
        try:
            code: int | None = process.wait(max(seconds, 0))
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_session(process)
        elapsed = time.monotonic() - started
        output.seek(0)
        text = output.read().decode(errors="replace")
    status, reason = judge(step, code, text)
    return Outcome(step.name, status, elapsed, step.is_test, reason, "\n".join(text.splitlines()[-OUTPUT_LINES:]))


def end_session(process: subprocess.Popen[bytes]) -> None:
    """End the process and everything of its session that is still at work."""
    with contextlib.suppress(ProcessLookupError):  # nothing of it is
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def judge(step: Step, code: int | None, output: str) -> tuple[str, str]:
    """Status and reason, from the exit code (None: out of time) and the output."""
    if code == 0:
        return "passed", ""
    refusal = re.search(step.refusal, output) if step.refusal else None
    if refusal:
        return "skipped", f"this machine refuses: {refusal[0]}"
    return ("timed out", "") if code is None else ("failed", f"exit code {code}")
