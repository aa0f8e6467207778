"""Checks of the C++ compiler and of the compiled ops."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from flowar.doctor.finding import Finding, ok, warning, wrong
from flowar.doctor.programs import ProgramError, output
from flowar.errors import first_line
from flowar.system.installation import REBUILD, without_libraries

if TYPE_CHECKING:
    import torch

COMPILERS = ("c++", "g++", "clang++")
PROGRAM = "#include <vector>\nint main() { return int(std::vector<int>{}.size()); }\n"
INSTALL_COMPILER = "install one, as with `apt install g++`, or name it in CXX"
INSTALL_TOOLKIT = f"install the CUDA toolkit, then {REBUILD}"
TOLERANCE = 1e-5
LIBRARY = Path(__file__).parents[1] / "_C_cpu.so"


def compiler() -> Finding:
    """Check that there is a C++ compiler that works: it builds the ops, and torch.compile needs it."""
    names = [name for name in (os.environ.get("CXX"), *COMPILERS) if name]
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        missing = f"no C++ compiler (none of {', '.join(names)})"
        if without_libraries() or LIBRARY.exists():
            return warning(f"{missing}; where no ops are to be built, only --compile needs one", INSTALL_COMPILER)
        return wrong(f"{missing}: the ops cannot be built, nor does --compile work", INSTALL_COMPILER)
    try:
        output([found, "-xc++", "-fsyntax-only", "-"], PROGRAM)
        return ok(f"{output([found, '--version']).splitlines()[0]} ({found})")
    except ProgramError as error:
        return wrong(f"{found} fails: {error}", INSTALL_COMPILER)


def ops() -> Finding:
    """Check that the compiled ops load with the running torch and compute the right numbers."""
    built_with = f"built with torch {build_info('torch_version')}"
    try:
        from flowar import ops
    except ImportError as error:
        reason = first_line(error).removeprefix("flowar: ").removesuffix(f"; {REBUILD}.")
        return wrong(f"{reason}, {built_with}", REBUILD)
    if ops.reference_active():
        return warning("none, as FLOWAR_NO_EXT=1 asked for: plain PyTorch serves them, slowly", "install without it")
    from flowar.system.precision import default_device

    device = default_device()
    if not computes_right(device):
        return wrong(f"other numbers than the definition gives; {built_with}", REBUILD)
    if device.type == "cuda" and (missing := ops.missing_kernels("cuda")):
        return without_kernels(built_with, missing if ops.cuda_kernels() else [])
    kernels = f", for GPUs {build_info('cuda_architectures')}" if ops.cuda_kernels() else ""
    return ok(f"{ops.implementation()}, {built_with}{kernels}")


def without_kernels(built_with: str, missing: Sequence[str]) -> Finding:
    """The finding for ops without kernels for GPUs; `missing` names them if others have some."""
    import torch

    of_which = f" of {', '.join(missing)}" if missing else ""
    found = f"{built_with}, without kernels for GPUs{of_which}"
    if torch.version.hip:
        return ok(f"{found}, as torch is for ROCm: plain PyTorch serves them there")
    return warning(f"{found}: plain PyTorch serves them there", INSTALL_TOOLKIT)


def build_info(name: str) -> str:
    """A fact that the build recorded; "unknown" if the record is missing or was made for another Python."""
    try:
        from flowar import _build_info
    except ImportError:
        return "unknown"
    return re.sub(r"[; ]+", ", ", getattr(_build_info, name))


def computes_right(device: torch.device) -> bool:
    """Whether an op gives the numbers of its definition on `device`."""
    import torch

    from flowar import ops

    x = torch.linspace(-3, 3, 4 * 128, device=device).view(4, 128)
    return torch.allclose(ops.geglu(x), ops.reference.geglu(x), rtol=TOLERANCE, atol=TOLERANCE)
