"""Training: cached latents, resuming bit for bit, the average, the schedule, what is written, what is refused."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, small_model
from safetensors.torch import load_file
from test_data import pictures, write_class_folders, write_idx
from torch import Tensor, nn

from flowar import FlowAR, FlowARPipeline
from flowar.errors import DataError, FlowARError
from flowar.tokenizer import ConvTokenizer, PixelTokenizer
from flowar.training import trainer
from flowar.training.config import OptimConfig, TrainConfig
from flowar.training.data import open_images
from flowar.training.data_config import DataConfig
from flowar.training.latent_store import LatentStore, Shard
from flowar.training.metrics import MetricsWriter
from flowar.training.state import checkpoints
from flowar.training.tokenizer_training import TokenizerTrainingConfig, calibrate, train_tokenizer
from flowar.training.tokenizers import tokenizer_for_training
from flowar.training.trainer import batches, learning_rate, new_state, total_steps, train, training_step, update_average

MODEL = replace(SMALL, num_classes=10, num_inference_steps=2)


@pytest.fixture(autouse=True)
def without_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing it takes seconds; one test brings it back."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    return write_idx(tmp_path / "idx", *pictures(40))


def run_config(data: Path, output: Path, **changes: Any) -> TrainConfig:
    """A run of 6 steps of 8 images; pixels of 8x8 images are latents of 4x4."""
    optim = OptimConfig(**({"batch_size": 8, "steps": 6, "lr": 1e-3, "warmup_steps": 2} | changes.pop("optim", {})))
    return TrainConfig(
        DataConfig(str(data), "pixel:2"),
        str(output),
        MODEL,
        optim,
        **({"precision": "float32", "log_every": 1, "sample_every": 0, "save_every": 3} | changes),
    )


def rows(run: Path) -> list[dict[str, Any]]:
    """metrics.jsonl, without the one value that depends on the machine."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if key != "images_per_second"} for row in found]


def leftovers(folder: Path) -> list[Path]:
    return [*folder.rglob("*.part")]


class TestRun:
    def test_what_a_run_leaves(self, idx_folder: Path, tmp_path: Path) -> None:
        run = tmp_path / "run"
        config = run_config(idx_folder, run, sample_every=4, save_every=2)
        assert train(config) == run / "model"
        assert [path.name for path in checkpoints(run / "checkpoints")] == [
            "step_00000004.safetensors",
            "step_00000006.safetensors",
        ]
        assert sorted(path.name for path in (run / "samples").iterdir()) == ["step_00000004.png", "step_00000006.png"]
        assert json.loads((run / "config.json").read_text())["optim"]["steps"] == 6
        assert not leftovers(tmp_path)
        pipeline = FlowARPipeline.from_pretrained(run / "model")
        assert pipeline.model.config.tokenizer == pipeline.tokenizer.record()
        assert pipeline([3]).images[0].size == (8, 8)

    def test_metrics(self, idx_folder: Path, tmp_path: Path) -> None:
        config = run_config(idx_folder, tmp_path, log_every=4)
        train(config)
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        last = json.loads(lines[-1])
        assert [json.loads(line)["step"] for line in lines] == [4, 6]
        assert list(last) == ["step", "loss", "loss_scale", "grad_norm", "lr", "images_per_second"]
        assert all(0.1 < loss < 10 for loss in last["loss_scale"])  # unit latents, unit noise
        lengths = MODEL.scale_lengths
        weighted = sum(loss * n / lengths[-1] for loss, n in zip(last["loss_scale"], lengths, strict=True))
        assert last["loss"] == pytest.approx(weighted)
        assert last["lr"] == pytest.approx(learning_rate(5, 6, config.optim))

    def test_interrupted_run_resumes_bit_for_bit(
        self, idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole, broken = (run_config(idx_folder, tmp_path / name) for name in ("whole", "broken"))
        train(whole)
        with monkeypatch.context() as patch:
            patch.setattr(trainer, "training_step", interrupted_after(4))
            with pytest.raises(KeyboardInterrupt):
                train(broken)
        assert [row["step"] for row in rows(tmp_path / "broken")] == [1, 2, 3, 4]
        train(replace(broken, resume=True))
        assert rows(tmp_path / "broken") == rows(tmp_path / "whole")
        first, second = (checkpoints(tmp_path / name / "checkpoints")[-1] for name in ("whole", "broken"))
        assert first.name == second.name
        expected, got = load_file(first), load_file(second)
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
        train(replace(config, resume=False))
        wider = replace(config, model=replace(MODEL, flow_width=128, flow_heads=2))
        with pytest.raises(DataError, match=r'expected a checkpoint of .*"flow_width": 128.*"flow_width": 64'):
            train(wider)
        newest = checkpoints(tmp_path / "checkpoints")[-1]
        newest.write_bytes(newest.read_bytes()[:1000])
        with pytest.raises(DataError, match=r"step_00000006\.safetensors: expected a training checkpoint"):
            train(config)

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
        with monkeypatch.context() as patch:
            patch.setattr(trainer, "training_step", interrupted_after(4))
            with pytest.raises(KeyboardInterrupt):
                train(config)
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
        state = load_file(checkpoints(tmp_path / "checkpoints")[-1])
        assert state["model.ar_transformer.input_positions"].dtype == torch.float32
        assert all(torch.isfinite(tensor).all() for name, tensor in state.items() if "generator" not in name)

    def test_loss_falls(self, idx_folder: Path, tmp_path: Path) -> None:
        train(run_config(idx_folder, tmp_path, log_every=10, optim={"steps": 60, "lr": 3e-3}))
        losses = [row["loss"] for row in rows(tmp_path)]
        assert sum(losses[-3:]) < 0.95 * sum(losses[:3])

    def test_class_folders_and_scales_of_the_data(self, tmp_path: Path) -> None:
        config = run_config(write_class_folders(tmp_path / "images"), tmp_path / "run", optim={"batch_size": 4})
        data = replace(config.data, image_size=12, tokenizer="pixel:2")
        folder = train(replace(config, data=data))
        trained = FlowAR.from_pretrained(folder).config
        assert (trained.latent_channels, trained.grids) == (12, ((1, 1), (2, 2), (3, 3), (6, 6)))


def interrupted_after(steps: int) -> Any:
    """`training_step`, until Ctrl-C comes at the start of the next one."""

    def step(state: Any, *arguments: Any) -> Any:
        if state.step == steps:
            raise KeyboardInterrupt
        return training_step(state, *arguments)

    return step


class TestRefused:
    def test_missing_folder(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match="data: expected a folder"):
            train(run_config(tmp_path / "nowhere", tmp_path / "run"))

    def test_corrupt_image(self, tmp_path: Path) -> None:
        folder = write_class_folders(tmp_path / "images")
        (folder / "cats" / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n garbage")
        config = run_config(folder, tmp_path / "run", optim={"batch_size": 2})
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
            ({"optim": {"steps": -1}}, "steps: expected a positive integer, got -1"),
            ({"optim": {"steps": None, "epochs": None}}, "optim: expected steps or epochs, got neither"),
            ({"optim": {"epochs": 0}}, "epochs: expected a positive number, got 0"),
            ({"optim": {"lr": -1.0}}, r"lr: expected a positive number, got -1\.0"),
            ({"optim": {"ema_decay": 1.0}}, r"ema_decay: expected a number in \[0, 1\), got 1\.0"),
            ({"log_every": 0}, "log_every: expected a positive integer, got 0"),
            ({"sample_every": -1}, "sample_every: expected an integer >= 0, got -1"),
        ],
    )
    def test_options(self, tmp_path: Path, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            run_config(tmp_path, tmp_path, **changes)


class TestBatches:
    def test_batches_visit_every_image_once_an_epoch_and_go_on_anywhere(self) -> None:
        labels = torch.arange(10)
        data = LatentStore(Path(), {}, (), [Shard(torch.zeros(10, 1, 1, 1, 1, 1), labels, {}, 0, [])], labels)
        order = [labels.tolist() for _, labels in batches(data, 3, seed=0, first=0, last=8)]
        assert len(order) == 8
        assert all(len({*chain(*order[start : start + 3])}) == 9 for start in (0, 3))  # an epoch drops one image
        assert order[:3] != order[3:6]
        assert [labels.tolist() for _, labels in batches(data, 3, seed=0, first=4, last=8)] == order[4:]
        assert [labels.tolist() for _, labels in batches(data, 3, seed=1, first=0, last=8)] != order


class TestParts:
    def test_learning_rate(self) -> None:
        optim = OptimConfig(lr=1.0, final_lr=0.1, warmup_steps=10)
        rates = [learning_rate(step, 110, optim) for step in range(111)]
        assert rates[:10] == pytest.approx([0.1 * (step + 1) for step in range(10)])
        assert rates[10] == 1.0
        assert rates[60] == pytest.approx(0.55)  # half way down the cosine
        assert rates[110] == pytest.approx(0.1)
        assert all(before >= after for before, after in pairwise(rates[10:]))

    def test_steps_of_a_run(self) -> None:
        assert total_steps(OptimConfig(batch_size=8, epochs=3), 20) == 6
        assert total_steps(OptimConfig(batch_size=8, epochs=0.1), 20) == 1
        assert total_steps(OptimConfig(batch_size=8, epochs=3, steps=5), 20) == 5

    def test_average(self) -> None:
        ema, model = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
        nn.init.zeros_(ema.weight)
        nn.init.ones_(model.weight)
        update_average(ema, model, decay=0.99, step=10_000)
        assert ema.weight.item() == pytest.approx(0.01)
        update_average(ema, model, decay=0.99, step=1)  # early on: 2 / 11 is kept
        assert ema.weight.item() == pytest.approx(0.01 + (1 - 2 / 11) * 0.99)

    def test_average_follows_the_weights_and_takes_no_gradient(self) -> None:
        state = new_state(small_model().train(), OptimConfig(lr=1e-2))
        before = copy.deepcopy(state.ema.state_dict())
        latents, labels = torch.randn(4, 4, 4, 4), torch.tensor([0, 1, 2, 3])
        training_step(state, latents, labels, 1e-2, OptimConfig(), trainer.training_autocast("float32", latents.device))
        assert state.step == 1
        for name, parameter in state.model.named_parameters():
            moved = before[name] + (1 - 2 / 11) * (parameter - before[name])
            torch.testing.assert_close(state.ema.get_parameter(name), moved)
        assert not any(parameter.requires_grad for parameter in state.ema.parameters())

    def test_biases_and_norms_are_not_decayed(self) -> None:
        model = small_model(flow_block="attn_cross_mlp")
        decayed, plain = new_state(model, OptimConfig(weight_decay=0.3)).optimizer.param_groups
        assert (decayed["weight_decay"], plain["weight_decay"]) == (0.3, 0.0)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        spared = {names[id(parameter)] for parameter in plain["params"]}
        assert all(name.endswith(("bias", "norm.weight")) for name in spared)
        assert {name for name in names.values() if name.endswith(("bias", "norm.weight"))} == spared
        assert len(decayed["params"]) + len(plain["params"]) == len(names)

    def test_gradients_are_clipped(self) -> None:
        state = new_state(small_model().train(), OptimConfig())
        optim = OptimConfig(max_grad_norm=1e-3)
        autocast = trainer.training_autocast("float32", torch.device("cpu"))
        *_, norm = training_step(state, torch.randn(2, 4, 4, 4), torch.tensor([0, 1]), 0.0, optim, autocast)
        clipped = nn.utils.get_total_norm([parameter.grad for parameter in state.model.parameters()])
        assert norm > 1e-3
        assert clipped == pytest.approx(1e-3, rel=1e-2)


class TestTokenizerTraining:
    def config(self, **changes: Any) -> TokenizerTrainingConfig:
        small = {"channels": 2, "widths": [8, 16], "steps": 60, "batch_size": 8, "warmup_steps": 5, "robust_steps": 0}
        return TokenizerTrainingConfig(**(small | changes))

    def images(self) -> Tensor:
        """Grey squares on black, at four places."""
        images = torch.zeros(16, 1, 8, 8, dtype=torch.uint8)
        for index, image in enumerate(images):
            image[0, 4 * (index % 2) :, 4 * (index // 2 % 2) :] = 200
        return images

    def test_reconstruction_improves_and_latents_are_normalised(self) -> None:
        images = self.images()
        tokenizer = train_tokenizer(images, self.config())
        fresh = train_tokenizer(images, self.config(steps=1))
        unit = images.float() / 127.5 - 1
        errors = [(one.decode(one.encode(unit)) - unit).abs().mean().item() for one in (tokenizer, fresh)]
        assert errors[0] < 0.7 * errors[1]
        mean, std = tokenizer.posterior(unit)
        assert mean.mean((0, 2, 3)) == pytest.approx(torch.zeros(2), abs=1e-4)
        drawn = mean.var((0, 2, 3), unbiased=False) + std.square().mean((0, 2, 3))
        assert drawn == pytest.approx(torch.ones(2), abs=1e-4)

    def test_seed(self) -> None:
        first, second, other = (
            train_tokenizer(self.images(), self.config(steps=2, seed=seed)).fingerprint() for seed in (0, 0, 1)
        )
        assert first == second != other

    def test_robust_steps_change_the_decoder_alone(self) -> None:
        plain, robust = (train_tokenizer(self.images(), self.config(steps=2, robust_steps=n)) for n in (0, 2))
        for name, weight in plain.state_dict().items():
            assert torch.equal(weight, robust.state_dict()[name]) == ("decoder" not in name)

    def test_constant_channel(self) -> None:
        def batches() -> Iterator[Tensor]:
            yield torch.zeros(4, 1, 8, 8, dtype=torch.uint8)

        with pytest.raises(ValueError, match="expected 4 means and 4 positive standard deviations"):
            calibrate(PixelTokenizer(1, 2), batches())

    def test_folder_without_a_tokenizer(self, idx_folder: Path) -> None:
        with pytest.raises(FlowARError, match=r"expected tokenizer\.json"):
            tokenizer_for_training(str(idx_folder), open_images(idx_folder))

    def test_trained_tokenizer_serves_training(self, idx_folder: Path, tmp_path: Path) -> None:
        train_tokenizer(self.images(), self.config(steps=2)).save_pretrained(tmp_path / "tokenizer")
        config = run_config(idx_folder, tmp_path / "run", optim={"steps": 1})
        folder = train(replace(config, data=replace(config.data, tokenizer=str(tmp_path / "tokenizer"))))
        assert isinstance(FlowARPipeline.from_pretrained(folder).tokenizer, ConvTokenizer)
