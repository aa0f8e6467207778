"""`flowar doctor`: a machine with nothing wrong, set-ups that are broken, and the line that names what is."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

import flowar
from flowar import ops
from flowar.cli import main
from flowar.config import PRESETS
from flowar.doctor import build, cuda, environment, memory, model_files, sample, serving
from flowar.doctor.examination import checks
from flowar.doctor.finding import ok, wrong
from flowar.networks import attention_backends
from flowar.storage import hub
from flowar.system.installation import INSTALL_TORCH, REBUILD, install_command

PACKAGE = Path(flowar.__file__).parent
SHIPPED = PACKAGE / "assets" / "flowar-fashion"
NAMES = [check.name for check in checks("flowar-fashion")]
NVIDIA_SMI = 'case "$1" in --query-gpu*) echo "570.86.15, NVIDIA L4" ;; *) echo "| CUDA Version: 12.8 |" ;; esac'
NVCC = 'echo "Cuda compilation tools, release 12.4, V12.4.131"'


def program(folder: Path, name: str, script: str) -> None:
    """A shell script as a program of `folder`."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder for PATH: with the compiler of this machine, and nothing of NVIDIA's."""
    compiler = shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    program(tmp_path / "bin", "c++", f'exec {compiler} "$@"')
    return tmp_path / "bin"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, programs: Path) -> pytest.MonkeyPatch:
    """One without a GPU, where nothing is wrong, and pictures need not be drawn."""
    for name in ("CUDA_HOME", "CUDA_PATH", "CXX", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(programs))
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(cuda, "DEFAULT_TOOLKIT", tmp_path / "cuda")
    monkeypatch.setattr(cuda, "DRIVER_FILE", tmp_path / "driver")
    monkeypatch.setattr(memory, "ROOT", host(tmp_path / "host", 8 * 2**20))
    monkeypatch.setattr(sample, "sample", lambda model: ok(f"{model} drawn"))
    return monkeypatch


def host(root: Path, kilobytes: int, groups: Mapping[str, str] | None = None) -> Path:
    """A file system that tells of so much free memory, with files of control groups."""
    files = {"proc/meminfo": f"MemTotal: 99999999 kB\nMemAvailable: {kilobytes} kB\n"} | dict(groups or {})
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content)
    return root


class Report(dict[str, dict[str, str]]):
    """What `flowar doctor --json` printed, by check."""

    def __init__(self, text: str, code: int) -> None:
        report = json.loads(text)
        super().__init__((each["name"], each) for each in report["checks"])
        assert list(self) == NAMES
        assert report["ok"] == (self.named("wrong") == [])
        assert code == (0 if report["ok"] else 1)
        assert all(bool(each["remedy"]) == (each["status"] in ("warning", "wrong")) for each in self.values())
        assert all("\n" not in each["found"] + each["remedy"] for each in self.values())

    def named(self, status: str) -> list[str]:
        return [name for name, each in self.items() if each["status"] == status]


def examine(capsys: pytest.CaptureFixture[str], *arguments: str) -> Report:
    """What it finds in this process."""
    code = 0
    try:
        main(["doctor", "--json", *arguments])
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    return Report(capsys.readouterr().out, code)


def copy_of_package(folder: Path) -> Path:
    """The package, where it looks for a toolkit in this folder alone."""
    copy = shutil.copytree(PACKAGE, folder / "flowar", ignore=shutil.ignore_patterns("__pycache__"))
    source = copy / "doctor" / "cuda.py"
    source.write_text(source.read_text().replace("/usr/local/cuda", str(folder / "cuda")))
    return copy


def examine_copy(folder: Path, programs: Path, paths: str = "") -> Report:
    """What the copy of the package in `folder` finds, as a program."""
    environment = {"PATH": str(programs), "PYTHONPATH": os.pathsep.join(filter(None, (paths, str(folder))))}
    command = [sys.executable, "-m", "flowar", "doctor", "--json"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return Report(done.stdout, done.returncode)


class TestNothingWrong:
    def test_without_a_gpu(self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch) -> None:
        report = examine(capsys)
        assert report.named("wrong") + report.named("skipped") == []
        assert set(report.named("warning")) <= {"driver", "ops"}
        assert report["torch"]["found"] == torch.__version__
        assert report["model"]["found"] == "flowar-fashion: 4 files as in SHA256SUMS"
        assert re.search(r"needs about 0\.\d GiB for one image, 8\.0 GiB are free on cpu", report["memory"]["found"])
        assert report["sample"]["found"] == "flowar-fashion drawn"

    def test_lines(self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch) -> None:
        main(["doctor"])
        lines = capsys.readouterr().out.splitlines()
        assert [line.split()[0] for line in lines] == NAMES
        assert f"torch      ok       {torch.__version__}" in lines
        advice = "if there is a GPU, install NVIDIA's driver"
        assert f"driver     warning  none, so the CPU does all the work -> {advice}" in lines

    @pytest.mark.slow
    def test_as_a_program(self, tmp_path: Path, programs: Path) -> None:
        copy_of_package(tmp_path)
        report = examine_copy(tmp_path, programs)
        assert report.named("wrong") + report.named("skipped") == []
        assert re.search(r"one picture of flowar-fashion in \d+\.\d s", report["sample"]["found"])

    def test_checksums_are_those_of_the_shipped_files(self) -> None:
        """After a change: `sha256sum config.json *.safetensors tokenizer.json > SHA256SUMS` in the model's folder."""
        rows = [line.split() for line in (SHIPPED / "SHA256SUMS").read_text().splitlines()]
        files = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in SHIPPED.iterdir()}
        del files["SHA256SUMS"]
        assert {name: digest for digest, name in rows} == files

    def test_process_is_not_set_up_before_torch_is_known_to_load(self, machine: pytest.MonkeyPatch) -> None:
        machine.setattr("flowar.cli.take_over_process", lambda: pytest.fail("imports torch"))
        machine.setattr(sys, "argv", ["flowar", "doctor"])
        main()


class TestCompiler:
    def test_none(self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
        machine.setenv("PATH", str(tmp_path))
        report = examine(capsys)
        assert report.named("wrong") == []
        assert report["compiler"]["status"] == "warning"
        assert report["compiler"]["found"].startswith("no C++ compiler (none of c++, g++, clang++)")
        assert "apt install g++" in report["compiler"]["remedy"]
        assert report.named("skipped") == []
        if not ops.reference_active():
            machine.setattr(build, "LIBRARY", tmp_path / "nowhere")
            assert examine(capsys).named("wrong") == ["compiler"]

    def test_not_needed(self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
        machine.setenv("PATH", str(tmp_path))
        machine.setenv("FLOWAR_NO_EXT", "1")
        report = examine(capsys)
        assert report.named("wrong") == []
        assert report["compiler"]["status"] == "warning"

    def test_broken(self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch, programs: Path) -> None:
        program(programs, "my-c++", 'echo "fatal error: vector: No such file" >&2; exit 1')
        machine.setenv("CXX", "my-c++")
        report = examine(capsys)
        assert report.named("wrong") == ["compiler"]
        assert report["compiler"]["found"].endswith("my-c++ fails: exit code 1: fatal error: vector: No such file")


@pytest.mark.skipif(ops.reference_active(), reason="installed without the compiled ops")
class TestOps:
    def test_built_for_another_torch(self, tmp_path: Path, programs: Path) -> None:
        """The library asks for a function that this torch does not have."""
        copy = copy_of_package(tmp_path)
        library = copy / "_C_cpu.so"
        content = library.read_bytes()
        assert b"aoti_torch_abi_version\0" in content
        library.write_bytes(content.replace(b"aoti_torch_abi_version\0", b"aoti_torch_old_version\0"))
        for info in copy.glob("_build_info*.so"):
            info.unlink()
        (copy / "_build_info.py").write_text(f"torch_version = '1{torch.__version__[1:]}'\n")
        report = examine_copy(tmp_path, programs)
        assert report.named("wrong") == ["ops"]
        assert report["ops"]["found"].startswith(
            f"the compiled library _C_cpu.so does not load with torch {torch.__version__} ("
        )
        assert "undefined symbol: aoti_torch_old_version" in report["ops"]["found"]
        assert report["ops"]["found"].endswith(f"built with torch 1{torch.__version__[1:]}")
        assert "`pip install --force-reinstall flowar`" in report["ops"]["remedy"]
        assert report.named("skipped") == ["attention", "memory", "sample"]

    def test_wrong_numbers(self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch) -> None:
        machine.setattr(ops, "geglu", lambda x: x[:, ::2])
        report = examine(capsys)
        assert report.named("wrong") == ["ops"]
        assert report["ops"]["found"].startswith("other numbers than the definition gives; built with torch")


class TestModel:
    @pytest.mark.parametrize(
        ("name", "content", "reason"),
        [
            ("model.safetensors", lambda old: old[:-1] + bytes([old[-1] ^ 1]), "is damaged: expected SHA-256 "),
            ("tokenizer.safetensors", lambda old: old[: len(old) // 2], "is damaged: expected SHA-256 "),
            ("config.json", None, "is missing"),
        ],
    )
    def test_damaged(
        self,
        capsys: pytest.CaptureFixture[str],
        machine: pytest.MonkeyPatch,
        tmp_path: Path,
        name: str,
        content: object,
        reason: str,
    ) -> None:
        assets = shutil.copytree(hub.ASSETS, tmp_path / "assets")
        machine.setattr(hub, "ASSETS", assets)
        machine.setattr(model_files, "ASSETS", assets)
        file = assets / "flowar-fashion" / name
        if callable(content):
            file.write_bytes(content(file.read_bytes()))
        else:
            file.unlink()
        report = examine(capsys, *([] if callable(content) else ["--model", str(file.parent)]))
        assert report.named("wrong") == ["model"]
        assert report["model"]["found"].startswith(f"{file} {reason}")
        git = f"git -C {PACKAGE.parent} checkout -- flowar/assets"
        again = git if (PACKAGE.parent / ".git").exists() else install_command()  # in a copy without git
        assert f"`{again}`" in report["model"]["remedy"]
        assert report.named("skipped") == ["memory", "sample"]

    def test_own_folder(self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
        folder = shutil.copytree(SHIPPED, tmp_path / "mine")
        assert examine(capsys, "--model", str(folder)).named("wrong") == []
        (folder / "tokenizer.json").write_text("{}")
        assert examine(capsys, "--model", str(folder))["model"]["remedy"] == "copy it again from where it came from"
        (folder / "SHA256SUMS").unlink()
        assert (
            examine(capsys, "--model", str(folder))["model"]["found"] == f"{folder}, without SHA256SUMS to compare with"
        )

    def test_unknown(self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch) -> None:
        report = examine(capsys, "--model", "nowhere")
        assert report.named("wrong") == ["model"]
        assert "got 'nowhere'" in report["model"]["found"]


class TestCuda:
    @pytest.mark.parametrize(
        ("scripts", "names"),
        [
            ({"nvidia-smi": NVIDIA_SMI}, "driver 570.86.15, NVIDIA L4"),
            ({"nvcc": NVCC, "nvidia-smi": NVIDIA_SMI}, "driver 570.86.15, NVIDIA L4"),
        ],
    )
    def test_torch_without_it(
        self,
        capsys: pytest.CaptureFixture[str],
        machine: pytest.MonkeyPatch,
        programs: Path,
        scripts: Mapping[str, str],
        names: str,
    ) -> None:
        for name, script in scripts.items():
            program(programs, name, script)
        report = examine(capsys)
        assert report.named("wrong") == ["cuda"]
        assert report["cuda"]["found"] == f"torch {torch.__version__} has no CUDA, but here is {names}"
        assert "install a torch for CUDA" in report["cuda"]["remedy"]
        assert report.named("skipped") == []

    def test_toolkit_without_a_gpu(
        self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch, programs: Path
    ) -> None:
        """Which lies on many healthy machines, whatever torch was built for."""
        program(programs, "nvcc", NVCC)
        for built_for, found in ((None, "none in torch, and no driver, so the toolkit is unused"), ("13.0", "13.0 in")):
            machine.setattr(torch.version, "cuda", built_for)
            report = examine(capsys)
            assert report.named("wrong") + report.named("skipped") == []
            assert report["cuda"]["found"].startswith(found)

    @pytest.mark.parametrize("place", ["CUDA_HOME", "CUDA_PATH", "usual"])
    def test_toolkit_is_found(
        self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch, tmp_path: Path, place: str
    ) -> None:
        (tmp_path / "cuda").mkdir()
        program(tmp_path / "cuda" / "bin", "nvcc", NVCC)
        if place != "usual":
            machine.setattr(cuda, "DEFAULT_TOOLKIT", tmp_path / "nowhere")
            machine.setenv(place, str(tmp_path / "cuda"))
        found = examine(capsys)["toolkit"]["found"]
        assert found == f"CUDA 12.4 ({tmp_path}/cuda/bin/nvcc)"

    def test_driver_too_old(
        self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch, programs: Path
    ) -> None:
        program(programs, "nvidia-smi", NVIDIA_SMI)
        machine.setattr(torch.version, "cuda", "13.0")
        report = examine(capsys)
        assert report.named("wrong") == ["cuda"]
        expected = "torch for CUDA 13.0 does not work with driver 570.86.15, NVIDIA L4, which serves CUDA up to 12.8"
        assert report["cuda"]["found"] == expected
        machine.setenv("CUDA_VISIBLE_DEVICES", "")
        assert examine(capsys)["cuda"]["status"] == "warning"

    def test_rocm(self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch) -> None:
        machine.setattr(torch.version, "hip", "7.0")
        report = examine(capsys)
        assert report.named("wrong") == []
        assert report["cuda"]["found"] == "none: torch is for ROCm 7.0, on which this package is untested"

    def test_driver_of_the_kernel(
        self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        (tmp_path / "driver").write_text("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12\n")
        assert examine(capsys)["driver"]["found"] == "driver 535.183.01"

    @pytest.mark.parametrize("name", ["nvidia-smi", "nvcc"])
    def test_broken_programs(
        self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch, programs: Path, name: str
    ) -> None:
        program(programs, name, 'echo "cannot talk to the driver"; exit 9')
        report = examine(capsys)
        assert report.named("wrong") == ["driver" if name == "nvidia-smi" else "toolkit"]
        (line,) = report.named("wrong")
        assert report[line]["found"].endswith(f"{name} fails: exit code 9: cannot talk to the driver")
        assert report.named("skipped") == ["cuda"]


class TestMemory:
    @pytest.mark.parametrize(
        ("kilobytes", "groups"),
        [
            (100 * 1024, {}),
            (2**24, {"proc/self/cgroup": "0::/job", "memory.max": "209715200", "memory.current": "104857600"}),
            (
                2**24,
                {
                    "proc/self/cgroup": "4:memory:/job",
                    "memory/job/memory.limit_in_bytes": "209715200",
                    "memory/job/memory.usage_in_bytes": "157286400",
                    "memory/job/memory.stat": "cache 1\ntotal_inactive_file 52428800\n",
                },
            ),
        ],
    )
    def test_too_little(
        self,
        capsys: pytest.CaptureFixture[str],
        machine: pytest.MonkeyPatch,
        tmp_path: Path,
        kilobytes: int,
        groups: Mapping[str, str],
    ) -> None:
        files = {name if name.startswith("proc") else f"sys/fs/cgroup/{name}": text for name, text in groups.items()}
        machine.setattr(memory, "ROOT", host(tmp_path / "small", kilobytes, files))
        report = examine(capsys)
        assert report.named("wrong") == ["memory"]
        assert report["memory"]["found"].endswith("GiB for one image, but 0.1 GiB are free on cpu")
        assert "choose a smaller model" in report["memory"]["remedy"]
        assert report.named("skipped") == ["sample"]

    def test_presets(self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch) -> None:
        """Of a size without files: its memory, and the shipped model's files and picture."""
        report = examine(capsys, "--model", "H")
        assert report.named("wrong") == ([] if memory.needed_bytes("H", torch.device("cpu")) < 2**33 else ["memory"])
        assert report["memory"]["found"].startswith("H needs about ")
        assert report["model"]["found"].startswith("flowar-fashion: ")
        assert [*model_files.PRESETS] == [*PRESETS]

    def test_estimate_is_above_what_was_measured(self) -> None:
        records = (PACKAGE.parent / "benchmarks" / "results").glob("peak_memory-*.json")
        results = [result for record in records for result in json.loads(record.read_text())["results"]]
        assert results
        for result in results:
            weights = memory.weight_bytes(result["model"], getattr(torch, result["dtype"]))
            assert weights == result["weights"] * 2**20
            estimate = memory.CPU_FACTOR * weights + memory.CPU_BASE
            assert 1 <= estimate / (result["sampled"] * 2**20) < 1.2

    def test_unknown(self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch, tmp_path: Path) -> None:
        machine.setattr(memory, "ROOT", tmp_path / "nowhere")
        assert examine(capsys)["memory"]["status"] == "warning"


class TestFix:
    def test_commands_alone(self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch) -> None:
        """Each once, with what has none on stderr; the exit code is as ever."""
        machine.setattr(torch, "__version__", "2.10.1")
        machine.setattr("flowar.doctor.serving.precision", lambda: wrong("a", "`pip install 'torch>=2.11'`, or `b`"))
        with pytest.raises(SystemExit) as exit_:
            main(["doctor", "--fix"])
        assert exit_.value.code == 1
        out, err = capsys.readouterr()
        assert out == f"{INSTALL_TORCH}\n"
        assert err == "driver: none, so the CPU does all the work -> if there is a GPU, install NVIDIA's driver\n"

    def test_nothing_to_do(self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch) -> None:
        machine.setattr(cuda, "driver", lambda: ok("fine"))
        main(["doctor", "--fix"])
        assert capsys.readouterr().out == ""

    def test_every_remedy_that_starts_with_a_command_marks_it(self) -> None:
        remedies = [check.remedy for check in checks("flowar-fashion")]
        remedies += [serving.INSTALL_FLASH, build.INSTALL_TOOLKIT, environment.REINSTALL_TORCH, REBUILD]
        for remedy in remedies:
            assert ("pip " in remedy) == any(command.startswith("pip ") for command in wrong("", remedy).commands)

    def test_as_json_too(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit):
            main(["doctor", "--fix", "--json"])
        assert capsys.readouterr().err == "flowar: json and fix: expected one of them, got both\n"


class TestTorch:
    def test_missing_or_broken(self, tmp_path: Path, programs: Path) -> None:
        """The command starts all the same, and the lines that need no torch are there."""
        copy_of_package(tmp_path)
        fake = tmp_path / "first" / "torch"
        fake.mkdir(parents=True)
        for error, found, remedy in (
            (
                "ModuleNotFoundError(\"No module named 'torch'\", name='torch')",
                "not installed",
                "`pip install 'torch>=",
            ),
            (
                "OSError('libcudart.so.13: cannot open')",
                "does not load: libcudart.so.13",
                "`pip install --force-reinstall",
            ),
        ):
            (fake / "__init__.py").write_text(f"raise {error}\n")
            report = examine_copy(tmp_path, programs, str(fake.parent))
            assert report.named("wrong") == ["torch"]
            assert report["torch"]["found"].startswith(found)
            assert report["torch"]["remedy"].startswith(remedy)
            assert report.named("ok") == ["python", "toolkit", "compiler", "model"]

    def test_too_old(self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch) -> None:
        machine.setattr(torch, "__version__", "2.10.1")
        report = examine(capsys)
        assert report.named("wrong") == ["torch"]
        assert report["torch"]["found"] == "2.10.1 is too old"

    def test_python_too_old(self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch) -> None:
        machine.setattr(environment, "MINIMUM_PYTHON", (4, 0))
        assert examine(capsys).named("wrong") == ["python"]

    def test_minimum_of_the_package(self) -> None:
        project = (PACKAGE.parent / "pyproject.toml").read_text()
        assert f'requires-python = ">={".".join(map(str, environment.MINIMUM_PYTHON))}"' in project
        assert f'"torch>={environment.INSTALL_TORCH.split(">=")[1].rstrip(chr(39))}"' in project


class TestServing:
    def test_broken_flash_attention(self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch) -> None:
        broken = attention_backends.FlashImports((), "flash_attn does not load (undefined symbol)")
        machine.setattr(attention_backends, "_flash", broken)
        report = examine(capsys)
        assert report.named("wrong") == []
        assert report["attention"]["status"] == "warning"
        assert "flash_attn does not load (undefined symbol)" in report["attention"]["found"]

    def test_precision(self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch) -> None:
        found = examine(capsys)["precision"]["found"]
        assert re.fullmatch(
            r"auto is (float32|bfloat16) on cpu; there are float32, bfloat16, float16, (fp8, )?float64", found
        )

    def test_unexpected_errors_are_findings(
        self, capsys: pytest.CaptureFixture[str], machine: pytest.MonkeyPatch
    ) -> None:
        def broken(*_: object) -> None:
            raise RuntimeError("what nobody thought of\nin two lines")

        machine.setattr("flowar.doctor.serving.precision", broken)
        report = examine(capsys)
        assert report.named("wrong") == ["precision"]
        assert report["precision"]["found"] == "RuntimeError: what nobody thought of"


class TestSample:
    def test_a_model_that_cannot_be_drawn(self, tmp_path: Path) -> None:
        folder = shutil.copytree(SHIPPED, tmp_path / "mine")
        (folder / "tokenizer.json").write_text("{")
        finding = sample.sample(str(folder))
        assert finding.status == "wrong"
        assert finding.found.startswith(f"flowar sample: {folder}/tokenizer.json: expected a JSON object")

    @pytest.mark.parametrize(
        ("code", "stderr", "found", "remedy"),
        [
            (-9, "", "flowar sample was ended by SIGKILL", "memory may have run out"),
            (-4, "", "flowar sample was ended by SIGILL", "the processor lacks an instruction"),
            (-11, "", "flowar sample was ended by SIGSEGV", "report it"),
            (2, "a warning\nflowar: model: expected x\n", "flowar sample: model: expected x", "see the lines above"),
            (1, "", "flowar sample: it said nothing", "see the lines above"),
        ],
    )
    def test_what_ended_it(self, code: int, stderr: str, found: str, remedy: str) -> None:
        said, advice = sample.failure(subprocess.CompletedProcess([], code, "", stderr))
        assert said == found
        assert advice.startswith(remedy)
