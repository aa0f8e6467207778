"""GPUs that are not there find no fault in the package, and find those that are planted.

In a process of its own: what PyTorch takes for a driver stays there.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler"),
]


def run(*parts: str) -> tuple[int, str]:
    """Exit code and table of these parts."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("fake_gpu_run.py"), *parts], capture_output=True, text=True
    )
    assert done.returncode in (0, 1) and "findings;" in done.stdout, done.stdout + done.stderr  # noqa: PT018
    return done.returncode, done.stdout


def test_nothing_is_found() -> None:
    code, table = run()
    assert code == 0, table
    assert len(table.splitlines()) > 8


def test_planted_faults_are_found() -> None:
    code, table = run("planted")
    assert code == 1
    found = dict(re.findall(r"planted: ([^\n]*?)  .*\n    (\w[\w ]*): ", table))
    assert found == {
        "the host reads a value": "host read",
        "the host counts": "host read",
        "a tensor on the CPU": "mixed devices",
        "a tensor on the current GPU": "mixed devices",
        "a copy to the host": "copy to the host",
        "the host waits in a CUDA graph": "not for a CUDA graph",
    }, table
