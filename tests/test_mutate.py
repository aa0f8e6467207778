"""The script that mutates: the faults it plants, who finds them, and the list of those that nobody can find."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import mutate
import pytest
from mutation.cpp_mutants import cpp_mutants
from mutation.judge import SURVIVED, configure, judge_cpp, judge_python
from mutation.mutants import Mutant
from mutation.python_mutants import python_mutants
from mutation.reach import Reach, measured_reach

PYTHON = '''"""A module."""

__all__ = ["clipped", "Box"]


def clipped(x: int, high: int = 8) -> int:
    """At most `high`, 8 by default."""
    if x is None or x > high:
        x = high
    return x


class Box:
    open = True

    def __repr__(self) -> str:
        return "box" + str(1)

    def check(self, count: int) -> None:
        if not self.open:
            raise ValueError(f"expected {1 + 1}, got " + str(count - 1))
        print(-count)
'''
PYTHON_MUTANTS = [
    ("def clipped(x: int, high: int = 8) -> int:", "def clipped(x: int, high: int = 9) -> int:"),
    ("if x is None or x > high:", "if (not (x is None or x > high)):"),
    ("if x is None or x > high:", "if x is None and x > high:"),
    ("if x is None or x > high:", "if x is not None or x > high:"),
    ("if x is None or x > high:", "if x is None or x >= high:"),
    ("x = high", "pass"),
    ("return x", "return None"),
    ("open = True", "open = False"),
    ("if not self.open:", "if (self.open):"),
    ("print(-count)", "pass"),
    ("print(-count)", "print((count))"),
]

CPP = """#include "toy.h"  // 1 + 1

// The sum of 2 * x over x > 0.
int doubled(const int* x, int count) {
  int sum = 0;
  for (int i = 0; i < count; ++i) {
    if (x[i] > 0 && !sum) reset(sum);
    sum += 2 * x[i];
  }
  return -sum;
}
"""
CPP_MUTANTS = [
    ("int sum = 0;", "int sum = (0 + 1);"),
    ("for (int i = 0; i < count; ++i) {", "for (int i = (0 + 1); i < count; ++i) {"),
    ("for (int i = 0; i < count; ++i) {", "for (int i = 0; i <= count; ++i) {"),
    ("if (x[i] > 0 && !sum) reset(sum);", "if (!(x[i] > 0 && !sum)) reset(sum);"),
    ("if (x[i] > 0 && !sum) reset(sum);", "if (x[i] >= 0 && !sum) reset(sum);"),
    ("if (x[i] > 0 && !sum) reset(sum);", "if (x[i] > (0 + 1) && !sum) reset(sum);"),
    ("if (x[i] > 0 && !sum) reset(sum);", "if (x[i] > 0 || !sum) reset(sum);"),
    ("if (x[i] > 0 && !sum) reset(sum);", "if (x[i] > 0 && sum) reset(sum);"),
    ("if (x[i] > 0 && !sum) reset(sum);", "if (x[i] > 0 && !sum) ;"),
    ("sum += 2 * x[i];", ";"),
    ("sum += 2 * x[i];", "sum -= 2 * x[i];"),
    ("sum += 2 * x[i];", "sum += (2 + 1) * x[i];"),
    ("sum += 2 * x[i];", "sum += 2 / x[i];"),
    ("return -sum;", "return {};"),
    ("return -sum;", "return sum;"),
]


@pytest.mark.parametrize(
    ("find", "source", "expected"), [(python_mutants, PYTHON, PYTHON_MUTANTS), (cpp_mutants, CPP, CPP_MUTANTS)]
)
def test_mutants(find: Callable[[str, bytes], list[Mutant]], source: str, expected: list[tuple[str, str]]) -> None:
    found = [mutant.shown(source.encode()) for mutant in find("toy", source.encode())]
    assert sorted(found) == sorted(expected)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)


TESTS_OF_PYTHON = """import subprocess, sys
from flowar.toy import clipped

def test_low():
    assert clipped(1) == 1

def test_none():
    code = "from flowar import toy; print(toy.clipped(None))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "8\\n"

def test_that_fails():
    assert clipped(9) == 9
"""


def test_python_is_judged_by_the_tests_that_come_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In processes that they start, too; those that fail without a fault are no judges."""
    for name in [name for name in sys.modules if name.split(".")[0] == "flowar"]:
        monkeypatch.delitem(sys.modules, name)  # the copy's shall be imported
    folder = tmp_path / "copy"
    write(folder, {"flowar/__init__.py": "", "flowar/toy.py": PYTHON, "tests/test_toy.py": TESTS_OF_PYTHON})
    reach = measured_reach(folder, tmp_path / "reach.json")
    expected = {
        "if x is not None or x > high:": "tests/test_toy.py::test_low",
        "if x is None and x > high:": "tests/test_toy.py::test_none",
        "if x is None or x >= high:": SURVIVED,
        "print((count))": SURVIVED,
    }
    mutants = {mutant.shown(PYTHON.encode())[1]: mutant for mutant in python_mutants("flowar/toy.py", PYTHON.encode())}
    for after, outcome in expected.items():
        assert judge_python(folder, mutants[after], reach) == outcome
    assert (folder / "flowar/toy.py").read_text() == PYTHON
    (folder / "tests/test_toy.py").write_text("")
    assert measured_reach(folder, tmp_path / "reach.json").seconds == {}


KERNEL = """int twice(int x) {
  const int least = 0;
  return 2 * (x > least ? x : least);
}
"""
TEST_OF_KERNEL = """int twice(int x);
int main() { return twice(3) != 6; }
"""
BUILD_OF_KERNEL = """cmake_minimum_required(VERSION 3.18)
project(toy LANGUAGES CXX)
enable_testing()
add_executable(test_kernels kernel.cpp test.cpp)
add_test(NAME kernels_baseline COMMAND test_kernels)
add_executable(test_kernels_sanitized kernel.cpp test.cpp)
add_test(NAME kernels_sanitized COMMAND test_kernels_sanitized)
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_kernels_are_judged_by_their_own_tests_and_those_of_the_ops(tmp_path: Path) -> None:
    test = "import pathlib\n\ndef test_it():\n    assert 'least = 0' in pathlib.Path('kernel.cpp').read_text()\n"
    files = {"kernel.cpp": KERNEL, "test.cpp": TEST_OF_KERNEL, "CMakeLists.txt": BUILD_OF_KERNEL, "setup.py": ""}
    write(tmp_path, files | {"tests/ops/test_toy.py": test})
    reach = Reach(seconds={"tests/ops/test_toy.py::test_it": 0.0})
    configure(tmp_path)
    expected = {
        "const int least = (0 + 1);": "tests/ops/test_toy.py::test_it",
        "return 2 / (x > least ? x : least);": "test_kernels",
        "return 2 * (x >= least ? x : least);": SURVIVED,
    }
    mutants = {mutant.shown(KERNEL.encode())[1]: mutant for mutant in cpp_mutants("kernel.cpp", KERNEL.encode())}
    for after, outcome in expected.items():
        assert judge_cpp(tmp_path, mutants[after], reach) == outcome


def test_listed_survivors_are_mutants() -> None:
    """Each with its reason; whoever changes such a line looks at it again."""
    listed = mutate.listed_survivors()
    possible = {mutate.key(mutant) for file in {file for file, *_ in listed} for mutant in mutate.mutants_of(file)}
    assert {*listed} <= possible
    assert all(listed.values())
