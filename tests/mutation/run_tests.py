"""Runs of pytest in a fork of this process, which has imported what is slow to import, but nothing of flowar."""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path

import pytest

SLOW_IMPORTS = ["torch", "torch.distributed.checkpoint", "hypothesis", "PIL.Image", "huggingface_hub", "jsonargparse"]
WITHOUT = [f"-pno:{plugin}" for plugin in ("cacheprovider", "xdist", "anyio", "pytest_cov")]
GIGABYTES = 32  # of address space that a run may take


@dataclass
class Run:
    """What a run of tests came to.

    Attributes:
        seconds: the processor's time that each test took that passed, whatever else the machine does.
        failures: what was wrong with each that did not; how the run ended, if it did not come to its end.
        complete: whether it came to its end.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)
    complete: bool = True


class Watch:
    """A plugin that picks and orders the tests of a run, and writes what became of them to a file."""

    def __init__(self, order: dict[str, float] | None, report: Path) -> None:
        self.order, self.report, self.run, self.begun = order, report, Run(), 0.0

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        if self.order is not None:
            order = self.order
            items[:] = sorted((each for each in items if each.nodeid in order), key=lambda each: order[each.nodeid])

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.note_failure(report)

    def pytest_runtest_logstart(self) -> None:
        self.begun = processor_seconds()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.note_failure(report)
        seconds = self.run.seconds
        if report.passed and (report.when == "setup" or report.nodeid in seconds):
            seconds[report.nodeid] = processor_seconds() - self.begun
        else:
            seconds.pop(report.nodeid, None)

    def note_failure(self, report: pytest.CollectReport | pytest.TestReport) -> None:
        if report.failed:
            self.run.failures.setdefault(report.nodeid, report.longreprtext)

    def pytest_sessionfinish(self) -> None:
        self.report.write_text(json.dumps(vars(self.run)))


def processor_seconds() -> float:
    """What this process and those that it has started and waited for have used."""
    return sum(os.times()[:4])


def import_slow_modules() -> None:
    for name in SLOW_IMPORTS:
        import_module(name)
    gc.freeze()  # forks need not look through all of that


def run_tests(
    folder: Path, arguments: Sequence[str], order: dict[str, float] | None, limit: float, *plugins: object
) -> Run:
    """Run pytest in the copy of the repository in `folder`.

    Args:
        arguments: those of pytest.
        order: the tests to run, those with the least numbers first; None for all.
        limit: seconds of the processor; on the clock it may take ten times as long.
    """
    report = folder / ".mutation.json"
    report.unlink(missing_ok=True)
    process = os.fork()
    if not process:
        status = 70
        try:
            status = in_fork(folder, arguments, [Watch(order, report), *plugins], limit)
        finally:
            os._exit(status)
    try:
        status = wait(process, 10 * limit)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process, signal.SIGKILL)  # what the tests may have left running
    if os.WIFEXITED(status) and report.exists():
        return Run(**json.loads(report.read_text()))
    how = f"exit {os.WEXITSTATUS(status)}" if os.WIFEXITED(status) else signal.Signals(os.WTERMSIG(status)).name
    return Run(failures={how: "of the whole run"}, complete=False)


def in_fork(folder: Path, arguments: Sequence[str], plugins: list[object], limit: float) -> int:
    os.setsid()
    resource.setrlimit(resource.RLIMIT_CPU, (int(limit) + 1, int(limit) + 10))
    resource.setrlimit(resource.RLIMIT_AS, (GIGABYTES << 30, GIGABYTES << 30))
    os.chdir(folder)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(folder), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    here = str(Path(__file__).parents[1])
    sys.path[:] = [str(folder), *(entry for entry in sys.path if entry != here)]
    with open(os.devnull, "r+b") as nowhere:  # no file, since there are tests with a full disk
        for descriptor in (0, 1, 2):
            os.dup2(nowhere.fileno(), descriptor)
    return pytest.main([*WITHOUT, *arguments], plugins=plugins)


def wait(process: int, seconds: float) -> int:
    """The status in which a process ends, by itself or after so many seconds."""
    end = time.monotonic() + seconds
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        if ended:
            return status
        if time.monotonic() > end:
            os.kill(process, signal.SIGKILL)
            end = float("inf")
        time.sleep(0.02)
