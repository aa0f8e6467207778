"""What cannot be is refused with the estimate, before anything is allocated; `~` is the user's folder."""

from __future__ import annotations

import dataclasses
import gzip
import io
import json
import math
import struct
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small_model
from test_cli import refused
from test_data import pictures, write_class_folders, write_idx
from training_runs import run_config

from flowar import FlowAR, FlowARConfig, FlowARPipeline, Schedule
from flowar.data.sources import open_images
from flowar.errors import DataError, FlowARError, TrainingError
from flowar.model import Loss
from flowar.system import memory
from flowar.system.memory import check_memory, size
from flowar.tokenizers.loading import load_tokenizer
from flowar.tokenizers.pixel import PixelTokenizer
from flowar.training import room
from flowar.training.checkpoints import checkpoints
from flowar.training.load_data import load_data
from flowar.training.step import TrainingStep
from flowar.training.tokenizer_config import TokenizerTrainingConfig
from flowar.training.tokenizer_training import train_tokenizer
from flowar.training.trainer import train

BILLION = 10**9


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    return write_idx(tmp_path / "idx", *pictures(24))


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    tokenizer = PixelTokenizer(image_channels=1, stride=2)
    FlowARPipeline(small_model(tokenizer=tokenizer.record()), tokenizer).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host with 1 GiB free."""
    monkeypatch.setattr(memory, "free_on_host", lambda root: 2.0**30)
    monkeypatch.setattr(memory, "swap", lambda root: 0.0)


class TestMemory:
    def test_check(self, little_memory: None) -> None:
        check_memory("count", "a few", 2**30)
        check_memory("count", "a few", memory.UNNOTICED - 1)
        with pytest.raises(FlowARError, match=r"^count: expected what fits into 1 GiB of free memory, got 8: 3 GiB$"):
            check_memory("count", "8", 3 * 2**30)

    def test_unknown_memory(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Where the system does not tell, only what no machine has is refused."""
        monkeypatch.setattr(memory, "ROOT", Path("/nowhere"))
        check_memory("count", "many", 2.0**45)
        with pytest.raises(FlowARError, match="64 TiB of free memory, got many: 128 TiB"):
            check_memory("count", "many", 2.0**47)

    def test_swap_counts(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "proc").mkdir()
        (tmp_path / "proc/meminfo").write_text("MemAvailable: 1048576 kB\nSwapFree: 1048576 kB\n")
        monkeypatch.setattr(memory, "ROOT", tmp_path)
        check_memory("count", "a few", 2**31)
        with pytest.raises(FlowARError, match="2 GiB of free memory"):
            check_memory("count", "a few", 2**31 + 1)

    @pytest.mark.parametrize(
        ("count", "words"), [(0, "0 bytes"), (1023, "1.02e+03 bytes"), (1536, "1.5 KiB"), (2**62, "4.1e+03 PiB")]
    )
    def test_words(self, count: int, words: str) -> None:
        assert size(count) == words


class TestModels:
    @pytest.mark.parametrize("preset", ["S", "B", "L", "H"])
    @pytest.mark.parametrize("changes", [{}, {"num_classes": 10**6}, {"latent_size": 32}, {"qk_norm": True}], ids=str)
    def test_estimate(self, preset: str, changes: dict[str, Any]) -> None:
        config = FlowARConfig.preset(preset, **changes)
        with torch.device("meta"):
            exact = sum(4 * parameter.numel() for parameter in FlowAR(config).parameters())
        assert config.nbytes == pytest.approx(exact, rel=0.01)

    @pytest.mark.parametrize(
        "fields",
        [
            {"ar_depth": BILLION},
            {"flow_depth": BILLION},
            {"ar_width": BILLION - BILLION % 96},
            {"flow_width": BILLION - BILLION % 128, "flow_heads": 32},
            {"num_classes": 10**12},
            {"latent_channels": 10**12},
            {"latent_size": [65536, 65536], "ar_width": 2**14, "ar_heads": 16},
        ],
        ids=lambda fields: next(iter(fields)),
    )
    def test_impossible(self, fields: dict[str, Any]) -> None:
        message = r"^model: expected at most 64 TiB of weights, got .*[TP]iB for latent_size"
        with pytest.raises(ValueError, match=message) as raised:
            FlowARConfig(**fields)
        assert len(str(raised.value)) <= 300

    def test_larger_than_its_file(self, model_folder: Path) -> None:
        path = model_folder / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"ar_depth": 10**6}))
        with pytest.raises(ValueError, match=r"model\.safetensors: expected weights of about .* GiB in float32.* KiB$"):
            FlowAR.from_pretrained(model_folder)

    def test_larger_than_the_memory(self, idx_folder: Path, tmp_path: Path, little_memory: None) -> None:
        """Refused before the images are encoded."""
        config = run_config(idx_folder, tmp_path / "run", model=FlowARConfig.preset("S", num_classes=10))
        with pytest.raises(
            FlowARError, match=r"model: expected what fits into 1 GiB .*, got 5 times .* MiB .*: 3\.\d+ GiB"
        ):
            train(config)
        assert not (tmp_path / "run").exists()

    def test_tokenizers(self, tmp_path: Path, little_memory: None) -> None:
        for widths, expected in (
            ([8, 16384], "widths .* GiB"),
            ([8] * 3 + [10**9], r"widths\[3\]: expected an integer"),
        ):
            record = {"kind": "conv", "image_channels": 1, "channels": 4, "widths": widths}
            (tmp_path / "tokenizer.json").write_text(json.dumps(record))
            with pytest.raises(FlowARError, match=rf"tokenizer\.json: .*{expected}"):
                load_tokenizer(tmp_path)

    @pytest.mark.parametrize("change", [{"layers_per_block": BILLION}, {"block_out_channels": [8, BILLION]}])
    def test_autoencoders_of_diffusers(self, tmp_path: Path, change: dict[str, Any]) -> None:
        config = {"_class_name": "AutoencoderKL", "in_channels": 1, "block_out_channels": [8, 8]} | change
        (tmp_path / "config.json").write_text(json.dumps(config))
        with pytest.raises(FlowARError, match=r"config\.json: .*expected an integer from 1 to \d+ ?.*, got "):
            load_tokenizer(tmp_path)


class TestCommands:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["sample", "--per_class", BILLION], "per_class: expected what fits"),
            (["sample", "--num_inference_steps", BILLION], "num_inference_steps: expected an integer from 1 to 10000"),
            (["edit", "interpolate", "--classes", "0,1", "--count", BILLION], "count: expected what fits"),
            (["evaluate", "--reference", "images", "--num_images", 10**12], "num_images: expected what fits"),
            (["tune", "--target_ms", 5, "--batch_size", BILLION], "batch_size: expected what fits"),
        ],
    )
    def test_pictures(
        self,
        capsys: pytest.CaptureFixture[str],
        model_folder: Path,
        little_memory: None,
        monkeypatch: pytest.MonkeyPatch,
        arguments: list[object],
        message: str,
    ) -> None:
        monkeypatch.chdir(model_folder)
        before = sorted(model_folder.rglob("*"))
        extra = ["--extractor", "fashion"] if arguments[0] == "evaluate" else []
        line = refused(capsys, [*arguments, "--model", model_folder, *extra])
        assert line.startswith(message)
        assert any(unit in line for unit in ("TiB", "GiB", "days"))
        assert sorted(model_folder.rglob("*")) == before

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (
                ["--optim.steps", BILLION],
                "steps: expected an integer from 1 to 100000000, got 1000000000, which takes 12 days",
            ),
            (["--model.ar_depth", BILLION], "model: expected at most 64 TiB of weights, got "),
            (["--data.crops", BILLION], "crops: expected an integer from 0 to 10000, got 1000000000"),
            (["--data.workers", BILLION], "workers: expected an integer from 1 to 1024, got 1000000000"),
            (
                ["--data.image_size", BILLION],
                "image_size: expected an integer from 1 to 65536 or a list, got 1000000000",
            ),
        ],
    )
    def test_training(
        self, capsys: pytest.CaptureFixture[str], tmp_path: Path, arguments: list[object], message: str
    ) -> None:
        base = ["train", "--data.folder", "x", "--data.tokenizer", "pixel:2", "--output", tmp_path / "run"]
        assert refused(capsys, [*base, *arguments]).startswith(message)
        assert not (tmp_path / "run").exists()


class TestTraining:
    def test_longer_than_a_life(self, idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(room, "PEAK_TFLOPS", {"slow": (1e-9,)})
        with pytest.raises(
            FlowARError, match=r"^steps: expected what ends within 10 years, got 100000000 steps of .* years"
        ):
            train(run_config(idx_folder, tmp_path / "run", optim={"steps": 10**8}))

    def test_latents_larger_than_the_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = dataclasses.replace(run_config(write_idx(tmp_path / "idx", *pictures(24)), tmp_path).data, crops=1000)
        monkeypatch.setattr(room, "free_disk", lambda folder: 2**20)
        expected = r"fit into 1 MiB of free disk, got 24 images with 1001 encodings of each image: 5\.87 MiB"
        with pytest.raises(FlowARError, match=rf"latents: expected latents that {expected}"):
            load_data(config, tmp_path / "run")
        assert not [*(tmp_path / "run").rglob("*.safetensors")]

    @pytest.mark.parametrize("field", ["shard_size", "encode_batch"])
    def test_latents_larger_than_the_memory(
        self, field: str, tmp_path: Path, little_memory: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(memory, "UNNOTICED", 0)
        monkeypatch.setattr(memory, "free_on_host", lambda root: 2.0**13)
        monkeypatch.setattr("flowar.data.sources.check_memory", lambda *_: None)
        idx = write_idx(tmp_path / "idx", *pictures(48))
        config = dataclasses.replace(run_config(idx, tmp_path).data, shard_size=8, encode_batch=8, **{})
        load_data(config, tmp_path / "fine")
        with pytest.raises(FlowARError, match=rf"{field}.*: expected what fits into 8 KiB"):
            load_data(dataclasses.replace(config, **{field: BILLION}), tmp_path / "run")

    def test_batch_of_a_tokenizer(self, little_memory: None) -> None:
        config = TokenizerTrainingConfig(batch_size=BILLION, widths=[8, 8])
        with pytest.raises(FlowARError, match=r"batch_size: expected what fits .* 1000000000 images of 8x8"):
            train_tokenizer(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), config)

    @pytest.mark.parametrize("last", [math.nan, math.inf])
    def test_last_loss(self, last: float, idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """A run whose last loss is not finite ends with an error, and leaves neither a model nor a last checkpoint."""
        gradients = TrainingStep._gradients

        def broken(self: TrainingStep, batch: Any) -> Any:
            losses = gradients(self, batch)
            if self.state.step == 5:
                for parameter in self.parameters:
                    parameter.grad = torch.full_like(parameter, math.nan)
                losses = [(Loss(torch.tensor(last), out.per_scale, out.per_image), times) for out, times in losses]
            return losses

        monkeypatch.setattr(TrainingStep, "_gradients", broken)
        config = run_config(idx_folder, tmp_path / "run")
        message = rf"step 6: expected a finite loss in the last step, got {last}; a lower lr"
        for resume in (False, True):
            with pytest.raises(TrainingError, match=message):
                train(dataclasses.replace(config, resume=resume))
            assert not (tmp_path / "run" / "model").exists()
            assert [path.name for path in checkpoints(tmp_path / "run" / "checkpoints")] == ["step_00000003"]

    def test_weights_that_are_not_finite(
        self, idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        step = TrainingStep.__call__

        def broken(self: TrainingStep, *arguments: Any) -> Any:
            outcome = step(self, *arguments)
            for averages in self.state.averages.by_decay.values():
                next(iter(averages.values())).fill_(math.inf)
            return outcome

        monkeypatch.setattr(TrainingStep, "__call__", broken)
        with pytest.raises(TrainingError, match="model: expected finite weights to export, got others"):
            train(run_config(idx_folder, tmp_path / "run"))
        assert not (tmp_path / "run" / "model").exists()

    def test_loss_of_a_tokenizer(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            "flowar.training.tokenizer_losses.TokenizerLosses.autoencoding",
            lambda self, step: sum(parameter.sum() for parameter in self.tokenizer.parameters()) * math.nan,
        )
        config = TokenizerTrainingConfig(batch_size=2, widths=[8, 8], steps=2)
        with pytest.raises(TrainingError, match="step 2: expected a finite loss, got nan; a lower lr may help"):
            train_tokenizer(torch.zeros(2, 1, 8, 8, dtype=torch.uint8), config)


class TestFiles:
    def test_idx_of_impossible_size(self, idx_folder: Path, little_memory: None) -> None:
        path = idx_folder / "train-images-idx3-ubyte.gz"
        for shape, expected in (
            ((2**32 - 1, 28, 28), r"expected what fits into 1 GiB of free memory, got images \[4294967295, 28, 28\]"),
            ((2, 2**32 - 1, 28), "expected images of 1 to 65536 pixels a side"),
            ((2, 0, 28), "expected images of 1 to 65536 pixels a side"),
        ):
            path.write_bytes(gzip.compress(b"\0\0\x08\x03" + struct.pack(">III", *shape)))
            with pytest.raises(FlowARError, match=rf"ubyte\.gz: {expected}"):
                open_images(idx_folder)

    def test_bomb_of_an_idx(self, idx_folder: Path) -> None:
        """64 MiB of zeros behind two images of 8x8, of which one byte is read."""
        path = idx_folder / "train-images-idx3-ubyte.gz"
        path.write_bytes(gzip.compress(b"\0\0\x08\x03" + struct.pack(">III", 2, 8, 8) + bytes(2**26)))
        with pytest.raises(DataError, match=r"ubyte\.gz: expected 144 bytes for shape \[2, 8, 8\], got more"):
            open_images(idx_folder)

    def test_patterns_of_too_many_tars(self) -> None:
        with pytest.raises(
            DataError, match=r"a pattern of at most 1000000 tars, got .*, which stands for 1000000000000"
        ):
            open_images("a{000000..999999}-{000000..999999}.tar")

    def test_header_of_a_tar_that_claims_to_be_long(self, tmp_path: Path) -> None:
        header = tarfile.TarInfo("x")
        header.type, header.size = tarfile.XHDTYPE, 2**40
        (tmp_path / "a.tar").write_bytes(header.tobuf(tarfile.GNU_FORMAT) + bytes(10240))
        with pytest.raises(DataError, match=r"a\.tar: expected an uncompressed tar, .*a header of 1099511627776 bytes"):
            open_images(tmp_path)

    def test_labels_that_are_no_numbers(self, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        from PIL import Image

        Image.new("RGB", (8, 8)).save(buffer, "PNG")
        for label in (
            b"[" * 100_000,
            b'{"label": 1, "label": 2}',
            b'{"label": 1e300}',
            b'{"label": 9223372036854775808}',
            b"\xff\xfe",
        ):
            with tarfile.open(tmp_path / "a.tar", "w") as tar:
                for name, content in (("1.png", buffer.getvalue()), ("1.json", label)):
                    entry = tarfile.TarInfo(name)
                    entry.size = len(content)
                    tar.addfile(entry, io.BytesIO(content))
            with pytest.raises(
                DataError, match=r"a\.tar: expected an integer >= 0 as the label in 1\.json, got"
            ) as raised:
                open_images(tmp_path)
            assert len(str(raised.value)) <= 300

    def test_home(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model_folder: Path) -> None:
        """`~` where a shell does not expand it: in Python, in YAML, and behind an equals sign."""
        monkeypatch.setenv("HOME", str(tmp_path))
        pipeline = FlowARPipeline.from_pretrained("~/model")
        pipeline.save_pretrained("~/copy")
        FlowAR.from_pretrained(Path("~/copy")).save_pretrained("~/again")
        assert (tmp_path / "again" / "model.safetensors").is_file()
        Schedule.published(2, 1.0).save("~/fast.json")
        assert pipeline.model.schedule(base="~/fast.json") == Schedule.load("~/fast.json")
        write_class_folders(tmp_path / "photos")
        assert len(open_images("~/photos")) == len(open_images(tmp_path / "photos"))
        assert not [path for path in (tmp_path, Path()) if (path / "~").exists()]
