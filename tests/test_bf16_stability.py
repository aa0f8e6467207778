"""The benchmark of training in bfloat16: it counts what was skipped, and says so."""

from __future__ import annotations

import json
from pathlib import Path

import bf16_stability
import pytest
from training_runs import MODEL

from flowar import FlowARConfig
from flowar.training.step import Outcome, TrainingStep

pytestmark = pytest.mark.usefixtures("without_tensorboard")


@pytest.fixture
def arguments(idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(FlowARConfig, "preset", lambda name, **changes: MODEL)
    options = ["--steps", "16", "--batch-size", "8", "--lr", "3e-3"]
    return ["--data", str(idx_folder), *options, "--output", str(tmp_path / "results.json")]


def test_steps_of_a_good_run(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bf16_stability.main(arguments) == 0
    assert "16 steps in bfloat16: 0 skipped" in capsys.readouterr().out
    rows = json.loads((tmp_path / "results.json").read_text())["rows"]
    assert [row["step"] for row in rows] == [8, 16]


def test_a_skipped_step_is_a_failure(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    step = TrainingStep.__call__

    def unsteady(self: TrainingStep, *rest: object) -> Outcome:
        self.optim.skip_grad_norm = 1e-9 if self.state.step == 5 else None
        return step(self, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(TrainingStep, "__call__", unsteady)
    assert bf16_stability.main(arguments) == 1
