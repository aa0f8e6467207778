"""Training of small tokenizers, and their use by a run."""

from __future__ import annotations

import json
import logging
import math
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import error
from PIL import Image
from torch import Tensor
from torch.distributions import Normal, kl_divergence
from training_runs import run_config

from flowar import FlowARPipeline
from flowar.cli import main, parse_options
from flowar.commands.train_tokenizer import Options
from flowar.data.sources import open_images
from flowar.errors import DataError, FlowARError, MissingPackageError
from flowar.system.installation import install_command
from flowar.tokenizers.base import Tokenizer
from flowar.tokenizers.conv import ConvTokenizer
from flowar.tokenizers.loading import load_tokenizer
from flowar.tokenizers.pixel import PixelTokenizer
from flowar.training.calibration import calibrate, warn_unless_normalised
from flowar.training.checkpoints import checkpoints
from flowar.training.data_config import DataConfig
from flowar.training.load_data import load_data
from flowar.training.perceptual import PerceptualLoss
from flowar.training.reconstructions import draw, reconstruct
from flowar.training.small_autoencoders import new_tokenizer
from flowar.training.tokenizer_config import TokenizerTrainingConfig
from flowar.training.tokenizer_losses import TokenizerLosses
from flowar.training.tokenizer_losses import kl_divergence as mean_kl_divergence
from flowar.training.tokenizer_state import TokenizerState
from flowar.training.tokenizer_training import train_tokenizer
from flowar.training.tokenizer_watch import WatchOptions
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
        config = self.config(kind=kind, steps=40, warmup_steps=2, robust_steps=2)
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

    @pytest.mark.parametrize(
        ("kind", "size", "widths", "channels", "steps"),
        [
            ("conv", (28, 28), [16, 48, 96], 8, 1400),
            ("conv", (32, 32), [16, 48, 96], 8, 1600),
            ("conv", (64, 96), [16, 48, 96, 192], 16, 3200),
            ("conv", (256, 256), [16, 48, 96, 192, 192], 16, 12800),
            ("conv", (48, 52), [16, 48, 96], 8, 2400),
            ("conv", (8, 8), [16, 48], 4, 400),
            ("AutoencoderDC", (64, 64), [16, 32, 64, 128], 16, 3200),
        ],
    )
    def test_what_is_left_out_follows_from_the_size(
        self, kind: str, size: tuple[int, int], widths: list[int], channels: int, steps: int
    ) -> None:
        arguments = ["--data", "x", "--output", "y", "--training.kind", kind]
        config = parse_options("train-tokenizer", Options, arguments).training.for_images(size, flips=True)
        assert (config.widths, config.channels, config.steps) == (widths, channels, steps)
        assert (config.robust_steps, config.flips) == (steps * 7 // 16, True)

    def test_what_is_given_stays(self) -> None:
        given = self.config(widths=[8, 16, 16], robust_steps=0, flips=False)
        assert given.for_images((32, 32), flips=True) == given

    def test_kl_divergence(self) -> None:
        mean, std = torch.randn(2, 3), torch.rand(2, 3) + 0.1
        expected = kl_divergence(Normal(mean, std), Normal(0, 1)).mean()
        assert mean_kl_divergence(mean, std) == pytest.approx(expected.item(), rel=1e-5)
        assert mean_kl_divergence(mean, torch.zeros(2, 3)) == 0

    def test_seed(self) -> None:
        first, second, other = (
            train_tokenizer(self.images(), self.config(steps=2, seed=seed)).fingerprint() for seed in (0, 0, 1)
        )
        assert first == second != other

    def test_robust_steps_change_the_decoder_alone(self) -> None:
        plain, robust = (train_tokenizer(self.images(), self.config(steps=2, robust_steps=n)) for n in (0, 2))
        for name, weight in plain.state_dict().items():
            assert torch.equal(weight, robust.state_dict()[name]) == ("decoder" not in name)

    def test_flips(self) -> None:
        images = self.images()
        images[..., 0] = 255  # so that none is its own mirror image
        losses = TokenizerLosses(PixelTokenizer(1, 2), images, self.config(batch_size=64, flips=True))
        left, right = ((losses.batch(0)[..., side] == 1).all((1, 2)) for side in (0, -1))
        assert (left ^ right).all()
        assert 16 < left.sum() < 48

    def test_batches_depend_on_the_step(self) -> None:
        losses = TokenizerLosses(PixelTokenizer(1, 2), self.images(), self.config())
        first, other, again = (losses.batch(step) for step in (0, 1, 0))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_latent_noise(self) -> None:
        """Pixel patches decode to what they are, so that all of the loss is the noise; an even batch has none."""
        images = self.images()
        quiet, noisy = (
            TokenizerLosses(PixelTokenizer(1, 2), images, self.config(latent_noise=noise)).autoencoding(0)
            for noise in (0.0, 0.5)
        )
        assert quiet < 1e-6 < 0.01 < noisy

    def test_bf16_learns_as_float32_does(self) -> None:
        images = self.images()
        unit = images.float() / 127.5 - 1
        errors = []
        for precision in ("bf16", "float32"):
            tokenizer = train_tokenizer(images, self.config(precision=precision))
            assert {weight.dtype for weight in tokenizer.parameters()} == {torch.float32}
            errors.append((tokenizer.decode(tokenizer.encode(unit)) - unit).abs().mean().item())
        assert errors[0] == pytest.approx(errors[1], rel=0.25)
        assert errors[0] != errors[1]

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"kind": "vq"}, "kind: expected one of conv, AutoencoderKL, AutoencoderDC, got vq"),
            ({"kind": "AutoencoderDC", "widths": [8, 24]}, r"widths: expected each to divide four times .* \[8, 24\]"),
            ({"kind": "AutoencoderDC", "channels": 3}, r"the last to be a multiple of 3 channels \(AutoencoderDC\)"),
            ({"kind": "AutoencoderKL", "widths": [8, 12]}, r"widths: expected multiples of 8, got \[8, 12\]"),
            ({"perceptual_weight": -1.0}, r"perceptual_weight: expected a number in \[0, 1e\+06\], got -1\.0"),
            ({"latent_noise": float("nan")}, r"latent_noise: expected a number in \[0, 100\], got nan"),
            ({"interval": 0}, "interval: expected a positive integer, got 0"),
            ({"channels": 0}, "channels: expected a positive integer, got 0"),
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
        expected = f"flowar: tokenizer: AutoencoderKL needs diffusers: {install_command('vae')}\n"
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


class TestWatch:
    """A training that is looked at, killed and resumed."""

    def config(self, **changes: Any) -> TokenizerTrainingConfig:
        return TestTokenizerTraining().config(steps=4, robust_steps=3, interval=2, flips=True, **changes)

    def train(self, output: Path, resume: bool = False, **changes: Any) -> Tokenizer:
        images = TestTokenizerTraining().images()
        return train_tokenizer(images, self.config(**changes), watched=WatchOptions(output, images[::5], resume))

    def test_what_it_leaves(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        self.train(tmp_path)
        assert [path.name for path in checkpoints(tmp_path / "checkpoints")] == ["step_00000006", "step_00000007"]
        rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == [2, 4, 6, 7]
        assert all(0 < row["psnr_worst"] <= row["psnr"] == row["psnr_colour"]["grey"] for row in rows)
        pictures = sorted((tmp_path / "reconstructions").glob("*.png"))
        assert [path.name for path in pictures] == [f"step_{step:08d}.png" for step in (2, 4, 6, 7)]
        assert json.loads((tmp_path / "training.json").read_text())["steps"] == 4
        said = [message for message in caplog.messages if message.startswith("step ")]
        assert len(said) == 4
        assert re.fullmatch(
            r"step 6 of 7: loss .*; held out .* dB \(grey .*; worst .*\); .* images/s, \d+ s left", said[2]
        )

    @pytest.mark.parametrize("lost", [2, 4, 6])
    def test_resumes_bit_for_bit(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int) -> None:
        """In either stage, and between them; whether it is watched changes nothing."""
        whole = self.train(tmp_path / "whole")

        step = TokenizerState.update

        def update(state: TokenizerState, loss: Tensor) -> None:
            if state.step == lost:
                raise KeyboardInterrupt
            step(state, loss)

        with monkeypatch.context() as patch:
            patch.setattr(TokenizerState, "update", update)
            with pytest.raises(KeyboardInterrupt):
                self.train(tmp_path / "run")
        resumed = self.train(tmp_path / "run", resume=True)
        alone = train_tokenizer(TestTokenizerTraining().images(), self.config())
        assert resumed.record() == whole.record() == alone.record()
        rows = [(tmp_path / run / "metrics.jsonl").read_text().splitlines() for run in ("whole", "run")]
        losses = [[(row["step"], row["loss"], row["psnr"]) for row in map(json.loads, each)] for each in rows]
        assert losses[0] == losses[1]

    def test_a_finished_training_resumes_to_its_end(self, tmp_path: Path) -> None:
        whole = self.train(tmp_path)
        assert self.train(tmp_path, resume=True).record() == whole.record()

    def test_a_second_training(self, tmp_path: Path) -> None:
        self.train(tmp_path)
        with pytest.raises(
            DataError, match=r"output: expected a folder without a run, found checkpoints in .*; resume"
        ):
            self.train(tmp_path)
        with pytest.raises(DataError, match=r"expected a checkpoint of .*, got one of .*"):
            self.train(tmp_path, resume=True, kl_weight=0.5)

    def test_nothing_to_resume(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"resume: expected checkpoints in .*, found none"):
            self.train(tmp_path, resume=True)


class TestReconstructions:
    def test_decibels_by_colour_and_of_the_worst(self) -> None:
        """Pixel patches lose nothing, so a decoder that is off by a known amount shows what is measured."""
        images = torch.randint(80, 160, (20, 3, 8, 8), dtype=torch.uint8)

        class Off(PixelTokenizer):
            def _decode(self, latents: Tensor) -> Tensor:
                decoded = super()._decode(latents)
                decoded[:, 0] += 0.2
                return decoded

        found = reconstruct(Off(3, 2), images)
        assert found.by_colour["red"] == pytest.approx(20.0, abs=1e-3)  # 10 log10(4 / 0.04)
        assert found.by_colour["green"] == found.by_colour["blue"] == 100
        assert [found.psnr, found.worst] == pytest.approx([20 + 10 * math.log10(3)] * 2, abs=1e-3)
        assert "(red 20.0, green 100.0, blue 100.0; worst tenth of the images 24.8)" in str(found)

    def test_worst(self) -> None:
        images = torch.full((20, 1, 8, 8), 255, dtype=torch.uint8)
        images[[3, 7], :, ::2] = 200

        class Flat(PixelTokenizer):
            def _decode(self, latents: Tensor) -> Tensor:
                return torch.ones_like(super()._decode(latents))

        found = reconstruct(Flat(1, 2), images)
        assert found.errors.nonzero().flatten().tolist() == [3, 7]
        assert found.psnr == pytest.approx(found.worst + 10, abs=1e-3)

    @pytest.mark.parametrize(("count", "rows"), [(3, 4), (25, 6)])
    def test_picture(self, tmp_path: Path, count: int, rows: int) -> None:
        images = torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8)
        draw(images, reconstruct(PixelTokenizer(3, 2), images), tmp_path / "a" / "b.png")
        picture = Image.open(tmp_path / "a" / "b.png")
        assert (picture.mode, picture.size) == ("RGB", (10 * 96, rows * 96))
        above, below = (picture.crop((0, 96 * row, 960, 96 * row + 96)).tobytes() for row in (0, 1))
        assert above == below


class TestUnnormalisedLatents:
    @pytest.mark.parametrize(
        ("mean", "std", "warned"),
        [(0.0, 1.0, False), (0.4, 0.6, False), (0.7, 1.0, True), (0.0, 0.3, True), (0, 3, True)],
    )
    def test_warning(self, caplog: pytest.LogCaptureFixture, mean: float, std: float, warned: bool) -> None:
        latents = mean + std * torch.randn(64, 4, 8, 8)
        warn_unless_normalised(latents, torch.zeros_like(latents))
        assert ("`flowar calibrate-tokenizer` measures" in caplog.text) == warned

    def test_variance_of_the_posterior_counts(self, caplog: pytest.LogCaptureFixture) -> None:
        warn_unless_normalised(0.3 * torch.randn(64, 4, 8, 8), torch.full((64, 4, 8, 8), 0.95))
        assert not caplog.text

    @pytest.mark.parametrize(("scaling_factor", "warned"), [(1.0, False), (20.0, True)])
    def test_folder_of_diffusers(
        self, idx_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, scaling_factor: float, warned: bool
    ) -> None:
        """What its configuration says of its latents is taken for true, and may be far from it."""
        pytest.importorskip("diffusers", reason="needs the extra [vae]")
        tokenizer = new_tokenizer("AutoencoderKL", 1, 2, [8, 16])
        calibrate(tokenizer, open_images(idx_folder).batches(8))
        std, mean = tokenizer.std.mean().item(), tokenizer.mean.mean().item()
        tokenizer.vae.register_to_config(scaling_factor=scaling_factor / std, shift_factor=mean)
        tokenizer.vae.save_pretrained(tmp_path / "vae")
        load_data(DataConfig(str(idx_folder), str(tmp_path / "vae"), device="cpu"), tmp_path / "run")
        assert ("expected channels of mean 0 and standard deviation 1" in caplog.text) == warned


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
            TokenizerLosses(PixelTokenizer(1, 2), images, replace(config, perceptual_weight=weight))
            for weight in (0.0, 0.5)
        )
        difference = with_it.reconstruction(decoded, images) - without.reconstruction(decoded, images)
        assert difference.item() == pytest.approx(0.5 * loss(decoded, images).item(), rel=1e-4)

    def test_without_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
        images, config = TestTokenizerTraining().images(), TestTokenizerTraining().config(steps=1)
        train_tokenizer(images, config)
        with pytest.raises(MissingPackageError, match=r"efficientnet-lite0 .* pip install .*\[eval\]\""):
            train_tokenizer(images, replace(config, perceptual_weight=0.1))
