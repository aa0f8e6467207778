"""The build: what is compiled from what, what a kernel may include, what came out, and life without it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cuda_toolkit
import pytest
import torch

import flowar
from flowar import ops

ROOT = Path(__file__).parents[1]
LIBRARY = Path(flowar.__file__).parent / "_C_cpu.so"
KERNELS = sorted((ROOT / "csrc/kernels/cpu").glob("*.cpp"))
OPS = [path.stem for path in KERNELS if path.stem != "isa"]
CUDA_KERNELS = [path.stem for path in sorted((ROOT / "csrc/kernels/cuda").glob("*.cu"))]
EIGHT_BYTES = "quantize_rows"  # of float8 that a thread stores
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


def test_both_builds_compile_for_the_same_architectures() -> None:
    theirs = re.search(r"foreach\(ARCHITECTURE ([\d ]+)\)", (ROOT / "CMakeLists.txt").read_text())
    assert theirs
    assert theirs[1].split() == [each.replace(".", "") for each in cuda_toolkit.ARCHITECTURES]


NVCC = """#!/bin/sh
case $1 in
    --version) echo "Cuda compilation tools, release {version}, V{version}.52" ;;
    --list-gpu-arch) printf 'compute_%s\\n' {architectures} ;;
esac
"""


def toolkit(folder: Path, version: str, architectures: str = "75 80 86 90 100 120") -> Path:
    """A folder that looks like a CUDA toolkit."""
    for name, content in {
        "include/cuda_runtime.h": "",
        "bin/nvcc": NVCC.format(version=version, architectures=architectures),
    }.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ("75 80 86 90 100 103 120 121", "8.0;9.0;10.0;12.0+PTX"),
        ("70 75 80 86 87 89 90", "8.0;9.0+PTX"),  # CUDA 12.4
        ("90 100 120 130", "9.0;10.0;12.0+PTX"),  # one that has given up the oldest
    ],
)
def test_architectures_are_those_of_the_compiler(tmp_path: Path, known: str, expected: str) -> None:
    assert cuda_toolkit.architectures(toolkit(tmp_path, "12.4", known)) == expected


class TestToolkit:
    """Which toolkit builds the library of CUDA ops, and what becomes of one that does not fit torch."""

    @pytest.fixture(autouse=True)
    def nothing_set(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("FLOWAR_BUILD_CUDA", "CUDA_HOME", "CUDA_PATH"):
            monkeypatch.delenv(name, raising=False)

    @pytest.mark.parametrize("torch_cuda", ["13.0", "13.2", None])
    def test_fits(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, torch_cuda: str | None) -> None:
        monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path, "13.0")))
        assert cuda_toolkit.find_toolkit(torch_cuda, None) == tmp_path
        monkeypatch.setenv("FLOWAR_BUILD_CUDA", "0")
        assert cuda_toolkit.find_toolkit(torch_cuda, None) is None

    @pytest.mark.parametrize(
        ("version", "torch_cuda", "torch_hip", "problem"),
        [
            ("12.4", "13.0", None, "the toolkit in {} is CUDA 12.4, torch is built for CUDA 13.0."),
            ("13.0", "12.8", None, "the toolkit in {} is CUDA 13.0, torch is built for CUDA 12.8."),
            ("11.8", None, None, "the toolkit in {} is CUDA 11.8. Set CUDA_HOME to one of CUDA 12 or later."),
            ("unknown", "13.0", None, "{}/bin/nvcc does not tell its version."),
            ("13.0", None, "7.0", "torch is built for ROCm 7.0, where plain PyTorch serves the ops."),
        ],
    )
    def test_does_not_fit(
        self,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        version: str,
        torch_cuda: str | None,
        torch_hip: str | None,
        problem: str,
    ) -> None:
        """A warning and a build for the CPU; an error only for those who insist."""
        monkeypatch.setenv("CUDA_HOME", str(toolkit(tmp_path, version)))
        assert cuda_toolkit.find_toolkit(torch_cuda, torch_hip) is None
        expected = problem.format(tmp_path)
        assert capsys.readouterr().err.startswith(f"flowar: warning: no ops are built for GPUs: {expected}")
        monkeypatch.setenv("FLOWAR_BUILD_CUDA", "1")
        with pytest.raises(SystemExit, match=re.escape(f"flowar: FLOWAR_BUILD_CUDA=1, but {expected}")):
            cuda_toolkit.find_toolkit(torch_cuda, torch_hip)

    def test_a_broken_compiler(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (toolkit(tmp_path, "13.0") / "bin/nvcc").write_text("#!/bin/sh\nexit 1\n")
        monkeypatch.setenv("CUDA_HOME", str(tmp_path))
        assert cuda_toolkit.find_toolkit("13.0", None) is None

    def test_none(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        """No toolkit is no fault of a machine without a GPU."""
        monkeypatch.setattr(cuda_toolkit, "toolkit_on_this_machine", lambda: None)
        assert cuda_toolkit.find_toolkit(None, "7.0") is None
        assert capsys.readouterr().err == ""
        monkeypatch.setenv("FLOWAR_BUILD_CUDA", "1")
        with pytest.raises(SystemExit, match="FLOWAR_BUILD_CUDA=1, but no CUDA toolkit was found"):
            cuda_toolkit.find_toolkit(None, None)

    def test_setup_builds_what_fits(self, tmp_path: Path) -> None:
        """The extensions of setup.py itself, with a toolkit of another major version than any torch's."""
        code = "import sys; sys.argv = ['setup.py', '--name']; import setup; print([e.name for e in setup.ext_modules])"
        for version, libraries in (("11.8", ["flowar._C_cpu"]), ("13.0", ["flowar._C_cpu", "flowar._C_cuda"])):
            environment = {"CUDA_HOME": str(toolkit(tmp_path, version)), "CUDA_PATH": "", "FLOWAR_BUILD_CUDA": ""}
            result = run_python(code, **environment)
            if torch.version.cuda and not torch.version.cuda.startswith(version[:2]):
                libraries = ["flowar._C_cpu"]
            assert result.stdout.splitlines()[-1] == str([*libraries, "flowar._build_info"]), result.stderr


@pytest.mark.slow
@pytest.mark.skipif(cuda_toolkit.toolkit_on_this_machine() is None, reason="needs nvcc")
@pytest.mark.parametrize("name", CUDA_KERNELS)
def test_cuda_kernels_compile_well(name: str, tmp_path: Path) -> None:
    """For every architecture: no register is spilled, and vector kernels load and store 16 bytes at a time."""
    home = cuda_toolkit.toolkit_on_this_machine()
    assert home
    architectures = re.findall(r"\d+", cuda_toolkit.architectures(home).replace(".", ""))
    targets = [f"-gencode=arch=compute_{each},code=sm_{each}" for each in architectures]
    targets.append(f"-gencode=arch=compute_{architectures[-1]},code=compute_{architectures[-1]}")
    options = ["-std=c++17", "-O3", "-DUSE_CUDA", "-fatbin", "-Xptxas=-v", "--keep", f"--keep-dir={tmp_path}"]
    source, out = ROOT / f"csrc/kernels/cuda/{name}.cu", tmp_path / "kernels.fatbin"
    result = subprocess.run(
        [home / "bin/nvcc", *options, *targets, str(source), "-o", str(out)],
        capture_output=True,
        text=True,
        check=False,
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
            assert re.search(rf"st\.global\S*\.v{2 if name == EIGHT_BYTES else 4}\.", code), each


@pytest.mark.skipif(ops.reference_active(), reason="installed without the compiled ops")
def test_build_info() -> None:
    from flowar import _build_info

    assert "." in _build_info.torch_version
    assert _build_info.compiler
    assert isinstance(_build_info.cuda_architectures, str)
    assert isinstance(_build_info.cpu_features(), list)


@pytest.mark.skipif(ops.reference_active(), reason="installed without the compiled ops")
def test_every_op_of_the_schema_has_its_kernels() -> None:
    schema = {f"flowar::{name}" for name in re.findall(r'"(\w+)\(', (ROOT / "csrc/ops.cpp").read_text())}
    assert ops.missing_kernels("cpu") == []
    expected = set() if ops.cuda_kernels() else schema - {"flowar::cpu_isa", "flowar::checked_copy"}
    assert {*ops.missing_kernels("cuda")} == expected


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
    shutil.copytree(Path(flowar.__file__).parent / "system", folder / "flowar/system")
    shutil.copy(Path(flowar.__file__).parent / "errors.py", folder / "flowar")
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
    assert "rebuild it in this environment with `pip install --force-reinstall flowar`" in result.stderr


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
