"""Checks of NVIDIA's driver and toolkit, and of torch with them."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from flowar.doctor.finding import Finding, ok, warning, wrong
from flowar.doctor.programs import ProgramError, output
from flowar.errors import first_line

DRIVER_FILE = Path("/proc/driver/nvidia/version")
DEFAULT_TOOLKIT = Path("/usr/local/cuda")

REINSTALL_DRIVER = "load the kernel module (`sudo modprobe nvidia`), or install the driver again"
REINSTALL_TOOLKIT = "install the CUDA toolkit again, or set CUDA_HOME to one that works"
INSTALL_CUDA_TORCH = "install a torch for CUDA, by the command that https://pytorch.org/get-started/locally shows"


@dataclass(frozen=True)
class Driver:
    """NVIDIA's driver: its version, the latest CUDA that it serves (None if unknown), and the names of the GPUs."""

    version: str
    cuda: str | None = None
    gpus: tuple[str, ...] = ()

    def __str__(self) -> str:
        return ", ".join((f"driver {self.version}", *self.gpus))


def find_driver() -> Driver | None:
    """Find the driver by nvidia-smi, or by the kernel if there is no such program; None without a driver.

    Raises:
        ProgramError: if nvidia-smi fails.
    """
    if shutil.which("nvidia-smi"):
        rows = output(["nvidia-smi", "--query-gpu=driver_version,name", "--format=csv,noheader"]).splitlines()
        versions, gpus = zip(*(row.split(", ", 1) for row in rows), strict=True) if rows else (("unknown",), ())
        latest = re.search(r"CUDA[\w ]* Version: *(\d+\.\d+)", output(["nvidia-smi"]))
        return Driver(versions[0], latest and latest[1], gpus)
    if DRIVER_FILE.exists():
        version = re.search(r"\b\d+\.\d+(\.\d+)?\b", DRIVER_FILE.read_text())
        return Driver(version[0] if version else "unknown")
    return None


def find_toolkit() -> Path | None:
    """Find the nvcc that builds would use: in CUDA_HOME or CUDA_PATH, on PATH, or in the usual place."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates = [
        *(Path(home, "bin/nvcc") for home in homes if home),
        shutil.which("nvcc"),
        DEFAULT_TOOLKIT / "bin/nvcc",
    ]
    return next((Path(each) for each in candidates if each and Path(each).exists()), None)


def toolkit_version(nvcc: Path) -> str:
    """The CUDA version of a toolkit.

    Raises:
        ProgramError: if nvcc fails, or does not tell.
    """
    version = re.search(r"release (\d+\.\d+)", output([str(nvcc), "--version"]))
    if version is None:
        raise ProgramError("nvcc --version names no release")
    return version[1]


def driver() -> Finding:
    """Check that there is a driver and that nvidia-smi works."""
    try:
        found = find_driver()
    except ProgramError as error:
        return wrong(f"nvidia-smi fails: {error}", REINSTALL_DRIVER)
    if found is None:
        return warning("none, so the CPU does all the work", "if there is a GPU, install NVIDIA's driver")
    return ok(str(found))


def toolkit() -> Finding:
    """Check that there is a toolkit and that nvcc works."""
    nvcc = find_toolkit()
    if nvcc is None:
        return ok("none; only a build of the ops for GPUs needs one")
    try:
        return ok(f"CUDA {toolkit_version(nvcc)} ({nvcc})")
    except ProgramError as error:
        return wrong(f"{nvcc} fails: {error}", REINSTALL_TOOLKIT)


def cuda() -> Finding:
    """Check that torch fits the driver and the toolkit, and that a GPU computes."""
    import torch

    found, nvcc = find_driver(), find_toolkit()
    built_for = torch.version.cuda
    if torch.version.hip:
        return ok(f"none: torch is for ROCm {torch.version.hip}, on which this package is untested")
    if built_for is None and found:
        return wrong(f"torch {torch.__version__} has no CUDA, but here is {found}", INSTALL_CUDA_TORCH)
    if built_for is None:
        return ok("none in torch, and no driver" + (", so the toolkit is unused" if nvcc else ""))
    if found is None:
        return ok(f"{built_for} in torch, unused")
    if not torch.cuda.is_available():
        return no_device(built_for, found)
    try:
        (torch.ones(16, 16, device="cuda") @ torch.ones(16, 16, device="cuda")).sum().item()
    except RuntimeError as error:  # such as a torch without kernels for this GPU
        return wrong(f"the GPU does not compute: {first_line(error)}", INSTALL_CUDA_TORCH)
    if nvcc and toolkit_version(nvcc).split(".")[0] != built_for.split(".")[0]:
        major = built_for.split(".")[0]
        mismatch = f"torch is for CUDA {built_for}, the toolkit is CUDA {toolkit_version(nvcc)}"
        return warning(f"{mismatch}: the ops cannot be built for GPUs", f"set CUDA_HOME to a toolkit of CUDA {major}")
    return ok(f"{built_for} in torch, on {torch.cuda.get_device_name()}")


def no_device(built_for: str, found: Driver) -> Finding:
    """The finding if torch sees no GPU though there is a driver."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return warning(f"no GPU is visible, as CUDA_VISIBLE_DEVICES={visible!r}", "unset it to use the GPU")
    if not found.gpus:
        return warning(f"driver {found.version}, but no GPU", "if there is one, see what nvidia-smi says")
    serves = f", which serves CUDA up to {found.cuda}" if found.cuda else ""
    remedy = f"update the driver, or {INSTALL_CUDA_TORCH}"
    return wrong(f"torch for CUDA {built_for} does not work with {found}{serves}", remedy)
