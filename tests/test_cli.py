"""The `flowar` command: its help, what its subcommands write, and one line with exit code 2 for bad input."""

from __future__ import annotations

import functools
import json
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY, needs_fp8, recording, small_model
from evaluation_runs import write_material
from PIL import Image
from safetensors.torch import load_file, save_file
from test_data import pictures, write_class_folders, write_idx
from torch import nn

from flowar import FlowAR, FlowARPipeline
from flowar.cli import COMMANDS, main, parse_options
from flowar.engine import measured_products
from flowar.engine import packed as packed_module
from flowar.engine import plan as plan_module
from flowar.engine.onednn_linear import PrepackedLinear, supported
from flowar.engine.packed import Savings
from flowar.system import autotune
from flowar.system.autotune import Tuner
from flowar.system.threads import describe_limit
from flowar.tokenizers.pixel import PixelTokenizer
from flowar.training.checkpoints import checkpoints
from flowar.training.config import FinetuneConfig, TrainConfig
from flowar.training.step import TrainingStep

pytestmark = pytest.mark.usefixtures("either_default")

CLASSES = ("--model.num_classes", "10")
TRAINING = (
    *("--data.tokenizer", "pixel:2", *CLASSES, "--model.num_inference_steps", "2"),
    *("--model.ar_width", "32", "--model.ar_depth", "2", "--model.ar_heads", "2", "--model.flow_width", "64"),
    *("--model.flow_depth", "1", "--optim.batch_size", "8", "--optim.steps", "4", "--precision", "float32"),
    *("--log_every", "1", "--sample_every", "0", "--save_every", "2"),
)


@pytest.fixture(autouse=True)
def without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing it takes seconds, and these tests are not about it."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline of 8x8 grey images, as `flowar train` leaves it."""
    folder = tmp_path_factory.mktemp("cli") / "model"
    tokenizer = PixelTokenizer(image_channels=1, stride=2)
    FlowARPipeline(small_model(tokenizer=tokenizer.record(), num_inference_steps=3), tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    return write_idx(tmp_path / "idx", *pictures(24))


def refused(capsys: pytest.CaptureFixture[str], arguments: Iterable[object]) -> str:
    """What `flowar` says about bad input: one line on stderr, exit code 2, and nothing left half-written."""
    with pytest.raises(SystemExit) as exit_:
        main([*map(str, arguments)])
    assert exit_.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("flowar: ")
    return line.removeprefix("flowar: ")


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


class TestHelp:
    @pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
    def test_overview(self, capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> None:
        main(arguments)
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "usage: flowar COMMAND [options]"
        assert all(any(line.startswith(f"  {name} ") for line in lines) for name in COMMANDS)

    @pytest.mark.parametrize(
        ("name", "descriptions"),
        [
            (
                "sample",
                [
                    "image i has `seed` plus i",
                    "tf32, bfloat16, float16, fp8 or float64",
                    "--naive [{true,false}]",
                    "a .gif or .webp",
                    "samples.png if left out",
                ],
            ),
            ("edit", ["inpaint (what is white in", "interpolate takes two", "default: edited.png"]),
            ("demo", ["everybody who can reach this machine", "default: 127.0.0.1", "default: 7860"]),
            (
                "show",
                ["nearest to samples", "default: [1.0, 2.0, 3.5, 5.0, 8.0]", "KIND.png if left out"],
            ),
            ("evaluate", ["inception (FID), efficientnet-lite0 (FD-EffLite0)", "default: 10000", "two cards"]),
            ("reference", ["safetensors file to write", "or one of Inception's statistics"]),
            ("tune", ["milliseconds that one call for `batch_size` images may take", "default: schedule.json"]),
            (
                "sweep",
                ["upper ends of the guidance interval to try", "default: 1000"],
            ),
            (
                "train",
                ["go on from the newest checkpoint", "W, of the flow transformer", "default: 0.0002"],
            ),
            ("distill", ["the teacher: folder of a model with its tokenizer", "that the teacher draws itself"]),
            (
                "encode",
                ["a pattern of tars such as shards/{0000..0009}.tar", "random crops of every image", "default: 1024"],
            ),
            ("train-tokenizer", ["folder to write the tokenizer to", "keeps latents near a unit Gaussian"]),
            ("calibrate-tokenizer", ["images to measure; the first ones in order", "default: 50000"]),
            ("convert", ["the authors' .pth file, or a safetensors file", "required"]),
            ("push", ["user/name on the Hub", "default: unknown", "make a new repository private"]),
            ("plot", ["folders of the runs, which hold metrics.jsonl"]),
            ("classes", ["names of the listed classes contain", "or a data set: imagenet, fashion_mnist"]),
            ("doctor", ["whose files are checked and one image drawn", "or a preset (S, B, L, H)"]),
            ("info", ["shipped name, folder, or Hub id to describe as well", "print JSON"]),
        ],
    )
    def test_options(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, descriptions: list[str]
    ) -> None:
        monkeypatch.setenv("COLUMNS", "300")
        with pytest.raises(SystemExit) as exit_:
            main([name, "--help"])
        assert exit_.value.code == 0
        shown = capsys.readouterr().out
        assert shown.startswith(f"usage: flowar {name} [options]")
        assert COMMANDS[name] in shown
        assert [text for text in descriptions if text not in shown] == []

    def test_every_command_is_covered(self) -> None:
        (mark,) = (mark for mark in self.test_options.pytestmark if mark.name == "parametrize")
        assert [name for name, _ in mark.args[1]] == [*COMMANDS]

    def test_every_option_has_a_description(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("COLUMNS", "300")
        for name in COMMANDS:
            with pytest.raises(SystemExit):
                main([name, "--help"])
            lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
            assert [line for line in lines if line.startswith(("(type:", "(required"))] == []

    def test_as_a_program(self, model_folder: Path, tmp_path: Path) -> None:
        command = [
            sys.executable,
            "-m",
            "flowar",
            "sample",
            "--model",
            str(model_folder),
            "--per_class",
            "1",
            "--seed",
            "3",
        ]
        run = functools.partial(subprocess.run, cwd=tmp_path, capture_output=True, text=True)
        done = run(command)
        assert (done.returncode, done.stdout) == (0, "5 images in samples.png, seed 3\n")
        assert Image.open(tmp_path / "samples.png").size == (5 * 64, 64)
        done = run([*command, "--classes", "9"])
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "flowar: class_labels: expected integers from 0 to 4, got 9\n"

    def test_process_is_set_up_where_it_is_the_commands_own(self, monkeypatch: pytest.MonkeyPatch) -> None:
        calls: list[None] = []
        monkeypatch.setattr("flowar.cli.take_over_process", lambda: calls.append(None))
        monkeypatch.setattr(sys, "argv", ["flowar", "classes"])
        main(["classes"])
        assert not calls
        main()
        assert len(calls) == 1
        monkeypatch.setattr(sys, "argv", ["flowar", "--help"])  # which needs none of that, nor torch
        main()
        assert len(calls) == 1

    def test_heavy_packages_are_left_alone(self, model_folder: Path, tmp_path: Path) -> None:
        """Each costs a good part of a second, or more; whatever torch itself imports does not count."""
        heavy = {"torch._dynamo", "torch._inductor", "sympy", "diffusers", "huggingface_hub", "matplotlib", "scipy"}
        before_sampling = heavy | {"jsonargparse", "PIL", "yaml"}
        code = f"""if True:
            import json, sys, torch
            def new():
                return sorted(set(sys.modules) - known)
            known = set(sys.modules)
            from flowar import FlowARPipeline
            imported = new()
            from flowar.cli import main
            main(["sample", "--model", {str(model_folder)!r}, "--per_class", "1"])
            print(json.dumps([imported, new()]))
        """
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
        imported, sampled = map(set, json.loads(done.stdout.splitlines()[-1]))
        assert "flowar.pipeline" in imported
        assert before_sampling & imported == set()
        assert {"flowar.engine.plan", "jsonargparse", "PIL"} <= sampled
        assert heavy & sampled == set()


class TestSample:
    def test_grid(self, capsys: pytest.CaptureFixture[str], model_folder: Path, tmp_path: Path) -> None:
        output = tmp_path / "new" / "grid.png"
        wanted = ["--classes", "4,0,2", "--per_class", "2", "--seed", "3", "--output", str(output)]
        main(["sample", "--model", str(model_folder), *wanted])
        assert capsys.readouterr().out == f"6 images in {output}, seed 3\n"
        grid = Image.open(output)
        assert (grid.format, grid.mode, grid.size) == ("PNG", "L", (3 * 64, 2 * 64))

    @pytest.mark.skipif(not supported(torch.float32), reason="no prepacked layout here")
    @pytest.mark.parametrize("dtype", ["auto", "float32", "bfloat16"])
    def test_the_matrices_are_in_memory_once(
        self, dtype: str, model_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The model is the command's own, so that it may be packed in place, in whichever precision it samples."""
        models: list[FlowAR] = []
        call = FlowARPipeline.__call__

        def remembering(self: FlowARPipeline, *arguments: Any, **options: Any) -> Any:
            models.append(self.model)
            return call(self, *arguments, **options)

        monkeypatch.setattr(FlowARPipeline, "__call__", remembering)
        main(["sample", "--model", str(model_folder), "--dtype", dtype, "--output", str(tmp_path / "grid.png")])
        (model,) = models
        prepacked = [each for each in model.modules() if isinstance(each, PrepackedLinear)]
        assert not any(isinstance(each, nn.Linear) for each in model.modules())
        assert {each.dtype for each in prepacked} == {model.precision(dtype).dtype}

    def test_options_reach_the_model(self, model_folder: Path, tmp_path: Path) -> None:
        pipeline = FlowARPipeline.from_pretrained(model_folder)
        output = tmp_path / "one.png"
        main(
            [
                *("sample", "--model", str(model_folder), "--classes", "[1]", "--per_class", "1", "--seed", "7"),
                *("--num_inference_steps", "2", "--guidance_scale", "3", "--guidance_interval", "[0, 0.5]"),
                *("--naive", "--dtype", "float32", "--device", "cpu", "--output", str(output)),
            ]
        )
        (expected,) = pipeline([1], 2, 3.0, (0.0, 0.5), seed=7, dtype="float32", naive=True).images
        assert Image.open(output).tobytes() == expected.tobytes()

    @pytest.mark.parametrize("dtype", ["bf16", pytest.param("fp8", marks=needs_fp8), "float64"])
    def test_precision(self, model_folder: Path, tmp_path: Path, dtype: str) -> None:
        output = tmp_path / "grid.png"
        main(
            [
                *("sample", "--model", str(model_folder), "--classes", "[1]", "--per_class", "1"),
                *("--seed", "0", "--dtype", dtype, "--device", "cpu", "--output", str(output)),
            ]
        )
        loaded = torch.bfloat16 if dtype == "bf16" else torch.float32
        (expected,) = FlowARPipeline.from_pretrained(model_folder, dtype=loaded)([1], seed=0, dtype=dtype).images
        assert Image.open(output).tobytes() == expected.tobytes()

    def test_options_from_a_file(self, capsys: pytest.CaptureFixture[str], model_folder: Path, tmp_path: Path) -> None:
        config = tmp_path / "sample.yaml"
        config.write_text(f"model: {model_folder}\nclasses: [1, 2]\nper_class: 3\noutput: {tmp_path / 'a.png'}\n")
        main(["sample", "--config", str(config), "--per_class", "1", "--seed", "3"])
        assert capsys.readouterr().out == f"2 images in {tmp_path / 'a.png'}, seed 3\n"

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--classes", "5"], "class_labels: expected integers from 0 to 4, got 5"),
            (["--classes", "-1"], "class_labels: expected integers from 0 to 4, got -1"),
            (["--classes", "[]"], "class_labels: expected [B] with B >= 1, got shape [0]"),
            (["--classes", "cat"], "classes: expected integers as in 0,3,7, as these classes have no names, got 'cat'"),
            (["--classes", "1.5"], "classes: expected integers as in 0,3,7, as these classes have no names, got '1.5'"),
            (["--per_class", "0"], "per_class: expected a positive integer, got 0"),
            (["--guidance_scale", "-1"], "guidance_scale: expected a number in [0, 1000], got -1.0"),
            (
                ["--guidance_interval", "[0.9, 0.1]"],
                "guidance_interval: expected 0 <= low <= high <= 1",
            ),
            (["--num_inference_steps", "0"], "num_inference_steps: expected an integer from 1 to 10000, got 0"),
            (
                ["--dtype", "int8"],
                "dtype: expected one of auto, float32, tf32, bfloat16, float16, fp8, float64, got int8",
            ),
            (["--dtype", "tf32", "--device", "cpu"], "dtype: tf32 expects an NVIDIA GPU, got cpu"),
            pytest.param(
                ["--dtype", "fp8", "--naive", "--device", "cpu"],
                "dtype: fp8 expects naive=False, got naive=True",
                marks=needs_fp8,
            ),
            (["--device", "abacus"], "device: expected auto, cpu, or a GPU of this machine such as cuda:0, got abacus"),
            (
                ["--device", "meta"],
                "device: expected auto, cpu, or a GPU of this machine such as cuda:0, got meta, which computes nothing",
            ),
            (["--model", "no-such-model"], "model: expected a folder, a shipped model"),
            (["--seed", "x"], "seed: expected int or nothing, got x; flowar sample --help lists the options"),
            (["--attention", "cudnn"], "attention backend: expected one of auto, flash, flash-3"),
            (["--attention", "sdpa-cudnn"], "attention backend sdpa-cudnn: expected CUDA tensors, got cpu"),
            (["--naive", "maybe"], "naive: expected bool, got maybe; flowar sample --help lists the options"),
            (["--steps", "3"], "unrecognized arguments: --steps 3; flowar sample --help lists the options"),
            (["--seed"], "argument --seed: expected one argument; flowar sample --help lists the options"),
            (["--guidance_interval", "[1]"], "guidance_interval: expected tuple[float, float] or nothing, got [1]"),
            (["--config", "/no.yaml"], "config: File does not exist: '/no.yaml'"),
        ],
    )
    def test_bad_input(
        self,
        capsys: pytest.CaptureFixture[str],
        model_folder: Path,
        tmp_path: Path,
        arguments: list[str],
        message: str,
    ) -> None:
        output = tmp_path / "grid.png"
        line = refused(capsys, ["sample", "--model", model_folder, "--output", output, *arguments])
        assert line.startswith(message)
        assert files(tmp_path) == []

    def test_unknown_command(self, capsys: pytest.CaptureFixture[str]) -> None:
        line = refused(capsys, ["draw"])
        assert line == f"command: expected one of {', '.join(COMMANDS)}, got draw"

    def test_wrong_tokenizer(self, capsys: pytest.CaptureFixture[str], model_folder: Path, tmp_path: Path) -> None:
        FlowAR.from_pretrained(model_folder).save_pretrained(tmp_path)
        PixelTokenizer(image_channels=1, stride=2, mean=[0.1] * 4).save_pretrained(tmp_path)
        before = files(tmp_path)
        line = refused(capsys, ["sample", "--model", tmp_path, "--output", tmp_path / "grid.png"])
        assert line.startswith("tokenizer: expected mean [0.0, 0.0, 0.0, 0.0] (pixel tokenizer, 4 channels, stride 2)")
        assert "got [0.1, 0.1, 0.1, 0.1]" in line
        assert files(tmp_path) == before

    def test_damaged_model(self, capsys: pytest.CaptureFixture[str], model_folder: Path, tmp_path: Path) -> None:
        model = FlowAR.from_pretrained(model_folder)
        PixelTokenizer(image_channels=1, stride=2).save_pretrained(tmp_path)
        model.save_pretrained(tmp_path)
        weights, config = tmp_path / "model.safetensors", tmp_path / "config.json"
        arguments = ["sample", "--model", tmp_path, "--output", tmp_path / "grid.png"]
        whole = weights.read_bytes()
        weights.write_bytes(whole[: len(whole) // 2])
        assert "model.safetensors: expected a safetensors file" in refused(capsys, arguments)
        tensors = load_file(model_folder / "model.safetensors")
        del tensors["flow_transformer.output_proj.bias"]
        save_file(tensors, weights)
        assert refused(capsys, arguments) == "checkpoint: missing tensor flow_transformer.output_proj.bias"
        weights.write_bytes(whole)
        config.write_text(json.dumps(model.config.to_dict() | {"scales": [1, 3]}))
        assert "scales: expected growing grids from 1x1 to latent_size 4x4, got 1x1, 3x3" in refused(capsys, arguments)
        config.write_text('{"latent_channels": 4')
        assert "config.json: expected a JSON object" in refused(capsys, arguments)
        assert not (tmp_path / "grid.png").exists()

    def test_full_disk(
        self,
        capsys: pytest.CaptureFixture[str],
        model_folder: Path,
        tmp_path: Path,
        request: pytest.FixtureRequest,
    ) -> None:
        output = tmp_path / "grid.png"
        output.write_text("what was there before")
        request.getfixturevalue("full_disk")
        line = refused(capsys, ["sample", "--model", model_folder, "--output", output])
        assert "File too large" in line
        assert files(tmp_path) == [output]
        assert output.read_text() == "what was there before"

    def test_unwritable_output(self, capsys: pytest.CaptureFixture[str], model_folder: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("in the way")
        output = tmp_path / "file" / "grid.png"
        assert str(tmp_path / "file") in refused(capsys, ["sample", "--model", model_folder, "--output", output])
        line = refused(capsys, ["tune", "--target_ms", "9", "--output", tmp_path])
        assert f"output: expected the path of a file, got '{tmp_path}', where there is something else" in line


class TestConvert:
    def test_published_checkpoint(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        recorded = recording(TINY[1])
        torch.save({"model_ema": recorded.published()}, tmp_path / "published.pth")
        output = tmp_path / "converted"
        main(
            ["convert", "--checkpoint", str(tmp_path / "published.pth"), "--output", str(output), "--dtype", "bfloat16"]
        )
        assert capsys.readouterr().out.endswith(f"M parameters in {output}\n")
        assert [path.name for path in files(output)] == ["config.json", "model.safetensors"]
        assert FlowAR.from_pretrained(output).config == FlowAR.from_published(recorded.published()).config
        assert load_file(output / "model.safetensors")["flow_transformer.output_proj.bias"].dtype == torch.bfloat16

    def test_heads(self, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
        recorded, path, output = recording(TINY[0]), tmp_path / "published.pth", tmp_path / "converted"
        torch.save({"model": recorded.state_dict(), "ema": [*recorded.state_dict().values()]}, path)
        arguments = ["convert", "--checkpoint", str(path), "--output", str(output)]
        assert refused(capsys, arguments).endswith("found none: say ar_heads and flow_heads")
        config = FlowAR.from_published(recorded.published()).config
        main([*arguments, "--ar_heads", str(config.ar_heads), "--flow_heads", str(config.flow_heads)])
        assert "published.pth: taking the averages in ema instead of model" in caplog.text
        assert FlowAR.from_pretrained(output).config == config

    def test_bad_checkpoints(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        state = recording(TINY[0]).published()
        path, output = tmp_path / "published.pth", tmp_path / "converted"
        arguments = ["convert", "--checkpoint", path, "--output", output]
        assert "published.pth: expected a PyTorch file of tensors" in refused(capsys, arguments)
        torch.save(state, path)
        path.write_bytes(path.read_bytes()[:10_000])
        assert "published.pth: expected a PyTorch file of tensors" in refused(capsys, arguments)
        torch.save({name: value for name, value in state.items() if name != "z_proj.bias"}, path)
        assert refused(capsys, arguments) == "checkpoint: missing tensor z_proj.bias"
        torch.save(state | {"surprise": torch.zeros(1)}, path)
        assert refused(capsys, arguments) == "checkpoint: unexpected tensor surprise"
        torch.save(state | {"z_proj.bias": torch.zeros(3)}, path)
        assert refused(capsys, arguments).startswith("checkpoint: tensor z_proj.bias: expected shape [")
        assert not output.exists()

    def test_hostile_checkpoint(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        class Hostile:
            def __reduce__(self) -> tuple[object, tuple[str]]:
                return os.system, (f"touch {tmp_path / 'ran'}",)

        for name, write in (("zip.pth", torch.save), ("plain.pth", functools.partial(pickle.dump, protocol=2))):
            with (tmp_path / name).open("wb") as file:
                write({"model": Hostile()}, file)
            line = refused(capsys, ["convert", "--checkpoint", tmp_path / name, "--output", tmp_path / "converted"])
            assert f"{name}: expected a PyTorch file of tensors, but" in line
        assert not (tmp_path / "ran").exists()
        assert not (tmp_path / "converted").exists()

    def test_full_disk(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        torch.save(recording(TINY[0]).published(), tmp_path / "published.pth")
        request.getfixturevalue("full_disk")
        line = refused(capsys, ["convert", "--checkpoint", tmp_path / "published.pth", "--output", tmp_path / "out"])
        assert "model.safetensors: writing failed" in line
        assert files(tmp_path) == [tmp_path / "published.pth"]


class TestInfo:
    def test_machine(self, capsys: pytest.CaptureFixture[str]) -> None:
        main(["info"])
        shown = capsys.readouterr().out
        facts = dict(line.split(maxsplit=1) for line in shown.splitlines())
        assert facts["torch"] == torch.__version__
        assert facts["ops"].startswith(("compiled", "reference"))
        assert re.search(r"^dtype auto +(float32|bfloat16)$", shown, re.MULTILINE)
        assert re.search(rf"^cpu threads set by +{describe_limit()}$", shown, re.MULTILINE)

    def test_model_as_json(self, capsys: pytest.CaptureFixture[str], model_folder: Path) -> None:
        main(["info", "--model", str(model_folder), "--json"])
        facts = json.loads(capsys.readouterr().out)
        assert facts["num_classes"] == 5
        assert facts["tokenizer"]["kind"] == "pixel"

    def test_measured_kernels(
        self, capsys: pytest.CaptureFixture[str], model_folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As on a GPU, where every kernel takes a microsecond."""
        for module in (autotune, packed_module):
            monkeypatch.setattr(module, "gpu_tuner", lambda device: Tuner(lambda call: 1e-6, "GPU"))
        monkeypatch.setattr(autotune, "_chosen", {})
        monkeypatch.setattr(plan_module, "default_savings", lambda device: Savings())
        monkeypatch.setattr(measured_products, "MIN_ROWS", 8)
        main(["info", "--model", str(model_folder)])
        shown = capsys.readouterr().out
        assert re.search(r"^attention \w+ 2 x \d+ heads of \d+, \d+ x \d+ tokens +sdpa$", shown, re.MULTILINE)
        # A CPU has no float32 sums of 16-bit products, so that split-K is left out there.
        times = r" \(torch 1.0 us, split-k 2 1" if "product float32" in shown else "$"
        assert re.search(rf"^product \w+ \d+ x \d+ x \d+ with bias +torch{times}", shown, re.MULTILINE)

    def test_no_such_model(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert refused(capsys, ["info", "--model", "nowhere"]).startswith("model: expected a folder, a shipped model")


class TestTokenizers:
    def test_calibrate(self, capsys: pytest.CaptureFixture[str], idx_folder: Path, tmp_path: Path) -> None:
        output = tmp_path / "tokenizer"
        main(["calibrate-tokenizer", "--tokenizer", "pixel:2", "--data", str(idx_folder), "--output", str(output)])
        record = json.loads((output / "tokenizer.json").read_text())
        shown = capsys.readouterr().out.splitlines()
        assert shown[0] == f"mean: {', '.join(f'{value:.4f}' for value in record['mean'])}"
        assert shown[1] == f"std: {', '.join(f'{value:.4f}' for value in record['std'])}"
        assert len(record["std"]) == 4

    def test_calibrate_on_the_first_images(self, idx_folder: Path, tmp_path: Path) -> None:
        arguments = [
            "calibrate-tokenizer",
            "--tokenizer",
            "pixel:1",
            "--data",
            str(idx_folder),
            "--output",
            str(tmp_path),
        ]
        main([*arguments, "--max_images", "3"])
        images = pictures(24)[0][:3].double() / 127.5 - 1
        (mean,) = json.loads((tmp_path / "tokenizer.json").read_text())["mean"]
        assert mean == pytest.approx(images.mean().item(), abs=1e-5)

    def test_train(self, capsys: pytest.CaptureFixture[str], idx_folder: Path, tmp_path: Path) -> None:
        output = tmp_path / "tokenizer"
        training = ["--training.widths", "[8, 16]", "--training.steps", "2", "--training.robust_steps", "1"]
        main(["train-tokenizer", "--data", str(idx_folder), "--output", str(output), *training])
        record = json.loads((output / "tokenizer.json").read_text())
        said = capsys.readouterr().out
        assert said.startswith(f"tokenizer {record['weights']} in {output}; 1 images held out: ")
        assert re.search(r"\d+\.\d\d dB \(grey .*; worst tenth of the images .*\)\n$", said)
        assert (record["channels"], record["stride"], record["image_channels"]) == (4, 2, 1)
        assert f"found checkpoints in {output}; resume it" in refused(
            capsys, ["train-tokenizer", "--data", str(idx_folder), "--output", str(output), *training]
        )

    def test_train_and_resume(
        self, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, tmp_path: Path
    ) -> None:
        """Of folders of photos, with others to measure by; an unreadable one is skipped, and said."""
        photos = write_class_folders(tmp_path / "photos")
        (photos / "cats" / "bad.png").write_bytes(b"no image")
        data = ["--data", str(photos), "--image_size", "8", "--output", str(tmp_path / "out")]
        training = ["--training.steps", "2", "--training.robust_steps", "0", "--training.batch_size", "2"]
        arguments = ["train-tokenizer", *data, "--validation.folder", str(photos), *training]
        assert "bad.png: expected a readable image" in refused(capsys, arguments)
        main([*arguments, "--on_bad_image", "skip"])
        first = capsys.readouterr()
        assert "images held out: " in first.out
        assert caplog.text.count("skipped ") == 2  # of either folder
        assert json.loads((tmp_path / "out" / "training.json").read_text())["flips"] is True
        main([*arguments, "--on_bad_image", "skip", "--resume", "true"])
        assert capsys.readouterr().out == first.out

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--data", "nowhere"], "data: expected a folder, got nowhere (does not exist)"),
            (
                ["--tokenizer", "pixel:3"],
                "images: expected [B, 1, H, W] with H and W multiples of 3",
            ),
            (["--tokenizer", "pixel:two"], "tokenizer: expected pixel:STRIDE with a positive stride, got pixel:two"),
            (["--tokenizer", "nowhere"], "model: expected a folder, a shipped model"),
            (["--split", "t10k"], "expected t10k-images-idx3-ubyte.gz or t10k-images-idx3-ubyte, found neither"),
            (["--max_images", "0"], "max_images: expected a positive integer, got 0"),
        ],
    )
    def test_bad_input(
        self, capsys: pytest.CaptureFixture[str], idx_folder: Path, tmp_path: Path, arguments: list[str], message: str
    ) -> None:
        output = tmp_path / "tokenizer"
        base = ["calibrate-tokenizer", "--tokenizer", "pixel:2", "--data", idx_folder, "--output", output]
        assert message in refused(capsys, [*base, *arguments])
        assert not output.exists()

    def test_train_on_bad_widths(self, capsys: pytest.CaptureFixture[str], idx_folder: Path, tmp_path: Path) -> None:
        arguments = ["train-tokenizer", "--data", idx_folder, "--output", tmp_path / "out", "--training.widths", "[4]"]
        assert "widths: expected multiples of 8, got [4]" in refused(capsys, arguments)
        assert not (tmp_path / "out").exists()


class TestEvaluate:
    def test_reference_evaluate_compare(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        material = write_material(tmp_path)
        judge = ["--extractor", "fashion", "--classifier", str(material["classifier"]), "--device", "cpu"]
        main(["reference", "--images", material["reference"], "--output", "reference.safetensors", *judge])
        assert capsys.readouterr().out == "fashion features of 40 images in reference.safetensors\n"
        assert not (tmp_path / "reference.features").exists()
        options = ["--model", material["model"], "--reference", "reference.safetensors", "--num_images", "12"]
        main(["evaluate", *options, "--output", "a", "--bootstrap", "4", "--classes", "1,2", *judge])
        *metrics, last = capsys.readouterr().out.splitlines()
        assert last == "card in a/card.md"
        assert re.fullmatch(
            r"FD-fashion: \S+ \(95 %: \S+ to \S+\); biased upwards, 12 images for 128 features", metrics[0]
        )
        assert json.loads((tmp_path / "a" / "card.json").read_text())["settings"]["images"]["classes"] == [1, 2]
        main(["evaluate", *options, "--output", "b", "--bootstrap", "0", "--guidance_scale", "2", *judge])
        assert ": " in capsys.readouterr().out.splitlines()[0]
        main(["evaluate", "--compare", "a", "b"])
        assert "images.classes: [1, 2] | [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]" in capsys.readouterr().out.splitlines()
        main(["evaluate", "--compare=[a, a]"])
        assert "difference +0 (chance: up to" in capsys.readouterr().out

    def test_a_reference_that_failed_can_be_repeated(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """With the image mended, or by an option: in both cases what was computed is of other images."""
        monkeypatch.chdir(tmp_path)
        judge = ["--extractor", "fashion", "--classifier", str(write_material(tmp_path)["classifier"])]
        command = ["reference", "--images", "photos", "--output", "a.safetensors", "--batch_size", "2", *judge]
        (tmp_path / "photos").mkdir()
        for number in range(5):
            Image.new("L", (20 if number == 4 else 28, 28), 40 * number).save(tmp_path / "photos" / f"{number}.png")
        assert "4.png: expected 28x28, got 20x28" in refused_after_log(capsys, command)
        assert "4.png: expected 28x28, got 20x28" in refused_after_log(capsys, command)
        assert len([*(tmp_path / "a.features").glob("chunk_*")]) == 2
        main([*command, "--image_size", "28"])
        assert capsys.readouterr().out == "fashion features of 5 images in a.safetensors\n"
        assert not (tmp_path / "a.features").exists()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["evaluate"], "reference: expected a file or a folder to compare with, got none"),
            (["evaluate", "--reference", "x", "--num_images", "0"], "num_images: expected a positive integer, got 0"),
            (["evaluate", "--reference", "x", "--extractor", "dino"], "extractor: expected one of inception, eff"),
            (
                ["evaluate", "--reference", "x", "--classifier", "y"],
                "classifier: expected one for extractor fashion alone",
            ),
            (["evaluate", "--compare", "a", "b", "c"], "compare: expected tuple"),
            (["evaluate", "--compare", "nowhere", "nowhere"], "nowhere: expected a JSON object, but reading it failed"),
            (
                ["reference", "--images", "x", "--output", "x.npz"],
                "output: expected a file that ends with .safetensors",
            ),
            (["reference", "--images", "x", "--output", "x.safetensors", "--batch_size", "0"], "batch_size: expected"),
        ],
    )
    def test_bad_input(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        arguments: list[str],
        message: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert refused(capsys, arguments).startswith(message)
        assert files(tmp_path) == []


class TestEncode:
    def test_store_to_train_on(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        photos, store = write_class_folders(tmp_path / "photos"), tmp_path / "store"
        (photos / "cats" / "b.png").write_bytes(b"no image")
        arguments = ["encode", "--folder", str(photos), "--tokenizer", "pixel:2", "--latents", str(store)]
        main([*arguments, "--image_size", "8", "--crops", "1", "--on_bad_image", "skip"])
        written = f"3 images (variants: 3), latents 12x4x4, 0.0 MiB, 1 images skipped, in {store}\n"
        assert capsys.readouterr().out == written
        assert [path.name for path in files(store)] == ["shard_00000.safetensors", "store.json", "tokenizer.json"]
        model = [option for option in TRAINING if option not in ("--data.tokenizer", "pixel:2", *CLASSES)]
        output = ["--data.latents", str(store), "--output", str(tmp_path / "run"), "--optim.batch_size", "2"]
        main(["train", *model, *output])
        assert FlowAR.from_pretrained(tmp_path / "run" / "model").config.latent_channels == 12

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--latents", "store"], "encode: expected folder and latents, got None and store"),
            (["--folder", "x", "--tokenizer", "pixel:2"], "encode: expected folder and latents, got x and None"),
            (["--folder", "x", "--latents", "store"], "data: expected a folder, got x (does not exist)"),
            (["--folder", ".", "--latents", "store"], "tokenizer: expected one for the images of folder, got None"),
            (["--folder", "{0..1}.tar", "--latents", "store"], "tokenizer: expected one for the images of folder"),
            (["--folder", "x", "--tokenizer", "pixel:2", "--latents", "store"], "data: expected a folder, got x"),
            (["--latents", "store", "--on_bad_image", "ask"], "on_bad_image: expected"),
            (["--latents", "store", "--crops", "-1"], "crops: expected an integer from 0 to 10000, got -1"),
        ],
    )
    def test_bad_input(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        arguments: list[str],
        message: str,
    ) -> None:
        monkeypatch.chdir(tmp_path)
        assert refused(capsys, ["encode", *arguments]).startswith(message)
        assert files(tmp_path) == []


class TestTrain:
    def test_train_resume_sample_plot(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        idx_folder: Path,
        tmp_path: Path,
    ) -> None:
        run = tmp_path / "run"
        arguments = ["train", "--data.folder", str(idx_folder), "--output", str(run), *TRAINING]
        step = TrainingStep.__call__
        with monkeypatch.context() as patch:

            def interrupted(self: TrainingStep, *rest: object) -> object:
                if self.state.step == 3:
                    raise KeyboardInterrupt
                return step(self, *rest)  # type: ignore[arg-type]

            patch.setattr(TrainingStep, "__call__", interrupted)
            assert refused_after_log(capsys, arguments, 130) == "flowar: interrupted"
        assert [path.stem for path in checkpoints(run / "checkpoints")] == ["step_00000002"]
        assert "resume it instead" in refused_after_log(capsys, arguments)
        main([*arguments, "--resume"])
        assert capsys.readouterr().out == f"model in {run / 'model'}\n"
        assert [json.loads(row)["step"] for row in (run / "metrics.jsonl").read_text().splitlines()] == [1, 2, 3, 4]

        main(["sample", "--model", str(run / "model"), "--per_class", "1", "--output", str(tmp_path / "grid.png")])
        assert Image.open(tmp_path / "grid.png").size == (640, 64)

    def test_plot(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        pytest.importorskip("matplotlib")
        row = {"loss": 1.0, "loss_scale": [1.0, 0.5], "grad_norm": 0.1, "lr": 1e-3}
        lines = [json.dumps({"step": step} | row) for step in (1, 2, 3)]
        (tmp_path / "metrics.jsonl").write_text("\n".join(lines))
        main(["plot", str(tmp_path)])
        assert capsys.readouterr().out == f"curves of 3 rows in {tmp_path / 'curves.png'}\n"
        assert Image.open(tmp_path / "curves.png").format == "PNG"
        assert "nowhere/metrics.jsonl, found none" in refused(capsys, ["plot", "nowhere"])

    def test_plot_of_several_runs(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        pytest.importorskip("matplotlib")
        monkeypatch.chdir(tmp_path)
        for name in ("a", "b, c"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0, "lr": 0.1}')
        main(["plot", "a", "b, c"])
        main(["plot", "a", "b, c", "--output", "both.png"])
        assert capsys.readouterr().out == "curves of 2 rows in curves.png\ncurves of 2 rows in both.png\n"
        assert Image.open("both.png").size == Image.open("curves.png").size
        message = "runs: expected one or more folders, each of them once, got"
        assert f"{message} ['a', 'a']" in refused(capsys, ["plot", "a", "a"])
        assert f"{message} []" in refused(capsys, ["plot", "--runs", "[]"])
        assert "arguments are required: runs" in refused(capsys, ["plot"])

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--data.folder", "nowhere"], "data: expected a folder, got nowhere (does not exist)"),
            (
                ["--model.scales", "[1, 3]"],
                "scales: expected growing grids from 1x1 to latent_size 16x16",
            ),
            (["--model.num_classes", "3"], "num_classes: expected at least 10"),
            (
                ["--model.flow_block", "mlp"],
                "flow_block: expected attn_mlp or attn_cross_mlp, got mlp",
            ),
            (["--model.ar_heads", "5"], "ar_heads: expected a divisor of ar_width / 4 = 8, got 5"),
            (["--optim.lr", "fast"], "optim.lr: expected float, got fast"),
            (["--optim.batch_size", "0"], "batch_size: expected a positive integer, got 0"),
            (["--optim.batch_size", "100"], "batch_size: expected at most the 24 images of the data set, got 100"),
            (["--data.tokenizer", "nowhere"], "model: expected a folder, a shipped model"),
            (["--resume"], "resume: expected checkpoints in"),
            (["--precision", "int4"], "precision: expected auto or bf16 or tf32 or float32, got int4"),
            (["--device", "abacus"], "device: expected auto, cpu, or a GPU of this machine"),
        ],
    )
    def test_bad_input(
        self, capsys: pytest.CaptureFixture[str], idx_folder: Path, tmp_path: Path, arguments: list[str], message: str
    ) -> None:
        base = ["train", "--data.folder", idx_folder, "--output", tmp_path / "run", *TRAINING]
        assert message in refused(capsys, [*base, *arguments])
        assert not [*(tmp_path / "run").rglob("*.part")]

    @pytest.mark.parametrize("words", [["--finetune.checkpoint", "old"], ["--seed", "1"], []])
    def test_a_flag_of_what_may_be_left_out(self, words: list[str]) -> None:
        """Alone, before other options and at the end."""
        arguments = ["--output", "run", "--data.latents", "store", "--finetune.checkpoint", "old"]
        parsed = parse_options("train", TrainConfig, [*arguments, "--finetune.interpolate_positions", *words])
        assert parsed.finetune == FinetuneConfig("old", interpolate_positions=True)
        assert not parse_options("train", TrainConfig, arguments).finetune.interpolate_positions

    def test_missing_options(self, capsys: pytest.CaptureFixture[str]) -> None:
        line = refused(capsys, ["train"])
        assert line.startswith("the following arguments are required: output;")
        line = refused(capsys, ["train", "--output", "run"])
        assert line.startswith("data: expected folder or latents, got neither")
        line = refused(capsys, ["train", "--output", "run", "--data.folder", "photos"])
        assert line == "data: expected a folder, got photos (does not exist)"
        line = refused(capsys, ["train", "--output", "run", "--data.folder", "."])
        assert line.startswith("tokenizer: expected one for the images of folder, got None")

    def test_damaged_configuration(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        config = tmp_path / "train.yaml"
        for text in ("unknown: 3\n", "data: 5\n", "optim:\n  lr: [1]\n"):
            config.write_text(text)
            assert "flowar train --help" in refused(capsys, ["train", "--config", config])
        for value in ("2.5", "null", "[1]"):
            config.write_text(f"output: run\ndata: {{latents: store}}\noptim: {value}\n")
            assert "train.yaml: optim: expected options of its own, got" in refused(
                capsys, ["train", "--config", config]
            )
        config.write_text("data: {folder: [")
        assert "train.yaml: expected options in YAML, got something" in refused(capsys, ["train", "--config", config])

    def test_corrupt_image(self, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
        folder = write_class_folders(tmp_path / "images")
        (folder / "cats" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n garbage")
        arguments = [
            "train",
            "--data.folder",
            folder,
            "--output",
            tmp_path / "run",
            *(option for option in TRAINING if option not in CLASSES),
            "--data.image_size",
            "8",
        ]
        assert "b.png: expected a readable image" in refused(capsys, arguments)
        assert not [path for path in files(tmp_path / "run") if path.suffix == ".safetensors"]

    def test_full_disk(
        self, capsys: pytest.CaptureFixture[str], idx_folder: Path, tmp_path: Path, request: pytest.FixtureRequest
    ) -> None:
        request.getfixturevalue("full_disk")
        arguments = ["train", "--data.folder", idx_folder, "--output", tmp_path / "run", *TRAINING]
        assert "shard_00000.safetensors: writing failed" in refused(capsys, arguments)
        assert [path.name for path in files(tmp_path / "run")] == ["tokenizer.json"]


def refused_after_log(capsys: pytest.CaptureFixture[str], arguments: Iterable[object], code: int = 2) -> str:
    """The last line on stderr of a command that has logged something before it failed."""
    with pytest.raises(SystemExit) as exit_:
        main([*map(str, arguments)])
    assert exit_.value.code == code
    return capsys.readouterr().err.splitlines()[-1]


def test_an_error_of_the_operating_system_is_a_sentence(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The file, and the reason in words."""
    missing = tmp_path / "missing.png"
    arguments = ["edit", "vary", "--image", str(missing), "--classes", "0", "--keep_scales", "1"]
    assert refused(capsys, arguments) == f"{missing}: No such file or directory"
