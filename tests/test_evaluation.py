"""The classifier that judges the shipped model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from experiments.fashion_classifier import judge, train
from flowar import FlowARPipeline
from flowar.errors import CheckpointError
from flowar.evaluation.fashion_classifier import FashionClassifier, load
from flowar.storage.weights import save_tensors


def test_the_one_that_ships_knows_the_shipped_model() -> None:
    """Two samples a class, in few steps; the judge puts most where they belong."""
    classes = torch.arange(20) % 10
    pipeline = FlowARPipeline.from_pretrained("flowar-fashion")
    latents = pipeline.model.sample(classes, schedule="draft")
    _, predicted = judge(load(), pipeline.tokenizer.decode(latents))
    assert (predicted == classes).sum() >= 16


def test_classifier_of_integers(tmp_path: Path) -> None:
    weights = FashionClassifier().state_dict()
    name = next(iter(weights))
    save_tensors(tmp_path / "judge.safetensors", weights | {name: weights[name].long()})
    with pytest.raises(CheckpointError, match=rf"judge\.safetensors: tensor {name}: expected floats, got torch\.int64"):
        load(tmp_path / "judge.safetensors")


@pytest.mark.slow
def test_classifier_learns_and_is_restored(tmp_path: Path) -> None:
    labels = torch.arange(128) % 2
    images = (labels[:, None, None, None] * 200).expand(-1, 1, 28, 28).to(torch.uint8).contiguous()
    model = train(images, labels, epochs=6)
    save_tensors(tmp_path / "judge.safetensors", model.state_dict())
    restored = load(tmp_path / "judge.safetensors")
    assert isinstance(restored, FashionClassifier)
    features, predicted = judge(restored, images.float() / 127.5 - 1)
    assert features.shape == (128, 128)
    assert torch.equal(predicted, labels)
