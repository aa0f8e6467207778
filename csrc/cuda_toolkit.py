"""The CUDA toolkit that setup.py builds with: where it is, whether it fits torch, what it can compile for."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

MINIMUM_CUDA = 12  # no torch that this package runs on is built for an older one
ARCHITECTURES = ("8.0", "9.0", "10.0", "12.0")  # as far as nvcc knows them; PTX of the last serves those after it


def find_toolkit(torch_cuda: str | None, torch_hip: str | None) -> Path | None:
    """The toolkit to build the library of CUDA ops with; None where that is to be left out, with a warning if it fails.

    Args:
        torch_cuda: the version of CUDA that torch is built for, if any.
        torch_hip: that of ROCm. Its tensors are on "cuda" too, but no nvcc compiles for them.

    Raises:
        SystemExit: where FLOWAR_BUILD_CUDA=1 asks for a library that cannot be built.
    """
    wanted = os.environ.get("FLOWAR_BUILD_CUDA")
    home = None if wanted == "0" else toolkit_on_this_machine()
    if home is None and wanted != "1":
        return None
    if torch_hip:
        problem = f"torch is built for ROCm {torch_hip}, where plain PyTorch serves the ops."
    elif home is None:
        problem = "no CUDA toolkit was found. Set CUDA_HOME to its folder."
    else:
        problem = mismatch(home, torch_cuda)
    if problem and wanted == "1":
        raise SystemExit(f"flowar: FLOWAR_BUILD_CUDA=1, but {problem}")
    if problem:
        print(f"flowar: warning: no ops are built for GPUs: {problem}", file=sys.stderr)
    return None if problem else home


def toolkit_on_this_machine() -> Path | None:
    """The folder that holds the headers: nvcc on PATH may be a script that lives elsewhere."""
    nvcc = shutil.which("nvcc")
    folders = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), nvcc and Path(nvcc).resolve().parents[1]]
    folders += ["/usr/local/cuda", *sorted(Path("/usr/local").glob("cuda-*"), reverse=True)]
    homes = map(Path, filter(None, folders))
    return next((h for h in homes if (h / "include/cuda_runtime.h").exists() and (h / "bin/nvcc").exists()), None)


def mismatch(home: Path, torch_cuda: str | None) -> str:
    """Why this toolkit does not serve a torch of that CUDA version; nothing if it does, or torch is a CPU build."""
    try:
        found = re.search(r"release ((\d+)\.\d+)", nvcc(home, "--version"))
    except (OSError, subprocess.CalledProcessError) as error:
        return f"{home}/bin/nvcc does not work ({error})."
    if found is None:
        return f"{home}/bin/nvcc does not tell its version."
    if torch_cuda and found[2] != torch_cuda.split(".")[0]:
        remedy = "Set CUDA_HOME to a toolkit of torch's major version."
        return f"the toolkit in {home} is CUDA {found[1]}, torch is built for CUDA {torch_cuda}. {remedy}"
    if int(found[2]) < MINIMUM_CUDA:
        return f"the toolkit in {home} is CUDA {found[1]}. Set CUDA_HOME to one of CUDA {MINIMUM_CUDA} or later."
    return ""


def architectures(home: Path) -> str:
    """Those of `ARCHITECTURES` that this toolkit compiles for, as TORCH_CUDA_ARCH_LIST has them."""
    known = re.findall(r"compute_(\d+)$", nvcc(home, "--list-gpu-arch"), re.MULTILINE)
    return ";".join(each for each in ARCHITECTURES if each.replace(".", "") in known) + "+PTX"


def nvcc(home: Path, option: str) -> str:
    """What the compiler answers."""
    return subprocess.run([home / "bin/nvcc", option], capture_output=True, text=True, check=True).stdout


def stub_torch_cuda(folder: Path) -> str:
    """An empty libtorch_cuda.so to link against where torch is a CPU build; a CUDA torch brings the real one."""
    folder.mkdir(parents=True, exist_ok=True)
    library = "libtorch_cuda.so"
    subprocess.run(["gcc", "-shared", f"-Wl,-soname,{library}", "-xc", os.devnull, "-o", folder / library], check=True)
    return str(folder)
