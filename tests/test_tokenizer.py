"""Tokenizers of every kind: recorded KL-16, round trips through files, calibration, and tokenizers that do not fit."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import Recording, error, psnr, recording
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flowar.errors import CheckpointError, FlowARError, MissingPackageError
from flowar.storage.published import KL16_SCALE
from flowar.tokenizers.base import Tokenizer
from flowar.tokenizers.conv import ConvTokenizer
from flowar.tokenizers.kl16 import load_kl16
from flowar.tokenizers.loading import check_tokenizer, load_tokenizer
from flowar.tokenizers.pixel import PixelTokenizer
from flowar.training.calibration import calibrate


def pixel() -> PixelTokenizer:
    return PixelTokenizer(3, 4, mean=[0.1 * i for i in range(48)], std=[0.5] * 48)


def conv() -> ConvTokenizer:
    torch.manual_seed(0)
    return ConvTokenizer(1, 4, (8, 16, 16), mean=[0.5, 0.0, 0.0, -0.25], std=[1.5, 1.0, 2.0, 0.123456789]).eval()


def edit_diffusers(**changes: Any) -> Callable[[Path], object]:
    """What changes the configuration of an autoencoder of diffusers, and not its weights."""

    def edit(folder: Path) -> None:
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | changes))

    return edit


def diffusers_vae(kind: str) -> Any:
    diffusers = pytest.importorskip("diffusers", reason="needs the extra [vae]")
    torch.manual_seed(0)
    if kind == "kl":
        blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
        return diffusers.AutoencoderKL(
            block_out_channels=(32, 32), latent_channels=4, scaling_factor=0.5, shift_factor=0.25, **blocks
        )
    blocks = {"block_out_channels": (8, 16, 16), "layers_per_block": (1, 1, 1), "qkv_multiscales": ((), (), ())}
    blocks = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in blocks.items()}
    return diffusers.AutoencoderDC(latent_channels=8, attention_head_dim=8, scaling_factor=0.25, **blocks)


def kl() -> Tokenizer:
    from flowar.tokenizers.autoencoder import AutoencoderTokenizer

    return AutoencoderTokenizer(diffusers_vae("kl"))


def dc() -> Tokenizer:
    from flowar.tokenizers.autoencoder import AutoencoderTokenizer

    return AutoencoderTokenizer(diffusers_vae("dc"))


KINDS: dict[str, tuple[Callable[[], Tokenizer], int, int, int]] = {
    "pixel": (pixel, 3, 48, 4),
    "conv": (conv, 1, 4, 4),
    "AutoencoderKL": (kl, 3, 4, 2),
    "AutoencoderDC": (dc, 3, 8, 4),
}


def images_of(channels: int, count: int = 2, size: int = 16) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(count, channels, size, size, generator=generator) * 2 - 1


@pytest.mark.parametrize(("make", "image_channels", "channels", "stride"), KINDS.values(), ids=KINDS)
class TestEveryKind:
    def test_shapes(self, make: Any, image_channels: int, channels: int, stride: int) -> None:
        tokenizer, images = make(), images_of(image_channels)
        assert (tokenizer.image_channels, tokenizer.channels, tokenizer.stride) == (image_channels, channels, stride)
        latents = tokenizer.encode(images)
        assert latents.shape == (2, channels, 16 // stride, 16 // stride)
        decoded = tokenizer.decode(latents)
        assert decoded.shape == images.shape
        assert decoded.abs().max() <= 1

    def test_round_trip(self, make: Any, image_channels: int, channels: int, stride: int, tmp_path: Path) -> None:
        tokenizer, images = make(), images_of(image_channels)
        tokenizer.save_pretrained(tmp_path)
        loaded = load_tokenizer(tmp_path)
        assert type(loaded) is type(tokenizer)
        assert loaded.record() == tokenizer.record() == json.loads((tmp_path / "tokenizer.json").read_text())
        assert not loaded.training
        for got, expected in zip(loaded.posterior(images), tokenizer.posterior(images), strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
        latents = tokenizer.encode(images)
        torch.testing.assert_close(loaded.decode(latents), tokenizer.decode(latents), rtol=1e-5, atol=1e-5)

    def test_calibration(self, make: Any, image_channels: int, channels: int, stride: int, tmp_path: Path) -> None:
        """Afterwards latents drawn from the posterior have mean 0 and variance 1 in every channel."""
        tokenizer = make()
        images = torch.randint(256, (12, image_channels, 16, 16), generator=torch.Generator().manual_seed(0)).byte()
        calibrate(tokenizer, images.split(5))
        mean, std = tokenizer.posterior(images.float() / 127.5 - 1)
        assert mean.mean((0, 2, 3)).abs().max() < 1e-4
        variance = mean.var((0, 2, 3), correction=0) + std.square().mean((0, 2, 3))
        torch.testing.assert_close(variance, torch.ones(channels), rtol=1e-4, atol=1e-4)
        tokenizer.save_pretrained(tmp_path)
        assert load_tokenizer(tmp_path).record() == tokenizer.record()

    def test_misshapen_input(self, make: Any, image_channels: int, channels: int, stride: int) -> None:
        tokenizer = make()
        for shape in ((1, image_channels + 1, 16, 16), (1, image_channels, 16, 17), (image_channels, 16, 16)):
            with pytest.raises(ValueError, match=rf"images: expected \[B, {image_channels}, H, W\].*{stride}, got"):
                tokenizer.encode(torch.zeros(shape))
        with pytest.raises(ValueError, match=rf"latents: expected \[B, {channels}, h, w\], got"):
            tokenizer.decode(torch.zeros(1, channels + 1, 4, 4))


def test_pixels_are_normalised_patches() -> None:
    tokenizer, images = pixel(), images_of(3)
    latents = tokenizer.encode(images)
    # Channel 7 of a patch: image channel 0, row 1, column 3.
    torch.testing.assert_close(latents[:, 7], (images[:, 0, 1::4, 3::4] - 0.7) / 0.5)
    torch.testing.assert_close(tokenizer.decode(latents), images)


def test_posterior_is_normalised() -> None:
    tokenizer, images = conv(), images_of(1)
    mean, std = tokenizer.posterior(images)
    raw_mean, raw_log_variance = tokenizer.autoencoder.moments(images)
    torch.testing.assert_close(mean[:, 3], (raw_mean[:, 3] + 0.25) / 0.123456789)
    torch.testing.assert_close(std[:, 3], (raw_log_variance[:, 3] / 2).exp() / 0.123456789)


@pytest.mark.parametrize("tokenizer", [kl, dc])
def test_normalisation_of_an_autoencoder_is_that_of_its_configuration(tokenizer: Callable[[], Tokenizer]) -> None:
    made, images = tokenizer(), images_of(3)
    scale, shift = made.vae.config.scaling_factor, made.vae.config.get("shift_factor") or 0.0
    encoded = made.vae.encode(images)
    raw = encoded.latent_dist.mean if hasattr(encoded, "latent_dist") else encoded.latent
    torch.testing.assert_close(made.encode(images), (raw - shift) * scale)


class TestDiffusersFolders:
    @pytest.mark.parametrize("kind", ["kl", "dc"])
    @pytest.mark.parametrize("subfolder", ["", "vae"])
    def test_folder(self, kind: str, subfolder: str, tmp_path: Path) -> None:
        vae = diffusers_vae(kind)
        vae.save_pretrained(tmp_path / subfolder)
        loaded: Any = load_tokenizer(tmp_path)
        assert all(torch.equal(value, vae.state_dict()[name]) for name, value in loaded.vae.state_dict().items())

    def test_hub_id(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        diffusers_vae("kl").save_pretrained(tmp_path)
        monkeypatch.setattr("huggingface_hub.snapshot_download", lambda repo, **options: str(tmp_path))
        assert load_tokenizer("user/vae").record() == kl().record()

    def test_hub_id_with_a_variant_alone(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        asked = []

        def snapshot_download(repo: str, allow_patterns: list[str], **options: Any) -> str:
            asked.append("diffusion_pytorch_model.fp16.safetensors" in allow_patterns)
            diffusers_vae("kl").save_pretrained(tmp_path, variant="fp16")
            for path in tmp_path.glob("*.safetensors") if not asked[-1] else ():
                path.unlink()
            return str(tmp_path)

        monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
        assert load_tokenizer("user/vae").channels == 4
        assert asked == [False, True]

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda f: (f / "config.json").write_text('{"_class_name": "VQModel"}'), "got VQModel"),
            (lambda f: (f / "config.json").write_text("{}"), "expected a diffusers AutoencoderKL or .* got None"),
            (lambda f: (f / "diffusion_pytorch_model.safetensors").unlink(), "expected an autoencoder of diffusers"),
            (edit_diffusers(layers_per_block=2), r"missing tensor \S+ \(of \d+\), by its config\.json"),
            (edit_diffusers(mid_block_add_attention=False), r"unexpected tensor \S+ \(of \d+\), by its config\.json"),
            (lambda f: (f / "diffusion_pytorch_model.safetensors").write_text("x"), "expected an autoencoder of"),
        ],
    )
    def test_damaged_folder(self, damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
        diffusers_vae("kl").save_pretrained(tmp_path)
        damage(tmp_path)
        with pytest.raises(CheckpointError, match=message) as raised:
            load_tokenizer(tmp_path)
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize("variant", ["fp16", "bf16"])
    @pytest.mark.parametrize("subfolder", ["", "vae"])
    def test_one_variant_alone(self, variant: str, subfolder: str, tmp_path: Path) -> None:
        vae = diffusers_vae("kl").half()
        vae.save_pretrained(tmp_path / subfolder, variant=variant)
        loaded: Any = load_tokenizer(tmp_path)
        assert all(torch.equal(value, vae.state_dict()[name]) for name, value in loaded.vae.state_dict().items())
        assert {value.dtype for value in loaded.vae.state_dict().values()} == {torch.float32}

    def test_several_variants(self, tmp_path: Path) -> None:
        for variant in ("non_ema", "bf16"):
            diffusers_vae("kl").save_pretrained(tmp_path, variant=variant)
        with pytest.raises(CheckpointError, match=r"expected .*model.safetensors, got variants bf16, non_ema"):
            load_tokenizer(tmp_path)
        diffusers_vae("kl").half().save_pretrained(tmp_path, variant="fp16")
        load_tokenizer(tmp_path)

    def test_pickled_alone(self, tmp_path: Path) -> None:
        diffusers_vae("kl").save_pretrained(tmp_path, safe_serialization=False)
        with pytest.raises(CheckpointError, match=r"got diffusion_pytorch_model\.bin, which is pickled, alone"):
            load_tokenizer(tmp_path)

    def test_not_finite(self, tmp_path: Path) -> None:
        vae = diffusers_vae("kl")
        with torch.no_grad():
            vae.decoder.conv_in.bias[0] = float("nan")
        vae.save_pretrained(tmp_path)
        with pytest.raises(CheckpointError, match=r"tensor decoder\.conv_in\.bias: expected finite numbers"):
            load_tokenizer(tmp_path)

    def test_file_of_a_folder(self, tmp_path: Path) -> None:
        diffusers_vae("kl").save_pretrained(tmp_path / "vae")
        kl().save_pretrained(tmp_path / "own")
        for path in ("vae/diffusion_pytorch_model.safetensors", "own/tokenizer.safetensors"):
            assert load_tokenizer(tmp_path / path).record() == kl().record()

    def test_without_diffusers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        kl().save_pretrained(tmp_path)
        monkeypatch.setitem(sys.modules, "diffusers", None)
        with pytest.raises(MissingPackageError, match=r"needs diffusers: pip install .*\[vae\]\""):
            load_tokenizer(tmp_path)


class TestKL16:
    @pytest.fixture
    def recorded(self) -> Recording:
        pytest.importorskip("diffusers", reason="needs the extra [vae]")
        return recording("kl16_vae")

    @pytest.mark.parametrize("nested", [True, False])
    def test_recorded(self, recorded: Recording, nested: bool, tmp_path: Path) -> None:
        state = recorded.state_dict()
        torch.save({"model": state | {"loss.logvar": torch.zeros(1)}} if nested else state, tmp_path / "kl16.ckpt")
        tokenizer: Any = load_tokenizer(tmp_path / "kl16.ckpt")
        mean, log_variance = recorded["moments"].chunk(2, 1)
        got_mean, got_std = tokenizer.posterior(recorded["images"])
        scale = recorded.metadata["config"]["latent_scale"]
        assert scale == 0.2325
        assert error(got_mean, mean * scale) < 1e-4
        assert error(got_std, (log_variance.clamp(-30, 20) / 2).exp() * scale) < 1e-4
        raw = tokenizer.vae.decode(recorded["latents"]).sample.detach()
        assert error(raw, recorded["decoded"]) < 1e-4
        decoded = tokenizer.decode(recorded["latents"] * scale)
        assert error(decoded, recorded["decoded"].clamp(-1, 1)) < 1e-4
        torch.testing.assert_close(tokenizer.std, torch.full((16,), 1 / 0.2325))
        assert not tokenizer.mean.any()

    def test_folder_needs_no_checkpoint(self, recorded: Recording, tmp_path: Path) -> None:
        torch.save(recorded.state_dict(), tmp_path / "kl16.ckpt")
        original = load_tokenizer(tmp_path / "kl16.ckpt")
        original.save_pretrained(tmp_path / "folder")
        loaded = load_tokenizer(tmp_path / "folder")
        assert error(loaded.encode(recorded["images"]), original.encode(recorded["images"])) < 1e-5

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda s: s.pop("decoder.mid.attn_1.q.weight"), "missing tensor decoder.mid_block.attentions.0.to_q"),
            (lambda s: s.update(extra=torch.zeros(1)), "unexpected tensor extra"),
            (lambda s: s.update({"encoder.norm_out.bias": torch.zeros(3)}), r"encoder.conv_norm_out.bias: expected"),
            (lambda s: s.pop("encoder.conv_in.weight"), "KL-16: expected .* encoder.conv_in.weight among them"),
            (lambda s: s.clear() or s.update(x=torch.zeros(1)), "KL-16: expected the tensors of its checkpoint"),
        ],
    )
    def test_damaged(self, recorded: Recording, change: Callable[[Any], object], message: str, tmp_path: Path) -> None:
        state = recorded.state_dict()
        change(state)
        torch.save(state, tmp_path / "kl16.ckpt")
        with pytest.raises(CheckpointError, match=message):
            load_tokenizer(tmp_path / "kl16.ckpt")


SINGLE_FILES = {
    "a FlowAR model": "ar_transformer.input_positions",
    "an autoencoder with a codebook": "quantize.embedding.weight",
    "an autoencoder of diffusers; name its folder": "encoder.down_blocks.0.resnets.0.conv1.weight",
    "a deep compression autoencoder": "encoder.stages.0.op_list.0.main.conv1.weight",
    "a whole latent diffusion model": "first_stage_model.encoder.conv_in.weight",
    "the autoencoder of a latent diffusion model such as Stable Diffusion": "encoder.down.0.block.0.conv1.weight",
}


@pytest.mark.parametrize(("kind", "name"), SINGLE_FILES.items())
@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_other_single_files_are_refused_by_name(kind: str, name: str, suffix: str, tmp_path: Path) -> None:
    path, tensors = tmp_path / f"vae.{suffix}", {name: torch.zeros(4, 4, 3, 3)}
    save_file(tensors, path) if suffix == "safetensors" else torch.save({"state_dict": tensors}, path)
    with pytest.raises(CheckpointError, match=rf"vae\.{suffix}: expected the tensors of KL-16 .*, got {kind}"):
        load_tokenizer(path)


def test_kl16_in_safetensors(tmp_path: Path) -> None:
    pytest.importorskip("diffusers", reason="needs the extra [vae]")
    state = recording("kl16_vae").state_dict()
    save_file({f"module.{name}": each.contiguous() for name, each in state.items()}, tmp_path / "kl16.safetensors")
    assert load_tokenizer(tmp_path / "kl16.safetensors").record() == load_kl16(state).record()
    state["decoder.conv_out.bias"][0] = float("inf")
    with pytest.raises(CheckpointError, match=r"checkpoint: tensor decoder\.conv_out\.bias: expected finite"):
        load_kl16(state)


def weights_of(module: nn.Module) -> list[Tensor]:
    """Kernels of convolutions of more than a pixel, in which the two layouts differ."""
    return [weight for weight in module.parameters() if weight.dim() == 4 and weight.shape[2:].numel() > 1]


@pytest.mark.parametrize("make", [conv, kl])
class TestLayout:
    def test_channels_last_on_a_cpu_alone(self, make: Callable[[], Tokenizer]) -> None:
        tokenizer = make()
        weights = weights_of(tokenizer.decoder)
        assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in weights)
        assert not any(weight.is_contiguous() for weight in weights if min(weight.shape[:2]) > 1)
        assert all(weight.is_contiguous() for weight in tokenizer.to("meta").parameters())
        moved = weights_of(tokenizer.to_empty(device="cpu").decoder)
        assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in moved)

    def test_numbers_are_those_of_the_default_layout(self, make: Callable[[], Tokenizer]) -> None:
        tokenizer, other = make(), make()
        other.decoder.to(memory_format=torch.contiguous_format)
        assert tokenizer.record() == other.record()
        images = images_of(tokenizer.image_channels)
        latents = tokenizer.encode(images)
        assert torch.equal(latents, other.encode(images))
        decoded = tokenizer.decode(latents)
        assert decoded.is_contiguous()
        torch.testing.assert_close(decoded, other.decode(latents), rtol=0, atol=1e-5)


class TestDecodeDtype:
    def test_shipped_model(self) -> None:
        """In bfloat16 about the error of rounding to 8 bits."""
        tokenizer = load_tokenizer("flowar-fashion")
        latents = tokenizer.encode(images_of(1, 4, 28))
        low, full = tokenizer.decode(latents, torch.bfloat16), tokenizer.decode(latents)
        assert low.dtype == full.dtype == torch.float32
        assert torch.equal(full, tokenizer.decode(latents, torch.float32))
        assert 50 < psnr(low, full) < 70

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_autocast_around_it_is_not_for_it(self, dtype: torch.dtype) -> None:
        tokenizer = load_tokenizer("flowar-fashion")
        latents = tokenizer.encode(images_of(1, 2, 28))
        expected = tokenizer.decode(latents, dtype)
        with torch.autocast("cpu", torch.float16):
            assert torch.equal(tokenizer.decode(latents, dtype), expected)

    def test_kl16(self) -> None:
        recorded = recording("kl16_vae")
        pytest.importorskip("diffusers", reason="needs the extra [vae]")
        tokenizer = load_kl16(recorded.state_dict())
        decoded = tokenizer.decode(recorded["latents"] * KL16_SCALE, torch.bfloat16)
        assert 40 < psnr(decoded, recorded["decoded"].clamp(-1, 1)) < 60

    @pytest.mark.parametrize("dtype", [torch.float16, torch.float64, "bfloat16"])
    def test_another_dtype(self, dtype: Any) -> None:
        with pytest.raises(ValueError, match=r"decoding: expected dtype torch.float32 or torch.bfloat16, got "):
            conv().decode(torch.zeros(1, 4, 4, 4), dtype)


def edit_record(**changes: Any) -> Callable[[Path], object]:
    def edit(folder: Path) -> None:
        record = json.loads((folder / "tokenizer.json").read_text())
        (folder / "tokenizer.json").write_text(json.dumps(record | changes))

    return edit


def change_one_weight(folder: Path) -> None:
    weights = load_file(folder / "tokenizer.safetensors")
    weights["autoencoder.encoder.0.bias"] += 1e-3
    save_file(weights, folder / "tokenizer.safetensors")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "expected tokenizer.json or config.json of a diffusers"),
        (lambda f: (f / "tokenizer.json").write_text("{"), "expected a JSON object"),
        (edit_record(kind="vq"), "expected a tokenizer of kind pixel, conv, autoencoder, got 'vq'"),
        (edit_record(color="red"), "expected the record of a tokenizer .TypeError"),
        (edit_record(stride=8), "expected stride 4"),
        (edit_record(std=[1.0]), "4 positive standard deviations"),
        (edit_record(std=[1.0, 1.0, 1.0, 0.0]), "4 positive standard deviations"),
        (edit_record(channels=5), "tokenizer"),
        (lambda f: (f / "tokenizer.safetensors").unlink(), "expected a safetensors file"),
        (lambda f: (f / "tokenizer.safetensors").write_bytes(b"x" * 99), "expected a safetensors file"),
        (change_one_weight, "tokenizer: expected weights"),
    ],
)
def test_damaged_tokenizer(damage: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    conv().save_pretrained(tmp_path)
    load_tokenizer(tmp_path)
    damage(tmp_path)
    with pytest.raises(FlowARError, match=message) as raised:
        load_tokenizer(tmp_path)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": 8}, r"expected channels 8 \(conv tokenizer, 8 channels, stride 4\), got 4 \(conv tokenizer, 4 "),
        ({"stride": 16}, r"expected stride 16 \(conv tokenizer, 4 channels, stride 16\), got 4"),
        ({"mean": [0.0] * 4}, r"expected mean \[0.0, .*\], 4 channels, stride 4\), got \[0.5, 0.0, 0.0, -0.25\]"),
        ({"std": [1.0] * 4}, "expected std .* got .*1.5"),
        ({"kind": "pixel"}, r"expected kind pixel \(pixel tokenizer.* got conv \(conv tokenizer"),
        ({"weights": "0" * 16}, "expected weights 0000000000000000 .* got "),
    ],
)
def test_tokenizer_that_does_not_fit_a_model(changes: dict[str, Any], message: str) -> None:
    tokenizer = conv()
    check_tokenizer(tokenizer.record(), tokenizer)
    check_tokenizer({}, tokenizer)
    with pytest.raises(FlowARError, match=message.replace("], 4 channels", r"] .*, 4 channels")) as raised:
        check_tokenizer(tokenizer.record() | changes, tokenizer)
    assert "\n" not in str(raised.value)


def test_constant_channel_cannot_be_calibrated() -> None:
    with pytest.raises(ValueError, match="tokenizer normalisation: expected 4 means and 4 positive"):
        calibrate(PixelTokenizer(1, 2), [torch.zeros(3, 1, 4, 4, dtype=torch.uint8)])


def test_full_disk_leaves_what_was_there(tmp_path: Path, full_disk: None) -> None:
    with pytest.raises(OSError, match="File too large"):
        conv().save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())
