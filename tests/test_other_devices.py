"""On accelerators other than CUDA's plain PyTorch serves the ops, and nothing asks `torch.cuda` about them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

TESTS = Path(__file__).parent


@pytest.mark.slow
def test_cases_of_another_device() -> None:
    """In a process of its own, which has such a device from its start to its end."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", TESTS / "other_device_cases.py"]
    done = subprocess.run(command, cwd=TESTS.parent, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
