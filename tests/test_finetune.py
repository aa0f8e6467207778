"""Starting from a trained model: the same classes, others, and models that do not fit."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_model
from PIL import Image
from test_data import write_class_folders
from test_readme import write_published
from training_runs import MODEL, rows, run_config

from flowar import FlowAR, FlowARConfig, FlowARPipeline
from flowar.training.config import FinetuneConfig
from flowar.training.draws import Draws
from flowar.training.finetune import CLASS_EMBEDDING, class_rows, load_start, start_from
from flowar.training.load_data import load_data
from flowar.training.positions import POSITIONS
from flowar.training.trainer import fitting, train

pytestmark = pytest.mark.usefixtures("without_tensorboard")


def test_rows_of_classes() -> None:
    assert class_rows(3, 3, None) == [0, 1, 2, 3]
    assert class_rows(3, 2, None) == [3, 3, 3]  # all new: they begin as the null class
    assert class_rows(3, 4, [2, -1, 0, 0]) == [2, 3, 0, 0, 3]
    with pytest.raises(ValueError, match=r"finetune\.classes: expected 2 classes, got 1"):
        class_rows(3, 2, [0])
    with pytest.raises(ValueError, match=r"finetune\.classes: expected numbers from -1 to 2, got 3"):
        class_rows(3, 2, [0, 3])


def test_all_weights_but_the_classes_are_the_old_ones() -> None:
    old = small_model()
    new = start_from(old, replace(old.config, num_classes=2, dropout=0.3), FinetuneConfig("", [3, -1]))
    before, after, null = old.state_dict(), new.state_dict(), old.config.null_class
    assert torch.equal(after[CLASS_EMBEDDING], before[CLASS_EMBEDDING][[3, null, null]])
    assert all(torch.equal(after[name], before[name]) for name in before if name != CLASS_EMBEDDING)
    assert new.config.dropout == 0.3


def test_another_shape_is_refused() -> None:
    old = small_model()
    with pytest.raises(ValueError, match="finetune: flow_depth: expected 2, as the checkpoint has, got 4"):
        start_from(old, replace(old.config, flow_depth=4), FinetuneConfig(""))


@pytest.mark.parametrize(
    ("fields", "got"),
    [
        ({"latent_size": 8}, "1x1, 2x2, 4x4, 8x8"),
        ({"latent_size": (4, 8)}, "1x1, 1x2, 2x4, 4x8"),
        ({"scales": (1, 4)}, "1x1, 4x4"),
    ],
)
def test_another_grid_is_refused_unless_asked_for(fields: dict[str, Any], got: str) -> None:
    old = small_model()
    config = replace(old.config, **({"scales": None} | fields))
    with pytest.raises(ValueError, match="finetune: expected the checkpoint's grids 1x1, 2x2, 4x4, whose") as raised:
        start_from(old, config, FinetuneConfig(""))
    assert f"got {got}; finetune.interpolate_positions true interpolates them" in str(raised.value)
    assert all(name in str(raised.value) for name in POSITIONS)
    new = start_from(old, config, FinetuneConfig("", interpolate_positions=True))
    before, after = old.state_dict(), new.state_dict()
    assert {name for name in before if not torch.equal(after[name], before[name])} == set(POSITIONS)
    assert new.sample([0, 1], 2).shape == (2, 4, *config.grid)


def test_a_run_starts_from_it(idx_folder: Path, tmp_path: Path) -> None:
    """With a learning rate of nearly nothing, the trained model is the old one."""
    old = FlowAR(replace(MODEL, num_classes=4))
    with torch.no_grad():
        for parameter in old.parameters():
            parameter.normal_(std=0.05)
    old.save_pretrained(tmp_path / "old")
    finetune = FinetuneConfig(str(tmp_path / "old"), [0, 1, 2, 3, -1, -1, -1, -1, -1, -1])
    config = run_config(idx_folder, tmp_path / "run", finetune=finetune, optim={"lr": 1e-12, "steps": 1})
    trained = FlowAR.from_pretrained(train(config))
    for name, parameter in trained.named_parameters():
        expected = old.get_parameter(name)
        torch.testing.assert_close(parameter, expected[[0, 1, 2, 3, *[4] * 7]] if name == CLASS_EMBEDDING else expected)
    without_model = replace(config, model=FlowARConfig(), output=str(tmp_path / "other"))
    assert FlowAR.from_pretrained(train(without_model)).config.num_classes == 10
    assert rows(tmp_path / "other") == rows(tmp_path / "run")


def test_the_authors_files(tmp_path: Path) -> None:
    write_published(tmp_path / "FlowAR.pth")
    start = load_start(FinetuneConfig(str(tmp_path / "FlowAR.pth")))
    assert (start.config.num_classes, start.config.latent_channels) == (1000, 16)


def test_a_run_on_another_grid(tmp_path: Path) -> None:
    """Images of 8x16 instead of 8x8: an error by default, and a model of rectangles where it is asked for."""
    photos = write_class_folders(tmp_path / "photos")
    start = {"latent_channels": 12, "num_classes": 2}
    FlowAR(replace(MODEL, **start)).save_pretrained(tmp_path / "old")
    config = run_config(photos, tmp_path / "run", model=FlowARConfig(), optim={"steps": 1, "batch_size": 4})
    config.data.image_size = (8, 16)
    with pytest.raises(ValueError, match=r"got 1x1, 1x2, 2x4, 4x8; finetune\.interpolate_positions"):
        train(replace(config, finetune=FinetuneConfig(str(tmp_path / "old"))))
    finetune = FinetuneConfig(str(tmp_path / "old"), interpolate_positions=True)
    pipeline = FlowARPipeline.from_pretrained(train(replace(config, finetune=finetune)))
    assert pipeline.model.config.grids == ((1, 1), (1, 2), (2, 4), (4, 8))
    assert pipeline([0, 1], 2).images[0].size == (16, 8)


def blobs(folder: Path, height: int, width: int) -> Path:
    """Two hundred pictures of two classes: a spot at upper left, or at lower right, with some play, over the image."""
    rows, columns = np.mgrid[:height, :width]
    generator = np.random.default_rng(0)
    for number in range(200):
        label = number % 2
        row, column = np.array([0.25, 0.25] if label == 0 else [0.75, 0.75]) + generator.normal(0, 0.05, 2)
        distance = ((rows + 0.5) / height - row) ** 2 + ((columns + 0.5) / width - column) ** 2
        path = folder / str(label) / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.uint8(255 * np.exp(-distance / 0.02))).save(path)
    return folder


@pytest.mark.slow
def test_what_was_learned_on_8x8_helps_on_other_grids(tmp_path: Path) -> None:
    """Before the first step: interpolated positions beat fresh ones, and those beat a fresh model."""
    model = replace(MODEL, num_classes=2, latent_size=8, scales=None, dropout=0.0)
    optim = {"steps": 200, "lr": 3e-3, "batch_size": 16, "ema_decays": (0.98,)}
    config = run_config(blobs(tmp_path / "square", 16, 16), tmp_path / "run", model=model, optim=optim, save_every=200)
    square = replace(config.data, image_size=16, image_channels=1, tokenizer="pixel:2")
    old = FlowAR.from_pretrained(train(replace(config, data=square, log_every=100)))
    for size in ((32, 32), (16, 32), (32, 16)):
        folder = blobs(tmp_path / str(size), *size)
        store, tokenizer = load_data(replace(square, folder=str(folder), image_size=size), folder)
        fitted = fitting(old.config, store, tokenizer)
        fresh = FlowAR(fitted)
        interpolated = start_from(old, fitted, FinetuneConfig("", interpolate_positions=True))
        without = copy.deepcopy(interpolated)
        without.load_state_dict({name: fresh.state_dict()[name] for name in POSITIONS}, strict=False)
        latents, labels = store.batch(torch.arange(32), Draws.for_images(0, 0, torch.arange(32)))
        noise, times = torch.randn(32, fitted.tokens, 4), torch.rand(len(fitted.grids), 32)
        with torch.no_grad():
            models = (interpolated, without, fresh)
            losses = [float(each.eval().loss(latents, labels, noise, times).loss) for each in models]
        assert losses[0] < 0.9 * losses[1] < 0.9 * losses[2]
