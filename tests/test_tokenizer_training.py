"""Training of the small convolutional tokenizer, and its use by a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from training_runs import run_config

from flowar import FlowARPipeline
from flowar.errors import FlowARError
from flowar.tokenizer import ConvTokenizer, PixelTokenizer
from flowar.training.data import open_images
from flowar.training.tokenizer_training import TokenizerTrainingConfig, calibrate, train_tokenizer
from flowar.training.tokenizers import tokenizer_for_training
from flowar.training.trainer import train

pytestmark = pytest.mark.usefixtures("without_tensorboard")


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
