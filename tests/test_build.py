"""The build: what is compiled from what, what a kernel may include, what came out, and life without it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import flowar
from flowar import ops

ROOT = Path(__file__).parents[1]
LIBRARY = Path(flowar.__file__).parent / "_C_cpu.so"
KERNELS = sorted((ROOT / "csrc/kernels/cpu").glob("*.cpp"))
OPS = [path.stem for path in KERNELS if path.stem != "isa"]
CUDA_KERNELS = [path.stem for path in sorted((ROOT / "csrc/kernels/cuda").glob("*.cu"))]
# Resampling gathers single elements, and noise reads nothing.
WITHOUT_VECTOR_LOADS = {"latent_pyramid", "latent_resample", "counter_normal"}


def run_python(code: str, *arguments: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments, "-c", code],
        cwd=folder,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_both_builds_compile_the_same_kernels() -> None:
    setup, cmake = (ROOT / "setup.py").read_text(), (ROOT / "CMakeLists.txt").read_text()
    for folder, suffix in [("cpu", "cpp"), ("cuda", "cu")]:
        pattern = f"kernels/{folder}/*.{suffix}"
        assert f'"{pattern}"' in setup
        assert f"csrc/{pattern})" in cmake
    flags = re.search(r"CXX_FLAGS = \[(.*)\]", setup)
    assert flags
    numeric = [
        flag for flag in re.findall(r'"(-[^"]*)"', flags[1]) if flag.startswith(("-O", "-f")) and "visib" not in flag
    ]
    assert " ".join(numeric) in cmake


def test_one_base_name_per_op() -> None:
    """Header, kernel, binding, Python module and reference of every op share its name."""
    assert OPS
    for name in OPS:
        assert (ROOT / f"csrc/kernels/{name}.h").exists()
        assert (ROOT / f"csrc/bindings/{name}.cpp").exists()
        assert (ROOT / f"flowar/ops/{name}.py").exists()
        assert hasattr(ops.reference, name)
        assert name in ops.__all__


def test_kernels_know_no_framework() -> None:
    forbidden = re.compile(r"#\s*include.*(torch|ATen|c10|pybind|Python\.h)|-ffast-math|\bat::")
    for path in (ROOT / "csrc/kernels").rglob("*.*"):
        assert not forbidden.search(path.read_text()), path


def test_setup_is_short() -> None:
    assert len((ROOT / "setup.py").read_text().splitlines()) <= 120


@pytest.mark.skipif(ops.reference_active(), reason="installed without the compiled ops")
@pytest.mark.skipif(shutil.which("objdump") is None, reason="needs objdump to read the machine code")
@pytest.mark.skipif(os.uname().machine != "x86_64", reason="reads x86-64 machine code")
def test_kernels_are_vectorised() -> None:
    """The float loops of every kernel compute in 256-bit registers for AVX2 and in 512-bit ones for AVX-512."""
    command = ["objdump", "--disassemble", "--demangle", "--no-show-raw-insn", LIBRARY]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    functions = re.split(r"\n(?=[0-9a-f]{16} <)", listing)
    for name in OPS:
        parameters = f"(flowar::{''.join(word.capitalize() for word in name.split('_'))} const&"
        for isa, register in [("avx2", "ymm"), ("avx512", "zmm")]:
            heads = (part.split("\n", 1) for part in functions)
            body = "".join(code for head, code in heads if f"flowar::{isa}::" in head and parameters in head)
            arithmetic = re.findall(rf"v(?:fn?m(?:add|sub)\w*|mul|add|sub)p[sd]\s.*%{register}", body)
            assert len(arithmetic) >= 2, f"{name}: {len(arithmetic)} arithmetic instructions on {register} registers"


def cuda_architectures(setup: str) -> list[str]:
    """The default of setup.py without dots; PTX goes with the last one."""
    default = re.search(r'"TORCH_CUDA_ARCH_LIST", "([\d.;]+)\+PTX"', setup)
    assert default
    return default[1].replace(".", "").split(";")


def test_both_builds_compile_for_the_same_architectures() -> None:
    setup, cmake = (ROOT / "setup.py").read_text(), (ROOT / "CMakeLists.txt").read_text()
    theirs = re.search(r"CMAKE_CUDA_ARCHITECTURES ([\d a-z-]+)\)", cmake)
    assert theirs
    assert re.findall(r"\d+", theirs[1]) == cuda_architectures(setup)
    assert not theirs[1].endswith("-real"), "the last architecture comes with PTX, for those after it"


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="needs nvcc")
@pytest.mark.parametrize("name", CUDA_KERNELS)
def test_cuda_kernels_compile_well(name: str, tmp_path: Path) -> None:
    """For every architecture: no register is spilled, and vector kernels load and store 16 bytes at a time."""
    architectures = cuda_architectures((ROOT / "setup.py").read_text())
    targets = [f"-gencode=arch=compute_{each},code=sm_{each}" for each in architectures]
    targets.append(f"-gencode=arch=compute_{architectures[-1]},code=compute_{architectures[-1]}")
    options = ["-std=c++17", "-O3", "-DUSE_CUDA", "-fatbin", "-Xptxas=-v", "--keep", f"--keep-dir={tmp_path}"]
    source, out = ROOT / f"csrc/kernels/cuda/{name}.cu", tmp_path / "kernels.fatbin"
    result = subprocess.run(
        ["nvcc", *options, *targets, str(source), "-o", str(out)], capture_output=True, text=True, check=False
    )
    report = result.stdout + result.stderr
    assert result.returncode == 0, report
    assert "warning" not in report, report
    stores_and_loads = re.findall(r"(\d+) bytes spill stores, (\d+) bytes spill loads", report)
    assert len(stores_and_loads) >= len(architectures)
    assert set(stores_and_loads) == {("0", "0")}, report
    for each in architectures:
        code = (tmp_path / f"{name}.compute_{each}.ptx").read_text()
        if name not in WITHOUT_VECTOR_LOADS:
            assert re.search(r"ld\.global\S*\.v4\.", code), each
            assert re.search(r"st\.global\S*\.v4\.", code), each


@pytest.mark.skipif(ops.reference_active(), reason="installed without the compiled ops")
def test_build_info() -> None:
    from flowar import _build_info

    assert "." in _build_info.torch_version
    assert _build_info.compiler
    assert isinstance(_build_info.cuda_architectures, str)
    assert isinstance(_build_info.cpu_features(), list)


USE = "import torch; from flowar import ops; print(ops.implementation()); print(ops.geglu(torch.ones(1, 2)).item())"
WITHOUT = """
import torch
from flowar import ops
assert ops.implementation() == "reference"
x = torch.ones(1, 2, requires_grad=True)
ops.geglu(x).sum().backward()
assert x.grad.abs().sum() > 0
with ops.use_reference():
    ops.geglu(x)
ops.cpu_isa()
"""


def test_without_extension() -> None:
    """FLOWAR_NO_EXT=1 serves every op and its gradient from the reference, and says so once."""
    result = run_python(WITHOUT, "-W", "always", FLOWAR_NO_EXT="1")
    assert result.stderr.splitlines()[-1] == "RuntimeError: flowar runs without its compiled ops", result.stderr
    assert result.stderr.count("UserWarning: flowar runs without its compiled ops") == 1


def copy_of_ops(folder: Path) -> Path:
    """The package's ops, and what they need of it."""
    shutil.copytree(Path(flowar.__file__).parent / "ops", folder / "flowar/ops")
    shutil.copy(Path(flowar.__file__).parent / "installation.py", folder / "flowar")
    (folder / "flowar/__init__.py").touch()
    return folder


@pytest.mark.skipif(ops.reference_active(), reason="installed without the compiled ops")
@pytest.mark.parametrize(
    ("content", "reason"), [(None, "is missing"), (b"not a library", f"does not load with torch {torch.__version__}")]
)
def test_unusable_library(tmp_path: Path, content: bytes | None, reason: str) -> None:
    """An error that names the command that mends it, not a silent change of implementation."""
    folder = copy_of_ops(tmp_path)
    if content is not None:
        (folder / "flowar/_C_cpu.so").write_bytes(content)
    result = run_python(USE, folder=folder)
    assert result.returncode == 1
    assert f"ImportError: flowar: the compiled library _C_cpu.so {reason}" in result.stderr
    assert "pip install -e ." in result.stderr


@pytest.mark.skipif(ops.reference_active(), reason="installed without the compiled ops")
def test_old_torch(tmp_path: Path) -> None:
    result = run_python("import torch; torch.__version__ = '2.10.1'; import flowar.ops")
    assert "ImportError: flowar: torch 2.10.1 is too old; `pip install 'torch>=2.11'`" in result.stderr


@pytest.mark.skipif(ops.reference_active(), reason="installed without the compiled ops")
def test_isa_from_the_environment() -> None:
    assert "compiled (baseline)" in run_python(USE, FLOWAR_ISA="baseline").stdout


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="needs a C++ compiler")
def test_a_failed_compile_shows_the_message(tmp_path: Path) -> None:
    for name in ("csrc", "setup.py", "pyproject.toml"):
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    (tmp_path / "csrc/ops.cpp").write_text("#error this op is broken\n")
    for folder in ("bindings", "kernels"):
        shutil.rmtree(tmp_path / "csrc" / folder)
    result = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--build-lib", str(tmp_path / "out")],
        cwd=tmp_path,
        env=os.environ | {"FLOWAR_BUILD_CUDA": "0", "MAX_JOBS": "2"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode != 0
    assert "#error this op is broken" in result.stdout + result.stderr


def test_a_forced_cuda_build_needs_a_toolkit(tmp_path: Path) -> None:
    script = (ROOT / "setup.py").read_text().replace("/usr/local", str(tmp_path))
    (tmp_path / "setup.py").write_text(script)
    environment = {"FLOWAR_BUILD_CUDA": "1", "CUDA_HOME": "", "CUDA_PATH": "", "PATH": str(tmp_path)}
    result = run_python("import setup", folder=tmp_path, **environment)
    assert "FLOWAR_BUILD_CUDA=1, but no CUDA toolkit was found" in result.stderr
