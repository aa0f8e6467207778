"""The loss on images that a run does not train on: what it is, when it has turned, what a run says of it."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small_model
from test_data import write_class_folders, write_idx
from test_training import interrupt
from training_runs import MODEL, rows, run_config

from flowar.system.precision import PRECISIONS
from flowar.system.ranks import Ranks
from flowar.training.config import ValidationConfig
from flowar.training.held_out import HeldOut, turned
from flowar.training.latent_store import LatentStore, Shard
from flowar.training.sample_grids import grid_classes
from flowar.training.trainer import TrainingRun, train

pytestmark = pytest.mark.usefixtures("without_tensorboard")

FLOAT32 = PRECISIONS["float32"]
ONE = Ranks(torch.device("cpu"))


def store(images: int) -> LatentStore:
    labels = torch.arange(images) % 5
    moments = torch.randn(images, 2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(1))
    return LatentStore(Path(), {}, (), [Shard(moments, labels, {}, 0, [])], labels)


class TestLoss:
    def test_is_the_same_whenever_it_is_asked_for(self) -> None:
        """Dropout and whatever generators were used for do not matter; weights do."""
        model, held_out = small_model(dropout=0.5, class_dropout=0.5).train(), HeldOut(store(9), torch.arange(9))
        first = held_out.loss(model, FLOAT32, ONE)
        torch.rand(1)
        assert held_out.loss(model.train(), FLOAT32, ONE) == first
        assert held_out.loss(small_model(seed=1), FLOAT32, ONE) != first

    def test_is_that_of_the_model(self) -> None:
        """Of so many images and times, random ones differ little."""
        model, data = small_model(), store(400)
        per_scale = HeldOut(data, torch.arange(400)).loss(model, FLOAT32, ONE)
        latents = data.shards[0].moments[:, 0, 0] + data.shards[0].moments[:, 0, 1] * torch.randn(400, 4, 4, 4)
        with torch.no_grad():
            out = model.loss(latents, data.labels)
        assert per_scale == pytest.approx(out.per_scale.tolist(), rel=0.15)

    def test_parts_add_up(self, monkeypatch: pytest.MonkeyPatch) -> None:
        held_out, model = HeldOut(store(9), torch.arange(9)), small_model()
        whole = held_out.loss(model, FLOAT32, ONE)
        monkeypatch.setattr("flowar.training.held_out.AT_ONCE", 2)
        assert held_out.loss(model, FLOAT32, ONE) == pytest.approx(whole, rel=1e-5)

    def test_at_most_so_many_images(self) -> None:
        assert HeldOut.evenly_spaced(store(9), torch.tensor([1, 2, 5, 7, 8]), 3).images.tolist() == [1, 5, 8]
        assert HeldOut.evenly_spaced(store(9), torch.tensor([1, 2]), 3).images.tolist() == [1, 2]


class TestTurned:
    def said(self, *losses: float) -> str | None:
        return turned([{"step": 10 * i, "held_out_loss": loss} for i, loss in enumerate(losses, 1)])

    def test_at_the_first_loss_above_the_lowest(self) -> None:
        found = self.said(2.0, 1.0, 0.9, 0.95)
        assert found is not None
        assert found.startswith("the held-out loss has turned: 0.9000 at step 30, 0.9500 at step 40; from here on")

    @pytest.mark.parametrize(
        "losses", [(1.0,), (1.0, 0.9), (1.0, 0.9, 0.901), (1.0, 0.9, 0.95, 0.96), (1.0, 0.9, 0.95, 0.8)]
    )
    def test_not_again_and_not_for_nothing(self, losses: tuple[float, ...]) -> None:
        assert self.said(*losses) is None

    def test_rows_between_do_not_count(self) -> None:
        found = [{"step": 1, "held_out_loss": 1.0}, {"step": 2}, {"step": 3, "held_out_loss": 1.1}]
        assert turned(found) is not None


class TestRun:
    def test_share(self, idx_folder: Path, tmp_path: Path) -> None:
        config = run_config(idx_folder, tmp_path, log_every=4, validation=ValidationConfig(share=0.25, every=2))
        run = TrainingRun(config, ONE)
        assert run.held_out is not None
        held = run.held_out.images.tolist()
        assert len(held) + len(run.pool) == len(run.pool.store)
        assert not {*held} & {*run.pool.images.tolist()}
        run.to_the_end()
        found = {row["step"]: row for row in rows(tmp_path)}
        assert [step for step, row in found.items() if "held_out_loss" in row] == [2, 4, 6]
        lengths = MODEL.scale_lengths
        last = found[6]
        weighted = sum(loss * n / lengths[-1] for loss, n in zip(last["held_out_loss_scale"], lengths, strict=True))
        assert last["held_out_loss"] == pytest.approx(weighted)
        assert 0.1 < last["held_out_loss"] < 10

    def test_resumes(self, idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole, broken = (
            run_config(idx_folder, tmp_path / name, validation=ValidationConfig(share=0.25, every=2), save_every=4)
            for name in ("whole", "broken")
        )
        train(whole)
        interrupt(monkeypatch, 5, broken)
        train(replace(broken, resume=True))
        assert rows(tmp_path / "broken") == rows(tmp_path / "whole")

    def test_folder(self, idx_folder: Path, tmp_path: Path) -> None:
        """The split t10k of idx files, here of the same folder; encoded by the tokenizer of the training images."""
        for path in idx_folder.glob("train-*"):
            path.with_name(path.name.replace("train", "t10k")).write_bytes(path.read_bytes())
        config = run_config(idx_folder, tmp_path / "run", validation=ValidationConfig(folder=str(idx_folder), every=3))
        run = TrainingRun(config, ONE)
        assert run.held_out is not None
        assert run.held_out.store.folder == tmp_path / "run" / "held_out_latents"
        assert len(run.pool) == len(run.pool.store) == len(run.held_out.images)
        assert run.held_out.store.load_tokenizer().record() == run.tokenizer.record()

    def test_folder_of_other_classes_or_sizes(self, idx_folder: Path, tmp_path: Path) -> None:
        folder, other = (write_class_folders(tmp_path / name) for name in ("images", "other"))
        (other / "dogs").rename(other / "wolves")
        validation, model = ValidationConfig(folder=str(other)), replace(MODEL, num_classes=2)
        config = run_config(folder, tmp_path / "run", validation=validation, model=model)
        message = r"validation: expected classes \('cats', 'dogs'\) in .*, got \('cats', 'wolves'\)"
        with pytest.raises(ValueError, match=message):
            TrainingRun(replace(config, data=replace(config.data, image_size=8)), ONE)
        torch.manual_seed(0)
        images = torch.randint(0, 256, (20, 16, 16), dtype=torch.uint8)
        larger = write_idx(tmp_path / "larger", images, torch.arange(20, dtype=torch.uint8) % 10)
        for path in larger.glob("train-*"):
            path.rename(path.with_name(path.name.replace("train", "t10k")))
        with pytest.raises(ValueError, match=r"validation: expected latents of \(4, 4\) in .*, got \(8, 8\)"):
            TrainingRun(run_config(idx_folder, tmp_path / "r", validation=ValidationConfig(folder=str(larger))), ONE)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"share": 1.0}, r"share: expected a number in \[0, 1\), got 1\.0"),
            ({"share": 0.1, "folder": "images"}, "validation: expected share or folder, got both"),
            ({"every": 0}, "every: expected a positive integer, got 0"),
            ({"images": 0}, "images: expected a positive integer, got 0"),
        ],
    )
    def test_options(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            ValidationConfig(**changes)

    @pytest.mark.slow
    def test_a_run_that_learns_by_heart_says_so(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """200 images of noise have nothing in common that could be learned."""
        torch.manual_seed(0)
        images = torch.randint(0, 256, (200, 8, 8), dtype=torch.uint8)
        data = write_idx(tmp_path / "data", images, torch.arange(200, dtype=torch.uint8) % 10)
        config = run_config(
            data,
            tmp_path / "run",
            model=replace(MODEL, ar_width=64, flow_width=128, flow_heads=2, dropout=0.0),
            optim={"steps": 800, "batch_size": 16, "lr": 2e-3, "optimizer": "muon", "ema_decays": (0.95,)},
            validation=ValidationConfig(share=0.2, every=50),
            log_every=50,
            save_every=800,
        )
        with caplog.at_level(logging.WARNING, logger="flowar"):
            train(config)
        (message,) = (record.getMessage() for record in caplog.records if "held-out" in record.getMessage())
        assert message.startswith("the held-out loss has turned")


def test_grids_show_all_classes_in_turn() -> None:
    assert grid_classes(3, 1).tolist() == grid_classes(3, 2).tolist() == [0, 1, 2]
    shown = [grid_classes(24, number).tolist() for number in range(1, 13)]
    assert shown[0] == [*range(10)]
    assert shown[2] == [20, 21, 22, 23, 0, 1, 2, 3, 4, 5]
    assert {each for grid in shown for each in grid} == {*range(24)}
