"""Builds the libraries of emulated CUDA kernels for the torch that runs, and starts pytest upon one of them."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from pathlib import Path

import torch
from torch.utils import cpp_extension

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
CMAKE = shutil.which("cmake", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def build() -> Path:
    """The folder of `libemulated_ops.so` and `libplanted_ops.so`. Only what has changed is compiled."""
    folder = ROOT / f"build/emulated-{torch.__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    includes, libraries = ";".join(cpp_extension.include_paths()), Path(torch.__file__).parent / "lib"
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        _cmake("-S", HERE, "-B", folder, f"-DTORCH_INCLUDES={includes}", f"-DTORCH_LIBRARIES={libraries}")
        _cmake("--build", folder, "--parallel", "2")
    return folder


def _cmake(*arguments: str | Path) -> None:
    command = [CMAKE or "cmake", *arguments]
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert result.returncode == 0, result.stdout[-4000:]


def pytest_upon(library: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run pytest in a process of its own, where `library` serves the ops."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    path = filter(None, (str(HERE), environment.get("PYTHONPATH")))
    environment |= {"PYTHONPATH": os.pathsep.join(path), "FLOWAR_EMULATED": str(library)}
    command = [sys.executable, "-m", "pytest", "-p", "emulated_kernels", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
