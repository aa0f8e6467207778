"""The benchmark of solvers, on a small model."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import solver_accuracy
from conftest import small_model
from PIL import Image

from flowar.sampling.presets import SCHEDULES
from flowar.sampling.solvers import SOLVERS


def test_distances(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """More evaluations come nearer; every preset and every solver is there."""
    small_model(guidance_scale=2.0).save_pretrained(tmp_path / "model")
    arguments = ["--model", str(tmp_path / "model"), "--images", "3", "--steps", "4", "16", "--exact-steps", "8"]
    monkeypatch.setattr(sys, "argv", ["solver_accuracy.py", *arguments, "--output", str(tmp_path / "out.json")])
    solver_accuracy.main()
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    assert len(results) == 2 * 2 * len(SOLVERS) + len(SCHEDULES)
    distances = {(each["solver"], each["grid"], each["evaluations"]): each["distance"] for each in results[:-7]}
    for grid in solver_accuracy.GRIDS:
        assert 0 < distances["euler", grid, 16] < distances["euler", grid, 4]
    assert distances["heun", "denser near the data", 16] == 0  # the very schedule that counts as exact
    assert {each["preset"] for each in results} == {"", *SCHEDULES}
    assert Image.open(tmp_path / "out.png").format == "PNG"
    assert capsys.readouterr().out.splitlines()[0].split() == solver_accuracy.HEADER
