"""What the curves of a run show, and what they make of rows with gaps or of an older version."""

from __future__ import annotations

import math
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib")

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from flowar.commands.plot import names
from flowar.system.structured import read_rows
from flowar.training.curves import SMOOTHING, smoothed, training_curves
from flowar.training.metrics import MetricsRow

SHIPPED = Path(__file__).parents[1] / "docs" / "flowar-fashion" / "metrics.jsonl"


def row(step: int, **changes: Any) -> dict[str, Any]:
    """As `StepMetrics` writes it, of two scales."""
    values: dict[str, Any] = {"step": step, "loss": 2.0 / step, "loss_scale": [1.0 / step, 2.0 / step]}
    values |= {"loss_time": [1.0 / step] * 10, "grad_norm": 0.5, "grad_norm_max": 0.9, "skipped_steps": 0}
    values |= {"lr": 1e-4, "images_per_second": 100.0, "mfu": 0.4, "peak_memory_mib": 2048.0}
    return values | {"seconds": 10.0, "data_seconds": 1.0} | changes


def panel(figure: Figure, title: str) -> Axes:
    (axes,) = (axes for axes in figure.axes if axes.get_title().startswith(title))
    return axes


def render(figure: Figure) -> Image.Image:
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=40)
    return Image.open(buffer)


def test_smoothed() -> None:
    """A constant stays itself, gaps and ends included; a single row counts less the further away it is."""
    assert smoothed(np.array([2.0, math.nan, 2.0, 2.0])) == pytest.approx([2, 2, 2, 2])
    assert np.isnan(smoothed(np.array([math.nan, math.nan]))).all()
    after = smoothed(np.array([0.0, 1.0, math.nan]))
    assert after == pytest.approx([SMOOTHING / (1 + SMOOTHING), 1 / (1 + SMOOTHING), 1 / (1 + SMOOTHING)])


class TestOneRun:
    def test_panels(self) -> None:
        figure = training_curves({"run": [row(step) for step in range(1, 30)]})
        titles = [axes.get_title() for axes in figure.axes if axes.get_title()]
        assert titles == [
            "loss",
            "velocity error per scale",
            "velocity error per time",
            "gradient norm before clipping",
            "learning rate",
            "throughput · MFU 40.0% · 2 GiB · 10.0% waiting for data",
        ]
        assert [axes.get_yscale() for axes in figure.axes[:2]] == ["log", "log"]
        assert [text.get_text() for text in panel(figure, "velocity error per scale").get_legend().get_texts()] == [
            "scale 0",
            "scale 1",
        ]
        (mesh,) = panel(figure, "velocity error per time").collections
        assert mesh.get_array().shape == (10, 29)
        assert render(figure).size == (600, 320)

    def test_values_are_drawn(self) -> None:
        rows = [row(step) for step in (1, 2, 3)]
        raw, mean = panel(training_curves({"run": rows}), "loss").lines
        assert raw.get_xdata().tolist() == mean.get_xdata().tolist() == [1, 2, 3]
        assert raw.get_ydata().tolist() == [2, 1, 2 / 3]

    def test_held_out_loss(self) -> None:
        """Where it was measured, and nowhere between."""
        rows = [row(step, **({"held_out_loss": 3.0 / step} if step % 2 else {})) for step in (1, 2, 3)]
        axes = panel(training_curves({"run": rows}), "loss")
        assert axes.lines[2].get_xdata().tolist() == [1, 3]
        assert axes.lines[2].get_ydata().tolist() == [3, 1]
        assert [text.get_text() for text in axes.get_legend().get_texts()] == ["run", "held out"]

    def test_skipped_steps_are_marked(self) -> None:
        bad = row(2, skipped_steps=3, grad_norm=math.nan, grad_norm_max=math.nan, loss=math.nan)
        figure = training_curves({"run": [row(1), bad, row(3), row(4, skipped_steps=1)]})
        axes = panel(figure, "gradient norm")
        marks = [line for line in axes.lines if line.get_marker() == "v"]
        assert [line.get_xdata().tolist() for line in marks] == [[2, 4]]
        assert axes.get_legend().get_texts()[0].get_text() == "4 skipped steps"
        render(figure)

    def test_gaps_in_time(self) -> None:
        rows = [row(step, loss_time=[math.nan] * 9 + [1.0]) for step in (1, 2)]
        figure = training_curves({"run": rows})
        (mesh,) = panel(figure, "velocity error per time").collections
        assert np.isnan(mesh.get_array()[:9].filled(math.nan)).all()
        render(figure)

    def test_one_row(self) -> None:
        render(training_curves({"run": [row(20)]}))

    def test_the_shipped_run(self) -> None:
        figure = training_curves({"flowar-fashion": read_rows(SHIPPED, MetricsRow)})
        assert "waiting for data" in panel(figure, "throughput").get_title()
        assert len(panel(figure, "velocity error per scale").lines) == 4
        assert not panel(figure, "velocity error per time").texts
        render(figure)

    def test_rows_of_an_older_version(self) -> None:
        """Without errors by time."""
        old = [{name: value for name, value in row(step).items() if "time" not in name} for step in (20, 40)]
        figure = training_curves({"run": old})
        assert [text.get_text() for text in panel(figure, "velocity error per time").texts] == ["not recorded"]
        render(figure)

    def test_rows_of_a_resumed_run_that_became_newer(self) -> None:
        old = {"step": 1, "loss": 2.0, "loss_scale": [1.0, 2.0], "grad_norm": 0.5, "lr": 1e-4, "images_per_second": 9.0}
        figure = training_curves({"run": [old, row(2), row(3)]})
        (mesh,) = panel(figure, "velocity error per time").collections
        assert mesh.get_array().shape == (10, 3)
        render(figure)


class TestSeveralRuns:
    def test_every_run_has_its_colour(self) -> None:
        figure = training_curves({"a": [row(1), row(2)], "b": [row(1), row(2), row(3)]})
        loss = panel(figure, "loss")
        assert [text.get_text() for text in loss.get_legend().get_texts()] == ["a", "b"]
        colours = [line.get_color() for line in loss.lines]
        assert colours[0] == colours[1] != colours[2] == colours[3]
        assert [line.get_color() for line in panel(figure, "learning rate").lines] == colours[1:3]
        assert len(panel(figure, "velocity error per scale").lines) == 4
        assert panel(figure, "throughput").get_title() == "throughput"
        render(figure)

    def test_times_are_those_of_the_last_steps(self) -> None:
        rows = [row(step, loss_time=[float(step)] * 10) for step in range(1, 21)]
        old = [{"step": 1, "loss": 1.0}, {"step": 2, "loss": 0.5}]
        (line,) = panel(training_curves({"a": rows, "old": old}), "velocity error per time").lines
        assert line.get_ydata().tolist() == [19.5] * 10
        assert line.get_xdata().tolist() == pytest.approx([0.05 + 0.1 * i for i in range(10)])

    def test_nothing_recorded(self) -> None:
        old = [{"step": 1, "loss": 1.0}]
        figure = training_curves({"a": old, "b": old})
        assert [text.get_text() for text in panel(figure, "velocity error per time").texts] == ["not recorded"]
        render(figure)


def test_names_of_runs(tmp_path: Path) -> None:
    assert names([Path("runs/a"), Path("runs/b")]) == ["a", "b"]
    assert names([Path("one/run"), Path("two/run")]) == ["one/run", "two/run"]
