"""Which tests come by which lines, from one run of the everyday tests under coverage."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

import pytest
from coverage import Coverage, CoverageData
from mutation.mutants import Mutant
from mutation.run_tests import run_tests

CONFIG = """[run]
include = {folder}/flowar/*
data_file = {data}/run
disable_warnings = no-data-collected
"""
# Of the processes that tests start: each belongs to the test that pytest names in the environment.
CONFIG_OF_CHILDREN = (
    CONFIG
    + """parallel = true
context = ${{PYTEST_CURRENT_TEST-}}
"""
)
HOUR = 3600


class Tracer:
    """A plugin that notes the lines of each test. (pytest-cov notes them while a test may have the disk full.)"""

    def __init__(self, config: Path) -> None:
        self.coverage = Coverage(config_file=str(config))

    def pytest_sessionstart(self) -> None:
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self.coverage.switch_context(item.nodeid)
        return (yield)

    def pytest_sessionfinish(self) -> None:
        self.coverage.stop()
        self.coverage.save()


@dataclass
class Reach:
    """What the tests that pass come by.

    Attributes:
        sources: a digest of the package, for which this holds.
        tests: a digest of each file of tests.
        seconds: the time that each test takes.
        lines: for each test, of every file in `flowar`, the lines that it comes by.
    """

    sources: str = ""
    tests: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    lines: dict[str, dict[str, list[int]]] = field(default_factory=dict)

    def of(self, mutant: Mutant) -> dict[str, float]:
        """The tests that may see a mutant, with their times."""
        return {test: seconds for test, seconds in self.seconds.items() if self.reaches(test, mutant)}

    def reaches(self, test: str, mutant: Mutant) -> bool:
        lines = self.lines.get(test, {}).get(mutant.file, ())
        first, last = mutant.lines or (0, float("inf"))
        return any(first <= line <= last for line in lines)

    def drop(self, file: str) -> None:
        """Forget the tests of a file."""
        for test in [test for test in self.seconds if test.split("::")[0] == file]:
            del self.seconds[test]
            self.lines.pop(test, None)


def measured_reach(folder: Path, record: Path) -> Reach:
    """The reach of the tests in `folder`: what `record` says, where files are as they were, else measured anew."""
    reach = Reach(**json.loads(record.read_text())) if record.exists() else Reach()
    sources = digest(folder.glob("flowar/**/*.py"))
    if reach.sources != sources:
        reach = Reach(sources)
    tests = {str(file.relative_to(folder)): digest([file]) for file in sorted(folder.rglob("tests/**/test_*.py"))}
    for file in {*reach.tests, *tests}:
        if reach.tests.get(file) != tests.get(file):
            reach.drop(file)
    changed = [file for file, its_digest in tests.items() if reach.tests.get(file) != its_digest]
    if changed:
        measure(reach, folder, changed)
    reach.tests = tests
    record.write_text(json.dumps(asdict(reach)))
    return reach


def digest(files: Iterable[Path]) -> str:
    return hashlib.sha256(b"\0".join(file.read_bytes() for file in sorted(files))).hexdigest()


def measure(reach: Reach, folder: Path, files: list[str]) -> None:
    """Run the tests of these files, and add what passes to `reach`."""
    with TemporaryDirectory() as name:
        data = Path(name)
        (data / "config").write_text(CONFIG.format(folder=folder, data=data))
        (data / "config_of_children").write_text(CONFIG_OF_CHILDREN.format(folder=folder, data=data))
        (data / "sitecustomize.py").write_text("import coverage\ncoverage.process_startup()\n")
        children = {"COVERAGE_PROCESS_START": str(data / "config_of_children"), "PYTHONPATH": name}
        with patch.dict(os.environ, children):
            run = run_tests(folder, ["-m", "not slow", *files], None, HOUR, Tracer(data / "config"))
        if not run.complete:
            raise RuntimeError(f"the tests did not come to their end: {run.failures}")
        for test, reason in run.failures.items():
            print(f"fails without a fault, and judges none: {test}\n{reason}")
        reach.seconds |= run.seconds
        for part in data.glob("run*"):
            for test, file, line in lines_of(CoverageData(str(part))):
                if test in run.seconds:
                    reach.lines.setdefault(test, {}).setdefault(str(Path(file).relative_to(folder)), []).append(line)


def lines_of(data: CoverageData) -> Iterator[tuple[str, str, int]]:
    """Test, file and line of all that a process came by."""
    data.read()
    for file in data.measured_files():
        for line, contexts in data.contexts_by_lineno(file).items():
            for context in contexts:
                yield context.removesuffix(" (call)").removesuffix(" (setup)"), file, line
