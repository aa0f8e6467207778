"""The comparison of inpainting with pasting."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import small_model
from test_data import write_idx

from experiments import fashion_editing
from experiments.fashion_editing import HALVES, boundary_error, half_mask
from flowar import FlowARPipeline
from flowar.evaluation.fashion_classifier import FashionClassifier
from flowar.storage.weights import save_tensors
from flowar.tokenizers.pixel import PixelTokenizer


def test_halves() -> None:
    masks = [half_mask(which, 4) > 0 for which in HALVES]
    assert all(mask.sum() == 8 for mask in masks)
    assert (masks[0] ^ masks[1]).all()
    assert (masks[2] ^ masks[3]).all()
    assert masks[0][3].all()
    assert masks[2][:, 0].all()


def test_boundary_error() -> None:
    """An even picture whose lower half became 40 levels brighter has that step where there was none."""
    original, mask = np.full((4, 4), 10, dtype=np.uint8), half_mask("lower", 4)
    edited = original + (mask > 0) * np.uint8(40)
    assert boundary_error(original, original, mask) == 0
    assert boundary_error(edited, original, mask) == 40
    shifted = np.full((4, 4), 200, dtype=np.uint8)  # brighter everywhere: no step
    assert boundary_error(shifted, original, mask) == 0


def test_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tokenizer = PixelTokenizer(image_channels=1, stride=4)
    fields = {"latent_channels": 16, "latent_size": 7, "num_classes": 10, "num_inference_steps": 2}
    model = small_model(tokenizer=tokenizer.record(), **fields)
    FlowARPipeline(model, tokenizer).save_pretrained(tmp_path / "model")
    save_tensors(tmp_path / "judge.safetensors", FashionClassifier().state_dict())
    data = write_idx(tmp_path / "data", torch.randint(0, 256, (6, 28, 28), dtype=torch.uint8), torch.arange(6), "t10k")
    paths = {"model": tmp_path / "model", "data": data, "classifier": tmp_path / "judge.safetensors"}
    arguments = [word for name, path in paths.items() for word in (f"--{name}", str(path))]
    output = tmp_path / "result.json"
    monkeypatch.setattr(sys, "argv", ["fashion_editing", *arguments, "--count", "5", "--output", str(output)])
    fashion_editing.main()
    found = json.loads(output.read_text())
    assert found["count"] == 5
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == ["original", "inpainted", "pasted"]
    assert all(0 <= values["agreement"] <= 1 for values in found["results"].values())
    assert found["results"]["inpainted"]["boundary_error"] > 0
