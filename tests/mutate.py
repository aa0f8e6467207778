"""Mutation testing: plants small faults one by one, runs the tests that come by each, and lists the faults that live.

    python tests/mutate.py --sample 300 --seed 0
    python tests/mutate.py --sample 50 --files flowar/sampling/*.py csrc/kernels/cpu/math.inl

It works in a temporary copy and keeps what it learns in build/mutation: which tests come by which lines (one run of the
everyday tests under coverage), and what became of each mutant, so that a run that was stopped goes on. Survivors that
change nothing a user can see stand in tests/mutation_survivors.txt with the reason; any other makes the exit code 1.

mutmut 3 was considered and not taken: it leaves out decorated functions and whatever is no function, puts trampolines
into the modules that tests of torch.compile, of pickles and of files entered then see, and knows no C++.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from mutation.cpp_mutants import cpp_mutants
from mutation.judge import INVALID, SURVIVED, configure, judge_cpp, judge_python
from mutation.mutants import Mutant
from mutation.python_mutants import python_mutants
from mutation.reach import digest, measured_reach
from mutation.run_tests import import_slow_modules
from mutation.tree import copy_tree
from tqdm import tqdm

ROOT = Path(__file__).parents[1]
WORK = ROOT / "build" / "mutation"
SURVIVORS = ROOT / "tests" / "mutation_survivors.txt"
FILES = [  # kernels, engine, solvers and schedule, the step of training, checkpoints, the store, metrics
    "csrc/kernels/*.h",
    "csrc/kernels/cpu/*.cpp",
    "csrc/kernels/cpu/*.inl",
    "flowar/engine/*.py",
    "flowar/sampling/solvers.py",
    "flowar/sampling/schedule.py",
    "flowar/training/step.py",
    "flowar/training/checkpoints.py",
    "flowar/storage/checkpoint.py",
    "flowar/training/latent_store.py",
    "flowar/evaluation/metrics/*.py",
]
Key = tuple[str, str, str]  # file, line before, line after


def main() -> int:
    options = parsed_options()
    mutants = [mutant for file in options.files or named_files() for mutant in mutants_of(file)]
    sample = sorted(mutants, key=partial(lot, options.seed))[: options.sample]
    sample.sort(key=lambda mutant: mutant.file.startswith("csrc"))  # Python first, on the library as it was built
    print(f"{len(sample)} of {len(mutants)} mutants, seed {options.seed}")
    WORK.mkdir(parents=True, exist_ok=True)
    import_slow_modules()
    with TemporaryDirectory(prefix="flowar-mutants-") as folder:
        copy_tree(ROOT, Path(folder))
        return report(judged(sample, Path(folder)))


def parsed_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=200, help="the number of mutants")
    parser.add_argument("--seed", type=int, default=0, help="the seed of the choice")
    parser.add_argument("--files", nargs="+", help="paths from the root of the checkout; default: the core's")
    return parser.parse_args()


def named_files() -> list[str]:
    return [str(file.relative_to(ROOT)) for pattern in FILES for file in sorted(ROOT.glob(pattern))]


def lot(seed: int, mutant: Mutant) -> bytes:
    """By what a mutant is drawn: of itself alone, so that a sample hardly changes with other files and lines."""
    return hashlib.sha256(f"{seed} {key(mutant)}".encode()).digest()


def mutants_of(file: str) -> list[Mutant]:
    return (python_mutants if file.endswith(".py") else cpp_mutants)(file, (ROOT / file).read_bytes())


def judged(sample: list[Mutant], folder: Path) -> dict[Mutant, str]:
    """Who killed each mutant, or `SURVIVED`. Survivors of an earlier run are judged again if tests have changed."""
    record = WORK / "results.jsonl"
    lines = record.read_text().splitlines() if record.exists() else []
    known = {(each["mutant"], each["source"]): each for each in map(json.loads, lines)}
    reach = measured_reach(folder, WORK / "reach.json")
    tests, outcomes, configured = digest((folder / "tests").rglob("*.py")), dict[Mutant, str](), False
    for mutant in (progress := tqdm(sample, unit="mutant")):
        name, source = repr(mutant), digest([folder / mutant.file])
        before = known.get((name, source))
        if before is None or (before["outcome"] == SURVIVED and before["tests"] != tests):
            if mutant.file.endswith(".py"):
                outcome = judge_python(folder, mutant, reach)
            else:
                configured = configured or configure(folder)
                outcome = judge_cpp(folder, mutant, reach)
            before = {"mutant": name, "source": source, "tests": tests, "outcome": outcome}
            with record.open("a") as file:
                file.write(json.dumps(before) + "\n")
        outcomes[mutant] = before["outcome"]
        progress.set_postfix(survived=list(outcomes.values()).count(SURVIVED))
    return outcomes


def report(outcomes: dict[Mutant, str]) -> int:
    """Print the survivors that are not listed, and the score; 1 if there are some, else 0."""
    listed = listed_survivors()
    valid = {mutant: outcome for mutant, outcome in outcomes.items() if outcome != INVALID}
    survivors = [mutant for mutant, outcome in valid.items() if outcome == SURVIVED]
    equivalent = [mutant for mutant in survivors if key(mutant) in listed]
    unexplained = [mutant for mutant in survivors if key(mutant) not in listed]
    for file, before, after in map(key, unexplained):
        print(f"\n{file}\n- {before}\n+ {after}")
    killed, counted = len(valid) - len(survivors), len(valid) - len(equivalent)
    print(f"\n{killed} of {counted} killed: {killed / max(counted, 1):.1%}; besides, {len(equivalent)} are equivalent")
    return 1 if unexplained else 0


def key(mutant: Mutant) -> Key:
    return mutant.file, *mutant.shown((ROOT / mutant.file).read_bytes())


def listed_survivors() -> dict[Key, str]:
    """The equivalent mutants and why each is one."""
    blocks = SURVIVORS.read_text().strip().split("\n\n")[1:]  # after the one that says what the file is
    survivors = {}
    for block in blocks:
        file, before, after, *reason = block.splitlines()
        survivors[file, before.removeprefix("- "), after.removeprefix("+ ")] = " ".join(reason)
    return survivors


if __name__ == "__main__":
    sys.exit(main())
