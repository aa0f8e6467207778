"""The numbers of an interval of steps, and the files they go to."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small_model
from torch import Tensor

from flowar.errors import DataError
from flowar.model import Loss
from flowar.networks.flops import training_flops
from flowar.system.structured import read_rows
from flowar.training import metrics as metrics_module
from flowar.training.metrics import TIME_BINS, MetricsRow, MetricsWriter, StepMetrics

CPU = torch.device("cpu")
CONFIG = small_model().config
SCALES = len(CONFIG.grids)


def batch(size: int, seed: int = 0) -> tuple[Loss, Tensor]:
    """A loss of random errors, weighted as the model weighs it, and random times [K, B]."""
    generator = torch.Generator().manual_seed(seed)
    per_image = torch.rand(size, SCALES, generator=generator)
    weights = torch.tensor(CONFIG.scale_lengths) / CONFIG.scale_lengths[-1]
    per_scale = per_image.mean(0)
    return Loss((per_scale * weights).sum(), per_scale, per_image), torch.rand(SCALES, size, generator=generator)


def fed(*batches: tuple[Loss, Tensor]) -> StepMetrics:
    metrics = StepMetrics(CONFIG, CPU)
    for out, times in batches:
        metrics.update_loss(out, times)
    return metrics


def row_of(metrics: StepMetrics, **options: Any) -> dict[str, Any]:
    return metrics.row(metrics.sums(), **({"seconds": 2.0, "images": 8} | options))


class TestStepMetrics:
    def test_losses_are_those_of_the_model(self) -> None:
        """Also over batches of different sizes, which count by their images."""
        (first, _), (second, _) = batches = batch(3), batch(5, seed=1)
        row = row_of(fed(*batches))
        assert row["loss"] == pytest.approx(float(3 * first.loss + 5 * second.loss) / 8)
        assert row["loss_scale"] == pytest.approx(((3 * first.per_scale + 5 * second.per_scale) / 8).tolist())

    def test_of_the_model_itself(self) -> None:
        model = small_model()
        times = torch.rand(SCALES, 4)
        latents = torch.randn(4, CONFIG.latent_channels, *CONFIG.grid)
        out = model.loss(latents, torch.zeros(4, dtype=torch.long), times=times)
        row = row_of(fed((out, times)))
        assert row["loss"] == pytest.approx(out.loss.item())
        assert row["loss_scale"] == pytest.approx(out.per_scale.tolist())

    def test_time_bins(self) -> None:
        out, times = batch(50)
        times[0, :3] = torch.tensor([0.0, 0.1, 1.0])  # in the first bin, at the second's beginning, in the last
        row = row_of(fed((out, times)))
        for scale in range(SCALES):
            for index in range(TIME_BINS):
                low, high = index / TIME_BINS, (index + 1) / TIME_BINS if index + 1 < TIME_BINS else 2
                inside = (times[scale] >= low) & (times[scale] < high)
                expected = out.per_image[inside, scale].mean().item()
                assert row["loss_scale_time"][scale][index] == pytest.approx(expected, nan_ok=True)
        assert torch.tensor(row["loss_time"]) == pytest.approx(
            torch.stack([out.per_image.T[(times * TIME_BINS).floor().clamp(max=9) == i].mean() for i in range(10)])
        )

    def test_bins_without_times(self) -> None:
        out, _ = batch(4)
        row = row_of(fed((out, torch.full((SCALES, 4), 0.55))))
        empty = [math.isnan(value) for value in row["loss_time"]]
        assert empty == [index != 5 for index in range(TIME_BINS)]
        assert row["loss_time"][5] == pytest.approx(out.per_image.mean().item())

    def test_a_loss_that_is_not_finite_stays_in_its_bin(self) -> None:
        out, times = batch(4)
        times.fill_(0.05)[:, 0] = 0.95
        out.per_image[0, 1] = math.nan
        row = row_of(fed((out, times)))
        assert math.isnan(row["loss"])
        assert math.isnan(row["loss_scale"][1])
        assert math.isfinite(row["loss_scale"][0])
        assert math.isnan(row["loss_scale_time"][1][9])
        assert math.isfinite(row["loss_scale_time"][1][0])

    def test_gradient_norms(self) -> None:
        metrics = StepMetrics(CONFIG, CPU)
        for norm, lr in ((1.0, 0.1), (math.inf, 0.2), (3.0, 0.3), (math.nan, 0.4)):
            skipped = torch.tensor(not math.isfinite(norm))
            metrics.update_step(torch.tensor(norm), skipped, lr)
        row = row_of(metrics)
        assert (row["grad_norm"], row["grad_norm_max"], row["skipped_steps"], row["lr"]) == (2.0, 3.0, 2, 0.4)

    def test_nothing_but_skipped_steps(self) -> None:
        metrics = StepMetrics(CONFIG, CPU)
        metrics.update_step(torch.tensor(math.nan), torch.tensor(True), 0.1)
        row = row_of(metrics)
        assert math.isnan(row["grad_norm"])
        assert math.isnan(row["grad_norm_max"])
        assert row["skipped_steps"] == 1

    def test_sums_of_ranks_are_those_of_one_process(self) -> None:
        together, first, second = fed(batch(3), batch(5, seed=1)), fed(batch(3)), fed(batch(5, seed=1))
        reduced = first.sums() + second.sums()
        assert reduced.dtype == torch.float64
        rows = row_of(together), first.row(reduced, 2.0, 8)
        got, expected = (torch.tensor(row["loss_scale_time"]) for row in rows)
        torch.testing.assert_close(got, expected, equal_nan=True)
        assert first.row(reduced, 2.0, 8)["loss"] == pytest.approx(row_of(together)["loss"])

    def test_sums_do_not_change_with_what_follows(self) -> None:
        """Nor does a reduction in place change what is kept."""
        metrics = fed(batch(3))
        sums = metrics.sums()
        kept = sums.clone()
        metrics.update_loss(*batch(5, seed=1))
        assert torch.equal(sums, kept)
        sums.mul_(2)
        assert not torch.equal(metrics.sums(), sums)

    def test_reset(self) -> None:
        metrics = fed(batch(3))
        metrics.update_step(torch.tensor(5.0), torch.tensor(True), 0.1)
        metrics.reset()
        metrics.update_loss(*batch(5, seed=1))
        metrics.update_step(torch.tensor(2.0), torch.tensor(False), 0.2)
        fresh = fed(batch(5, seed=1))
        fresh.update_step(torch.tensor(2.0), torch.tensor(False), 0.2)
        changing = {"peak_memory_mib": 0}
        assert str(row_of(metrics) | changing) == str(row_of(fresh) | changing)

    def test_speed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        flops = training_flops(CONFIG, 8)
        monkeypatch.setattr(
            metrics_module, "peak_flops", lambda device, dtype: flops if dtype == torch.bfloat16 else None
        )
        row = row_of(fed(batch(3)), dtype=torch.bfloat16, world_size=2, data_seconds=0.5)
        assert row["images_per_second"] == 4
        assert row["tflops_per_device"] == pytest.approx(flops / 4 / 1e12)
        assert row["mfu"] == 0.25
        assert row["data_seconds"] == 0.5
        assert math.isnan(row_of(fed(batch(3)))["mfu"])

    def test_gradients_do_not_reach_the_metrics(self) -> None:
        out, times = batch(3)
        out.per_image.requires_grad_()
        metrics = fed((out, times))
        metrics.update_step(out.per_image.norm(), torch.tensor(False), 0.1)
        assert not metrics.sums().requires_grad
        assert not metrics.steps.requires_grad


class TestFiles:
    def test_numbers_that_json_does_not_have(self, tmp_path: Path) -> None:
        writer = MetricsWriter(tmp_path, 0)
        writer.write(1, {"loss": math.nan, "loss_time": [[1.0, math.inf], [math.nan, 2.0]], "lr": 0.5})
        writer.close()
        path = tmp_path / "metrics.jsonl"
        expected = {"step": 1, "loss": None, "loss_time": [[1.0, None], [None, 2.0]], "lr": 0.5}
        assert json.loads(path.read_text(), parse_constant=pytest.fail) == expected
        (row,) = read_rows(path, dict)
        assert math.isnan(row["loss"])
        assert math.isnan(row["loss_time"][0][1])
        assert (row["step"], row["loss_time"][1][1]) == (1, 2.0)

    def test_a_row_of_step_metrics(self, tmp_path: Path) -> None:
        row = row_of(fed(batch(3)))
        writer = MetricsWriter(tmp_path, 0)
        writer.write(7, row)
        writer.close()
        (read,) = read_rows(tmp_path / "metrics.jsonl", dict)
        assert str(read) == str({"step": 7} | row)

    def test_tensorboard(self, tmp_path: Path) -> None:
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        writer = MetricsWriter(tmp_path, 0)
        writer.write(3, {"loss": 1.5, "lr": math.nan, "loss_scale_time": [[1.0, math.nan], [3.0, 4.0]]})
        writer.close()
        board = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
        board.Reload()
        names = ["loss", "loss_scale_time/0/0", "loss_scale_time/1/0", "loss_scale_time/1/1"]
        assert sorted(board.Tags()["scalars"]) == names
        assert [(event.step, event.value) for event in board.Scalars("loss_scale_time/1/1")] == [(3, 4.0)]

    def test_resume_drops_later_rows(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
        writer = MetricsWriter(tmp_path, 2)
        writer.write(3, {"loss": 1.0})
        writer.close()
        assert read_rows(tmp_path / "metrics.jsonl", dict) == [{"step": 1}, {"step": 2}, {"step": 3, "loss": 1.0}]

    @pytest.mark.parametrize("content", [b"", b"\0" * 100, b'{"step": 1}\n\0\0\0', b"[" * 10_000, b'{"step": 1e999}\n'])
    def test_resume_drops_what_is_no_row(self, content: bytes, tmp_path: Path) -> None:
        """As a machine that lost its power leaves it."""
        (tmp_path / "metrics.jsonl").write_bytes(content)
        MetricsWriter(tmp_path, 2).close()
        kept = b'{"step": 1}\n' if content.startswith(b'{"step": 1}') else b""
        assert (tmp_path / "metrics.jsonl").read_bytes() == kept

    def test_resume_refuses_what_is_no_file(self, tmp_path: Path) -> None:
        (tmp_path / "metrics.jsonl").mkdir()
        with pytest.raises(DataError, match="expected a regular file, got a pipe, a device or a folder"):
            MetricsWriter(tmp_path, 2)

    def test_files_that_hold_no_metrics(self, tmp_path: Path) -> None:
        path = tmp_path / "metrics.jsonl"
        with pytest.raises(DataError, match=r"expected .*metrics\.jsonl, found none"):
            read_rows(path, MetricsRow)
        path.write_text("")
        with pytest.raises(DataError, match="expected one JSON object a line, got an empty file"):
            read_rows(path, MetricsRow)
        path.write_text('{"step": 1}\n{"ste')
        with pytest.raises(DataError, match="line 2: expected a JSON object, got something else"):
            read_rows(path, MetricsRow)
        path.write_text('{"step": 1, "loss": "low"}')
        with pytest.raises(DataError, match=r"line 1: loss: expected a number in .*, got 'low'"):
            read_rows(path, MetricsRow)
