"""What becomes of a mutant: who kills it, if anyone."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from pathlib import Path

from mutation.mutants import Mutant
from mutation.reach import Reach
from mutation.run_tests import run_tests
from mutation.tree import mutated

SURVIVED, INVALID = "survived", "does not compile"
BUILD = "build/cmake"
CTESTS = {"test_kernels": "^kernels_(baseline|avx2|avx512)$", "test_kernels_sanitized": "^kernels_sanitized$"}
CTEST_OPTIONS = ("--stop-on-failure", "--timeout", "120")
TESTS_OF_OPS = ("tests/ops/", "tests/test_build.py", "tests/test_fp8.py", "tests/test_noise.py")
BIN = Path(sys.executable).parent
BUDGET = 60  # seconds of tests for one mutant, the quickest first
LIMIT = 60 + 5 * BUDGET  # for imports, and for faults that make tests slow


def judge_python(folder: Path, mutant: Mutant, reach: Reach) -> str:
    """Run the tests that come by a mutant, the quickest first."""
    with mutated(folder, mutant):
        return failure(folder, reach.of(mutant))


def failure(folder: Path, tests: dict[str, float]) -> str:
    """The first of these tests that fails, of the quickest that fit the budget."""
    order = sorted(tests, key=lambda test: tests[test])
    ends = itertools.accumulate(tests[test] for test in order)
    chosen = {test: end for test, end in zip(order, ends, strict=True) if end <= BUDGET}
    if not chosen:
        return SURVIVED
    files = sorted({test.split("::")[0] for test in chosen})
    return next(iter(run_tests(folder, ["-x", "-m", "not slow", *files], chosen, LIMIT).failures), SURVIVED)


def judge_cpp(folder: Path, mutant: Mutant, reach: Reach) -> str:
    """Build and run the tests of the kernels by themselves, then those of the ops upon the kernels."""
    with mutated(folder, mutant):
        for target in ("test_kernels", "test_kernels_sanitized"):
            if not succeeds(folder, "cmake", "--build", BUILD, "--target", target):
                return INVALID
            if not succeeds(folder, "ctest", "--test-dir", BUILD, "-R", CTESTS[target], *CTEST_OPTIONS):
                return target
        if not succeeds(folder, "python", "setup.py", "build_ext", "--inplace"):
            return INVALID
        return failure(folder, {test: s for test, s in reach.seconds.items() if test.startswith(TESTS_OF_OPS)})


def configure(folder: Path) -> bool:
    """Prepare builds of the kernels by themselves."""
    ninja = ("-G", "Ninja", f"-DCMAKE_MAKE_PROGRAM={BIN / 'ninja'}")
    if not succeeds(folder, "cmake", "-S", ".", "-B", BUILD, *ninja):
        raise RuntimeError("the kernels' build could not be configured")
    return True


def succeeds(folder: Path, program: str, *arguments: str) -> bool:
    environment = os.environ | {"FLOWAR_BUILD_CUDA": "0", "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"}
    command = [str(BIN / program), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False).returncode == 0
