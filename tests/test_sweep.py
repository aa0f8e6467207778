"""Sweeps: every point once, whatever interrupts; times taken in turns; tables and plot that say what was measured."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")

import torch
from conftest import small_model
from PIL import Image
from test_cli import refused
from test_data import write_idx

from flowar import FlowARPipeline
from flowar.cli import main
from flowar.errors import FlowARError
from flowar.evaluation import sweep as sweep_module
from flowar.evaluation.fashion_classifier import FashionClassifier
from flowar.evaluation.images import GeneratedImages
from flowar.evaluation.sweep import POINTS, SECONDS, Batches, Point, Sweep, grid, markdown, write_tables
from flowar.evaluation.sweep_plot import sweep_plot
from flowar.storage.weights import save_tensors
from flowar.system.structured import row_text
from flowar.tokenizers.pixel import PixelTokenizer
from flowar.training.distillation import new_student

POINTS_TRIED = grid([1.0, 2.0], [0.9], [1, 2])


class Recorder:
    """A quality that remembers what it has seen, and may fail at the n-th call."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.seen: list[tuple[torch.Tensor, torch.Tensor]] = []
        self.fail_at = fail_at

    def __call__(self, batches: Batches) -> dict[str, float]:
        if len(self.seen) == self.fail_at:
            raise KeyboardInterrupt
        images, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        self.seen.append((images, labels))
        return {"brightness": float(images.float().mean()), "contrast": float(images.float().std())}


@pytest.fixture(scope="module")
def pipeline() -> FlowARPipeline:
    tokenizer = PixelTokenizer(image_channels=1, stride=2)
    return FlowARPipeline(small_model(tokenizer=tokenizer.record(), guidance_interval=(0.1, 0.9)), tokenizer)


@pytest.fixture
def make(pipeline: FlowARPipeline) -> Callable[..., Sweep]:
    def make(quality: Recorder, points: list[Point] = POINTS_TRIED, **changes: int) -> Sweep:
        return Sweep(pipeline, points, quality, **({"num_images": 7, "batch_size": 3, "seed": 4, "turns": 1} | changes))

    return make


class TestGrid:
    def test_combinations(self) -> None:
        expected = [(1, 0.5, 3, "ab2"), (1, 0.5, 4, "ab2"), (2, 0.5, 3, "ab2"), (2, 0.5, 4, "ab2")]
        assert grid([1, 2], [0.5], [3, 4], ["ab2"]) == expected

    def test_each_once(self) -> None:
        assert grid([2, 2.0], [0.5, 0.5], [3]) == [Point(2, 0.5, 3)]

    def test_nothing(self) -> None:
        with pytest.raises(ValueError, match="interval_highs: expected one or more numbers, got none"):
            grid([1], [], [2])


class TestSweep:
    def test_images_are_those_of_the_pipeline(
        self, make: Callable[..., Sweep], pipeline: FlowARPipeline, tmp_path: Path
    ) -> None:
        quality = Recorder()
        rows = make(quality, [Point(2.0, 0.6, 3)]).run(tmp_path, {})
        ((images, labels),) = quality.seen
        assert labels.tolist() == [0, 1, 2, 3, 4, 0, 1]
        expected = pipeline(labels, 3, 2.0, (0.1, 0.6), seed=[*range(4, 11)]).images
        got = [Image.fromarray(image[0].numpy()) for image in images]
        assert [image.tobytes() for image in got] == [image.tobytes() for image in expected]
        assert rows[0]["brightness"] == float(images.float().mean())

    def test_rows(self, make: Callable[..., Sweep], tmp_path: Path) -> None:
        rows = make(Recorder()).run(tmp_path, {})
        assert [*rows[0]] == [*Point._fields, "brightness", "contrast", SECONDS]
        assert [Point(*list(row.values())[:4]) for row in rows] == POINTS_TRIED
        assert all(row[SECONDS] > 0 for row in rows)

    def test_interrupted(self, make: Callable[..., Sweep], tmp_path: Path) -> None:
        """Points that were there are not judged again, and the numbers are those of a sweep in one go."""
        whole = make(Recorder()).run(tmp_path / "whole", {})
        with pytest.raises(KeyboardInterrupt):
            make(Recorder(fail_at=2)).run(tmp_path / "parts", {})
        assert len((tmp_path / "parts" / POINTS).read_text().splitlines()) == 2
        rest = Recorder()
        rows = make(rest).run(tmp_path / "parts", {})
        assert len(rest.seen) == 2
        assert [row | {SECONDS: 0} for row in rows] == [row | {SECONDS: 0} for row in whole]

    def test_more_points(self, make: Callable[..., Sweep], tmp_path: Path) -> None:
        make(Recorder()).run(tmp_path, {})
        quality = Recorder()
        rows = make(quality, grid([1.0, 3.0], [0.9], [1])).run(tmp_path, {})
        assert len(quality.seen) == 1
        assert [row["guidance_scale"] for row in rows] == [1.0, 3.0]
        assert len((tmp_path / POINTS).read_text().splitlines()) == len(POINTS_TRIED) + 1

    def test_what_is_not_finite(self, make: Callable[..., Sweep], tmp_path: Path) -> None:
        """It is null in the file, as JSON has no word for it, and NaN again."""
        quality = Recorder()
        make(quality, grid([1.0], [0.9], [1])).run(tmp_path, {})
        path = tmp_path / POINTS
        path.write_text(row_text(json.loads(path.read_text()) | {"contrast": math.nan}))
        assert '"contrast": null' in path.read_text()
        (row,) = make(Recorder(fail_at=0), grid([1.0], [0.9], [1])).run(tmp_path, {})
        assert math.isnan(row["contrast"])

    @pytest.mark.parametrize("value", [[], {}, "x", True, 1e300])
    def test_metric_that_is_none(self, make: Callable[..., Sweep], tmp_path: Path, value: object) -> None:
        make(Recorder()).run(tmp_path, {})
        first, *rest = (tmp_path / POINTS).read_text().splitlines()
        (tmp_path / POINTS).write_text("\n".join([json.dumps(json.loads(first) | {"contrast": value}), *rest]))
        with pytest.raises(FlowARError, match=r"points\.jsonl: contrast: expected a number"):
            make(Recorder()).run(tmp_path, {})

    def test_other_settings(self, make: Callable[..., Sweep], tmp_path: Path) -> None:
        make(Recorder()).run(tmp_path, {"model": {"weights": "a"}})
        for changes, settings, name in (({}, "b", "model.weights b"), ({"seed": 5}, "a", "seed 5")):
            with pytest.raises(FlowARError, match=f"{name}.*use another folder"):
                make(Recorder(), **changes).run(tmp_path, {"model": {"weights": settings}})

    def test_times_are_medians_in_turns(self, make: Callable[..., Sweep], monkeypatch: pytest.MonkeyPatch) -> None:
        """Three turns of two points, each drawn twice, of which the second is timed."""
        clock, drawn = [0.0], []
        lasting = iter([9, 3, 9, 30, 9, 6, 9, 60, 9, 300, 9, 90])

        def read(images: GeneratedImages, begin: int, end: int) -> None:
            drawn.append((images.schedule.guidance_scale, begin, end))
            clock[0] += next(lasting)

        monkeypatch.setattr(GeneratedImages, "read", read)
        monkeypatch.setattr(sweep_module.time, "perf_counter", lambda: clock[0])
        points = grid([1.0, 2.0], [0.9], [1])
        assert make(Recorder(), points, turns=3).times() == {points[0]: 2.0, points[1]: 20.0}
        assert drawn == [(1.0, 0, 3)] * 2 + [(2.0, 0, 3)] * 2 + drawn[:4] * 2

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"num_images": 0}, "num_images: expected a positive integer, got 0"),
            ({"turns": 0}, "turns: expected a positive integer, got 0"),
            ({"points": [Point(-1, 0.9, 2)]}, r"guidance_scale: expected a number in \[0, 1000\], got -1"),
            ({"points": [Point(1, 0.05, 2)]}, "guidance_interval: expected 0 <= low <= high <= 1"),
            ({"points": [Point(1, 0.9, 2, "rk4")]}, "solver: expected one of euler, .*, got rk4"),
            ({"points": [Point(1, 0.9, 0)]}, "num_inference_steps: expected an integer from 1 to 10000, got 0"),
        ],
    )
    def test_bad_input(self, make: Callable[..., Sweep], changes: dict[str, int], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            make(Recorder(), **changes)


class TestOutputs:
    ROWS = [  # noqa: RUF012
        point._asdict() | {"FD": point.guidance_scale + 1 / point.steps, "recall": 0.5, SECONDS: point.steps}
        for point in grid([1.0, 2.0], [0.5, 0.9], [8, 4])
    ]

    def test_tables(self, tmp_path: Path) -> None:
        write_tables(tmp_path, self.ROWS)
        with (tmp_path / "sweep.csv").open() as file:
            read = [*csv.DictReader(file)]
        assert read == [{name: str(value) for name, value in row.items()} for row in self.ROWS]
        lines = (tmp_path / "sweep.md").read_text().splitlines()
        assert lines[0] == "| guidance scale | interval high | steps | solver | FD | recall | seconds per image |"
        assert lines[2] == "| 1 | 0.5 | 8 | euler | 1.125 | 0.5 | 8 |"
        assert len(lines) == 2 + len(self.ROWS)
        assert markdown(self.ROWS).splitlines() == lines

    def test_plot(self) -> None:
        figure = sweep_plot(self.ROWS)
        panels = figure.axes
        assert [axes.get_title() for axes in panels] == ["FD", "recall"]
        assert [text.get_text() for text in figure.legends[0].get_texts()] == [
            "w = 1, t ≤ 0.5",
            "w = 1, t ≤ 0.9",
            "w = 2, t ≤ 0.5",
            "w = 2, t ≤ 0.9",
        ]
        first = panels[0].lines[0]
        assert first.get_xdata().tolist() == [4000, 8000]
        assert first.get_ydata().tolist() == [1.25, 1.125]
        assert [text.get_text() for text in panels[0].texts[:2]] == ["4", "8"]


class TestCommand:
    @pytest.fixture
    def arguments(self, tmp_path: Path) -> list[str]:
        """A tiny model of 28x28 images, a classifier that knows nothing, and a reference."""
        tokenizer = PixelTokenizer(image_channels=1, stride=4)
        fields = {"latent_channels": 16, "latent_size": 7, "num_classes": 10, "num_inference_steps": 2}
        model = small_model(tokenizer=tokenizer.record(), **fields)
        FlowARPipeline(model, tokenizer).save_pretrained(tmp_path / "model")
        save_tensors(tmp_path / "judge.safetensors", FashionClassifier().state_dict())
        data = write_idx(
            tmp_path / "data", torch.randint(0, 256, (40, 28, 28), dtype=torch.uint8), torch.arange(40) % 10
        )
        options = {"model": tmp_path / "model", "classifier": tmp_path / "judge.safetensors", "reference": data}
        options |= {
            "extractor": "fashion",
            "num_images": 20,
            "batch_size": 10,
            "turns": 1,
            "output": tmp_path / "sweep",
        }
        return ["sweep", *(word for name, value in options.items() for word in (f"--{name}", str(value)))]

    def test_everything_is_written(
        self,
        capsys: pytest.CaptureFixture[str],
        caplog: pytest.LogCaptureFixture,
        arguments: list[str],
        tmp_path: Path,
    ) -> None:
        sweep_module.warn_once.cache_clear()
        main([*arguments, "--guidance_scales", "[1, 3]", "--steps", "[1, 2]"])
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("| guidance scale | interval high | steps | solver | FD-fashion |")
        assert " class agreement | seconds per image |" in lines[0]
        assert len(lines) == 2 + 4 + 1
        assert lines[-1] == f"4 points in {tmp_path / 'sweep'}"
        with Image.open(tmp_path / "sweep" / "sweep.png") as plot:
            assert plot.width > 1000
        assert len((tmp_path / "sweep" / "sweep.csv").read_text().splitlines()) == 5
        warnings = [record.getMessage().split(":")[0] for record in caplog.records if "biased" in record.getMessage()]
        assert warnings == ["FD-fashion", "sFD-fashion"]

    @pytest.mark.parametrize(("jumps", "steps"), [(2, [1, 2]), (8, [1, 2, 4])])
    def test_defaults_of_a_student(
        self, capsys: pytest.CaptureFixture[str], arguments: list[str], tmp_path: Path, jumps: int, steps: list[int]
    ) -> None:
        """It jumps, as often as the presets do and it has learned; guidance is inside."""
        teacher = FlowARPipeline.from_pretrained(tmp_path / "model")
        student = new_student(teacher.model, jumps)
        FlowARPipeline(student, teacher.tokenizer).save_pretrained(tmp_path / "model")
        main(arguments)
        with (tmp_path / "sweep" / "sweep.csv").open() as file:
            points = [(row["guidance_scale"], row["steps"], row["solver"]) for row in csv.DictReader(file)]
        assert points == [("1.0", str(each), "jump") for each in steps]
        capsys.readouterr()
        message = "guidance_scale: expected 1 for a model of jumps, which has it inside, got 2.0"
        assert message in refused(capsys, [*arguments, "--guidance_scales", "[2]"])

    @pytest.mark.parametrize(
        ("extra", "message"),
        [
            (["--solvers", "[jump]"], "schedule: expected no jumps of a model that was not distilled"),
            (["--steps", "[]"], "steps: expected one or more numbers, got none"),
            (["--interval_highs", "[2]"], "interval_highs[0]: expected a number in [0, 1], got 2.0"),
            (["--extractor", "eye"], "extractor: expected one of inception, efficientnet-lite0, fashion, got eye"),
            (["--reference", "nowhere"], "expected a folder, got nowhere (does not exist)"),
        ],
    )
    def test_bad_input(
        self, capsys: pytest.CaptureFixture[str], arguments: list[str], extra: list[str], message: str
    ) -> None:
        assert message in refused(capsys, [*arguments, *extra])
