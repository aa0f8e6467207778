"""Training runs: what they leave, what they log, resuming bit for bit, what is refused."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_data import write_class_folders
from torch import Tensor
from training_runs import MODEL, rows, run_config

from flowar import FlowAR, FlowARConfig, FlowARPipeline
from flowar.cli import parse_options
from flowar.errors import DataError
from flowar.training.config import LossConfig, TrainConfig
from flowar.training.metrics import MetricsWriter
from flowar.training.optimizer import learning_rate
from flowar.training.step import Batch, Outcome, TrainingStep
from flowar.training.trainer import train

pytestmark = pytest.mark.usefixtures("without_tensorboard", "either_default")


def leftovers(folder: Path) -> list[Path]:
    return [*folder.rglob("*.part")]


class TestRun:
    def test_what_a_run_leaves(self, idx_folder: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        config = run_config(idx_folder, run, sample_every=4, save_every=2)
        assert train(config) == run / "model"
        assert [path.name for path in sorted((run / "checkpoints").iterdir())] == ["step_00000004", "step_00000006"]
        assert sorted(path.name for path in (run / "samples").iterdir()) == ["step_00000004.png", "step_00000006.png"]
        assert json.loads((run / "config.json").read_text())["optim"]["steps"] == 6
        assert not leftovers(tmp_path)
        pipeline = FlowARPipeline.from_pretrained(run / "model")
        assert pipeline.model.config.tokenizer == pipeline.tokenizer.record()
        assert pipeline([3]).images[0].size == (8, 8)

    def test_the_learning_rate_of_every_step(
        self, idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        config, rates, plain = run_config(idx_folder, tmp_path), [], TrainingStep.__call__

        def recorded(self: TrainingStep, batch: Batch, lr: float) -> Outcome:
            rates.append(lr)
            return plain(self, batch, lr)

        monkeypatch.setattr(TrainingStep, "__call__", recorded)
        train(config)
        assert rates == [learning_rate(step, 6, 2, config.optim) for step in range(6)]

    def test_metrics(self, idx_folder: Path, tmp_path: Path) -> None:
        config = run_config(idx_folder, tmp_path, log_every=4)
        train(config)
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        last = json.loads(lines[-1])
        assert [json.loads(line)["step"] for line in lines] == [3, 4, 6]  # where it logs, and where it saves
        assert {"loss_time", "grad_norm", "skipped_steps", "images_per_second", "data_seconds"} < last.keys()
        assert all(0.1 < loss < 10 for loss in last["loss_scale"])  # unit latents, unit noise
        lengths = MODEL.scale_lengths
        weighted = sum(loss * n / lengths[-1] for loss, n in zip(last["loss_scale"], lengths, strict=True))
        assert last["loss"] == pytest.approx(weighted)
        assert last["lr"] == pytest.approx(learning_rate(5, 6, 2, config.optim))

    @pytest.mark.parametrize(
        ("loss", "optimizer"),
        [(LossConfig(), "adamw"), (LossConfig(times="logit_normal", context_noise=0.5, scale_exponent=0.5), "muon")],
    )
    def test_interrupted_run_resumes_bit_for_bit(
        self, idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loss: LossConfig, optimizer: str
    ) -> None:
        changes: dict[str, Any] = {"model": replace(MODEL, dropout=0.3), "loss": loss, "log_every": 2}
        optim = {"ema_decays": (0.9, 0.5), "optimizer": optimizer}
        whole, broken = (
            run_config(idx_folder, tmp_path / name, **changes, optim=optim) for name in ("whole", "broken")
        )
        train(whole)
        interrupt(monkeypatch, 4, broken)
        assert [row["step"] for row in rows(tmp_path / "broken")] == [2, 3, 4]
        train(replace(broken, resume=True))
        assert rows(tmp_path / "broken") == rows(tmp_path / "whole")
        expected, got = (
            read_tensors(tmp_path / name / "checkpoints" / "step_00000006") for name in ("whole", "broken")
        )
        assert expected.keys() == got.keys()
        assert all(torch.equal(expected[name], got[name]) for name in expected)

    def test_resume_drops_the_row_of_a_killed_write(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
        metrics = MetricsWriter(tmp_path, 2)
        metrics.write(3, {"loss": 1.0})
        metrics.close()
        assert rows(tmp_path) == [{"step": 1}, {"step": 2}, {"step": 3, "loss": 1.0}]

    def test_a_run_is_not_overwritten(self, idx_folder: Path, tmp_path: Path) -> None:
        train(run_config(idx_folder, tmp_path))
        with pytest.raises(DataError, match="expected a folder without a run, found checkpoints"):
            train(run_config(idx_folder, tmp_path))

    def test_resume_refuses_what_does_not_fit(self, idx_folder: Path, tmp_path: Path) -> None:
        config = run_config(idx_folder, tmp_path, resume=True)
        with pytest.raises(DataError, match=r"resume: expected checkpoints in .*, found none"):
            train(config)
        assert not (tmp_path / "latents").exists()
        train(replace(config, resume=False))
        wider = replace(config, model=replace(MODEL, flow_width=128, flow_heads=2))
        with pytest.raises(DataError, match="expected a checkpoint of flow_width 128, got one of 64"):
            train(wider)

    def test_seed(self, idx_folder: Path, tmp_path: Path) -> None:
        for name, seed in (("a", 0), ("b", 0), ("c", 1)):
            train(run_config(idx_folder, tmp_path / name, seed=seed, optim={"steps": 2}))
        assert rows(tmp_path / "a") == rows(tmp_path / "b") != rows(tmp_path / "c")

    def test_full_disk(self, idx_folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> None:
        request.getfixturevalue("full_disk")
        with pytest.raises(OSError, match=r"shard_00000\.safetensors: writing failed"):
            train(run_config(idx_folder, tmp_path))
        assert not leftovers(tmp_path)
        assert not (tmp_path / "latents" / "store.json").exists()

    def test_full_disk_while_saving(
        self, idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
    ) -> None:
        config = run_config(idx_folder, tmp_path, log_every=6)
        interrupt(monkeypatch, 4, config)
        request.getfixturevalue("full_disk")
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(OSError, match=r"File too large|writing failed"):
            train(replace(config, resume=True))
        assert sorted(tmp_path.rglob("*")) == before

    def test_tensorboard(self, idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("tensorboard")
        monkeypatch.delitem(sys.modules, "torch.utils.tensorboard")
        train(run_config(idx_folder, tmp_path, sample_every=6, log_every=3))
        (events,) = (tmp_path / "tensorboard").iterdir()
        content = events.read_bytes()
        assert all(tag in content for tag in (b"grad_norm", b"loss_scale/2", b"samples", b"PNG"))

    def test_bf16(self, idx_folder: Path, tmp_path: Path) -> None:
        train(run_config(idx_folder, tmp_path, precision="bf16", optim={"steps": 2}))
        state = read_tensors(tmp_path / "checkpoints" / "step_00000002")
        assert all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in state.values())

    def test_loss_falls(self, idx_folder: Path, tmp_path: Path) -> None:
        train(run_config(idx_folder, tmp_path, log_every=10, optim={"steps": 60, "lr": 3e-3}))
        losses = [row["loss"] for row in rows(tmp_path)]
        assert sum(losses[-3:]) < 0.95 * sum(losses[:3])

    def test_class_folders_and_scales_of_the_data(self, tmp_path: Path) -> None:
        folder, model = write_class_folders(tmp_path / "images"), replace(MODEL, num_classes=2)
        config = run_config(folder, tmp_path / "run", model=model, optim={"batch_size": 4})
        data = replace(config.data, image_size=12, tokenizer="pixel:2")
        folder = train(replace(config, data=data))
        trained = FlowAR.from_pretrained(folder).config
        assert (trained.latent_channels, trained.grids) == (12, ((1, 1), (2, 2), (3, 3), (6, 6)))


def interrupt(monkeypatch: pytest.MonkeyPatch, steps: int, config: TrainConfig) -> None:
    """Train until Ctrl-C comes at the start of the step after `steps`."""
    step = TrainingStep.__call__

    def interrupted(self: TrainingStep, *arguments: Any) -> Outcome:
        if self.state.step == steps:
            raise KeyboardInterrupt
        return step(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(config)


def read_tensors(checkpoint: Path) -> dict[str, Tensor]:
    """What one process saved."""
    (file,) = checkpoint.glob("*.safetensors")
    return load_file(file)


class TestRefused:
    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="data: expected a folder"):
            train(run_config(tmp_path / "nowhere", tmp_path / "run"))

    def test_corrupt_image(self, tmp_path: Path) -> None:
        folder = write_class_folders(tmp_path / "images")
        (folder / "cats" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n garbage")
        model = replace(MODEL, num_classes=2)
        config = run_config(folder, tmp_path / "run", model=model, optim={"batch_size": 2})
        with pytest.raises(DataError, match=r"b\.png: expected a readable image"):
            train(replace(config, data=replace(config.data, image_size=8)))
        assert not [*(tmp_path / "run").rglob("*.safetensors")]

    def test_more_classes_than_the_model_has(self, idx_folder: Path, tmp_path: Path) -> None:
        config = replace(run_config(idx_folder, tmp_path), model=replace(MODEL, num_classes=3))
        with pytest.raises(DataError, match=r"num_classes: expected at least 10 .*, got 3"):
            train(config)

    def test_fewer_images_than_a_batch(self, idx_folder: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="batch_size: expected at most the 40 images of the data set, got 64"):
            train(run_config(idx_folder, tmp_path, optim={"batch_size": 64}))

    def test_scales_that_do_not_end_in_the_grid(self, idx_folder: Path, tmp_path: Path) -> None:
        chosen = replace(MODEL, latent_size=(16, 16), scales=(1, 4, 16))
        with pytest.raises(ValueError, match="scales: expected growing grids from 1x1 to latent_size 4x4"):
            train(replace(run_config(idx_folder, tmp_path), model=chosen))

    @pytest.mark.parametrize("name", ["pixel:0", "pixel:x", "pixel:", "pixel:3"])
    def test_pixel_tokenizer(self, idx_folder: Path, tmp_path: Path, name: str) -> None:
        config = run_config(idx_folder, tmp_path)
        with pytest.raises(ValueError, match=r"expected pixel:STRIDE|multiples of 3, got \[.*8, 8\]"):
            train(replace(config, data=replace(config.data, tokenizer=name)))

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"optim": {"batch_size": 0}}, "batch_size: expected a positive integer, got 0"),
            ({"optim": {"steps": -1}}, "steps: expected an integer from 1 to 100000000, got -1"),
            ({"optim": {"steps": None, "epochs": None}}, "optim: expected steps or epochs, got neither"),
            ({"optim": {"epochs": 0}}, r"epochs: expected a number in \(0, 1e\+06\], got 0"),
            ({"optim": {"lr": -1.0}}, r"lr: expected a number in \(0, 100\], got -1\.0"),
            ({"optim": {"ema_decays": [1.0]}}, r"ema_decays\[0\]: expected a number in \[0, 1\), got 1\.0"),
            ({"optim": {"ema_decays": [0.9, 0.9]}}, r"ema_decays: expected different numbers"),
            ({"optim": {"ema_decays": []}}, r"ema_decays: expected .* at least one, got \(\)"),
            ({"optim": {"lr_schedule": "linear"}}, "lr_schedule: expected cosine or constant, got 'linear'"),
            ({"optim": {"skip_grad_norm": 0}}, r"skip_grad_norm: expected a number in \(0, 1e\+09\], got 0"),
            ({"optim": {"optimizer": "sgd"}}, "optimizer: expected adamw or muon, got 'sgd'"),
            (
                {"optim": {"optimizer": "muon"}, "parallel": "fsdp"},
                "optimizer: expected adamw for parallel fsdp, got muon",
            ),
            ({"micro_batch": 0}, "micro_batch: expected a positive integer, got 0"),
            ({"keep_checkpoints": 0}, "keep_checkpoints: expected a positive integer, got 0"),
            ({"log_every": 0}, "log_every: expected a positive integer, got 0"),
            ({"sample_every": -1}, "sample_every: expected an integer >= 0, got -1"),
        ],
    )
    def test_options(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            run_config(tmp_path, tmp_path, **changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"times": "normal"}, "times: expected uniform or logit_normal, got 'normal'"),
        ({"context_noise": -0.5}, r"context_noise: expected a number in \[0, 100\], got -0\.5"),
        ({"context_noise": float("nan")}, r"context_noise: expected a number in \[0, 100\], got nan"),
        ({"scale_exponent": -1}, r"scale_exponent: expected a number in \[0, 10\], got -1"),
    ],
)
def test_options_of_the_loss(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LossConfig(**changes)


CONFIGS = Path(__file__).parents[1] / "configs"


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_configurations_that_ship(path: Path) -> None:
    config = parse_options("train", TrainConfig, ["--config", str(path)])
    name = re.fullmatch(r"flowar_([sblh])_imagenet(\d+)", path.stem)
    if name is None:
        return
    size, side = name[1], int(name[2])
    assert (config.data.image_size, config.model.grid) == (side, (side // 16, side // 16))
    preset = FlowARConfig.preset(size, latent_size=side // 16)
    assert config.model == preset
    assert (config.optim.batch_size, config.optim.lr, config.optim.epochs) == (1024, 2e-4, 400)  # paper, section 4
