"""The campaign: all cases in processes side by side, and the report."""

from __future__ import annotations

import json
import multiprocessing
import shlex
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import fake_hub
import pytest

from campaign.case import Case, files_of, fits
from campaign.cases import KINDS, case_of, control, kind_of
from campaign.commands import COMMANDS
from campaign.material import write_material
from campaign.process import Outcome, import_everything, run
from campaign.tensors import LENGTH
from campaign.verdict import BAD_INPUT, Expected, findings, shown

CONTROL = "nothing wrong"
PROGRAM = "python tests/campaign"


class Task(NamedTuple):
    """A case to run, or, without a kind of fault, the command of this number as it works."""

    kind: str
    seed: int
    number: int
    material: Path
    folder: Path

    def case(self) -> Case:
        if self.kind == CONTROL:
            return control(self.number, self.material, self.folder)
        return case_of(self.seed, self.number, self.material, self.folder)


@dataclass(frozen=True)
class Result:
    """What came of a case."""

    task: Task
    command: str
    fault: str
    code: int
    wrong: list[str]

    def __str__(self) -> str:
        replay = (
            "" if self.task.kind == CONTROL else f"\n    {PROGRAM} --seed {self.task.seed} --case {self.task.number}"
        )
        return shown(f"{self.task.kind}; {self.command}; {self.fault}: {'; '.join(self.wrong)}", 600) + replay


def run_all(seed: int, count: int, jobs: int) -> int:
    """Run every command as it works, then `count` cases; print a table, and what was wrong; 1 if there is any."""
    with prepared() as (material, folder):
        working = [index for index, _ in enumerate(filter(lambda command: command.works, COMMANDS))]
        tasks = [Task(CONTROL, seed, number, material, folder / f"control{number}") for number in working]
        tasks += [Task(kind_of(number), seed, number, material, folder / str(number)) for number in range(count)]
        results = []
        with multiprocessing.get_context("fork").Pool(jobs) as pool:
            for result in pool.imap_unordered(run_task, tasks):
                results.append(result)
                if result.wrong:
                    print(result, flush=True)
    print("", *table(results), sep="\n")
    return 1 if any(result.wrong for result in results) else 0


def replay(seed: int, number: int) -> int:
    """Run one case, and show all of it; its folder stays."""
    with prepared() as (material, _):
        folder = Path(tempfile.mkdtemp(prefix="campaign"))
        task = Task(kind_of(number), seed, number, material, folder)
        case = task.case()
        outcome = run(case.arguments, folder, case.surroundings)
        result = judged(task, case, outcome)
    print(f"{task.kind}: {case.fault}; expected to be {case.expected.value}; {case.surroundings}")
    print(f"cd {folder / 'work'} && flowar {shlex.join(case.arguments)}")
    used = f"{outcome.seconds:.1f} s, {outcome.memory / 2**20:.0f} MiB"
    print(f"exit code {outcome.code} after {used}; changed {outcome.changed}")
    sys.stdout.flush()
    sys.stdout.buffer.write(outcome.out + outcome.err)
    sys.stdout.flush()
    print("wrong:", "; ".join(result.wrong) or "nothing")
    return 1 if result.wrong else 0


@contextmanager
def prepared() -> Iterator[tuple[Path, Path]]:
    """Everything imported, a Hub to ask, the material, and a folder for cases; both go away in the end."""
    import_everything()
    with tempfile.TemporaryDirectory(prefix="campaign") as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        with fake_hub.serve(fake_hub.FakeHub()) as hub:
            fake_hub.ask(hub, folder / "hub", patch)
            patch.setenv("HF_TOKEN", fake_hub.WRITER)
            write_material(folder / "material")
            yield folder / "material", folder


def run_task(task: Task) -> Result:
    """Make a case, run it, and remove its folder."""
    case = task.case()
    try:
        return judged(task, case, run(case.arguments, task.folder, case.surroundings))
    finally:
        shutil.rmtree(task.folder)


def judged(task: Task, case: Case, outcome: Outcome) -> Result:
    """What is wrong with a case; one that is to be mended runs again as it works."""
    wrong = findings(outcome, case.expected, case.may_write, (*case.command.codes, *case.codes))
    if case.mended and outcome.code == BAD_INPUT:
        again = run(case.command.arguments, task.folder)
        if again.code:
            wrong.append(f"then, with room on the disk: {findings(again, Expected.ACCEPTED, ('.',))}")
    if outcome.code == 0:
        wrong += other_results(task, case)
    return Result(task, str(case.command), case.fault, outcome.code, wrong)


def other_results(task: Task, case: Case) -> list[str]:
    """The results of a command that are not those that it has without a fault."""
    right, found = task.material / "work", task.folder / "work"
    names = [name for name in files_of(right) if fits(name, case.result)]
    return [f"another {name}" for name in names if content(right / name) != content(found / name)]


def content(path: Path) -> object:
    """What a file holds; of safetensors, the header apart, as the order of the metadata is another in every process."""
    whole = path.read_bytes()
    if path.suffix != ".safetensors":
        return whole
    end = LENGTH + int.from_bytes(whole[:LENGTH], "little")
    return json.loads(whole[LENGTH:end]), whole[end:]


def table(results: Sequence[Result]) -> list[str]:
    """How many cases of each kind ended how."""
    lines = [f"{'':<20} {'cases':>6} {'refused':>8} {'accepted':>9} {'wrong':>6}"]
    for kind in (CONTROL, *KINDS, None):
        own = [result for result in results if kind in (None, result.task.kind)]
        codes = [result.code for result in own]
        counts = (len(own), codes.count(BAD_INPUT), codes.count(0), sum(bool(result.wrong) for result in own))
        lines.append(f"{kind or 'all':<20} {counts[0]:>6} {counts[1]:>8} {counts[2]:>9} {counts[3]:>6}")
    return lines
