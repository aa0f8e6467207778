"""From labels to pictures, and pipelines as folders."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import small_model
from PIL import Image

from flowar import FlowARPipeline, __version__
from flowar.errors import FlowARError
from flowar.images import image_grid, to_pil
from flowar.storage import hub
from flowar.tokenizers.base import Tokenizer
from flowar.tokenizers.conv import ConvTokenizer
from flowar.tokenizers.pixel import PixelTokenizer

pytestmark = pytest.mark.usefixtures("either_default")


def grey() -> Tokenizer:
    torch.manual_seed(0)
    return ConvTokenizer(1, 4, (8, 16)).eval()


def color() -> Tokenizer:
    return PixelTokenizer(3, 2, std=[0.5] * 12)


def pipeline_with(tokenizer: Tokenizer) -> FlowARPipeline:
    return FlowARPipeline(small_model(latent_channels=tokenizer.channels, tokenizer=tokenizer.record()), tokenizer)


@pytest.mark.parametrize(("make", "mode", "size"), [(grey, "L", (8, 8)), (color, "RGB", (8, 8))])
def test_labels_to_pictures(make: Any, mode: str, size: tuple[int, int]) -> None:
    pipe = pipeline_with(make())
    out = pipe([0, 3, 4], seed=1)
    assert [(image.mode, image.size) for image in out.images] == [(mode, size)] * 3
    assert torch.equal(out.latents, pipe.model.sample([0, 3, 4], seed=1))
    decoded = pipe.tokenizer.decode(out.latents)
    for image, expected in zip(out.images, decoded, strict=True):
        pixels = torch.from_numpy(np.array(image)).view(*image.size[::-1], -1).permute(2, 0, 1)
        assert (pixels / 127.5 - 1 - expected).abs().max() <= 0.5 / 127.5 + 1e-5
        assert pixels.float().std() > 5  # a picture, not one colour


def test_arguments_are_those_of_sample() -> None:
    pipe = pipeline_with(color())
    own, positional, named = (
        pipe([1], seed=0),
        pipe([1], 4, 2.0, seed=0),
        pipe([1], num_inference_steps=4, guidance_scale=2.0, seed=0),
    )
    assert torch.equal(positional.latents, named.latents)
    assert not torch.equal(own.latents, named.latents)
    with pytest.raises(ValueError, match="integers from 0 to 4, got 9"):
        pipe([9])


def test_decoding_in_batches_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe, sizes = pipeline_with(grey()), []
    decode = pipe.tokenizer.decode
    monkeypatch.setattr(pipe.tokenizer, "decode", lambda z, dtype: (sizes.append(len(z)), decode(z, dtype))[1])
    together = pipe([0, 1, 2, 3, 4], num_inference_steps=2, seed=0).images
    pipe.tokenizer.decode_pixels = 2 * 8 * 8 + 1
    apart = pipe([0, 1, 2, 3, 4], num_inference_steps=2, seed=0).images
    assert sizes == [5, 2, 2, 1]
    assert all(np.abs(np.array(a).astype(int) - np.array(b)).max() <= 1 for a, b in zip(together, apart, strict=True))


def test_decoding_in_bfloat16() -> None:
    pipe = pipeline_with(grey())
    full = pipe([0, 1, 2], num_inference_steps=2, seed=0)
    pipe.decode_dtype = torch.bfloat16
    low = pipe([0, 1, 2], num_inference_steps=2, seed=0)
    assert low.latents.dtype == torch.float32
    assert torch.equal(low.latents, full.latents)
    differences = np.stack([np.array(a).astype(int) - b for a, b in zip(low.images, full.images, strict=True)])
    assert 0 < np.abs(differences).max() < 16


@pytest.mark.parametrize("make", [grey, color])
def test_folder_round_trip(make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = pipeline_with(make())
    pipe.save_pretrained(tmp_path / "flowar-test", torch.float16)
    expected = {"config.json", "model.safetensors", "tokenizer.json"}
    expected |= {"tokenizer.safetensors"} if pipe.tokenizer.state_dict() else set()
    assert {path.name for path in (tmp_path / "flowar-test").iterdir()} == expected
    monkeypatch.setattr(hub, "ASSETS", tmp_path)
    for source in (tmp_path / "flowar-test", str(tmp_path / "flowar-test"), "flowar-test"):
        loaded = FlowARPipeline.from_pretrained(source)
        for image, original in zip(loaded([0, 4], 4, seed=0).images, pipe([0, 4], 4, seed=0).images, strict=True):
            assert np.abs(np.array(image).astype(int) - np.array(original)).max() < 8  # weights were stored in float16


def test_tokenizer_of_another_model(tmp_path: Path) -> None:
    tokenizer = grey()
    model = small_model(tokenizer=tokenizer.record())
    other = ConvTokenizer(1, 4, (8, 16), std=[2.0] * 4)
    with pytest.raises(FlowARError, match=r"tokenizer: expected std \[1.0, .*conv tokenizer.* got \[2.0"):
        FlowARPipeline(model, other)
    with pytest.raises(FlowARError, match=r"tokenizer: expected channels 4 .* got 12 .pixel tokenizer, 12 channels"):
        FlowARPipeline(small_model(), color())
    FlowARPipeline(model, tokenizer).save_pretrained(tmp_path)
    other.save_pretrained(tmp_path)
    with pytest.raises(FlowARError, match="tokenizer: expected std"):
        FlowARPipeline.from_pretrained(tmp_path)


def test_model_without_its_tokenizer(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path)
    with pytest.raises(FlowARError, match="expected a diffusers AutoencoderKL or AutoencoderDC, got None"):
        FlowARPipeline.from_pretrained(tmp_path)


def test_moves_to_a_device() -> None:
    pipe = pipeline_with(grey())
    assert pipe.to("meta") is pipe
    assert all(p.is_meta for p in (*pipe.model.parameters(), *pipe.tokenizer.parameters(), pipe.tokenizer.std))


def test_pixels_are_rounded_and_clamped() -> None:
    values = torch.tensor([-1.5, -1.0, 0.0, 0.999, 1.0, 2.0]).view(1, 1, 2, 3)
    assert np.array(to_pil(values)[0]).flatten().tolist() == [0, 0, 128, 255, 255, 255]


def test_image_grid() -> None:
    images = [Image.new("L", (3, 2), 10 * i) for i in range(1, 6)]
    grid = image_grid(images, 2)
    assert (grid.size, grid.mode) == ((6, 6), "L")
    assert [grid.getpixel((x, y)) for y in (1, 3, 5) for x in (2, 3)] == [10, 20, 30, 40, 50, 0]
    for bad in (([], 2), (images, 0)):
        with pytest.raises(ValueError, match="image grid: expected images and a positive number of columns"):
            image_grid(*bad)


def test_version_is_that_of_the_package() -> None:
    project = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    assert f'\nversion = "{__version__}"\n' in project


def test_import_is_light() -> None:
    heavy = ("diffusers", "PIL", "huggingface_hub", "jsonargparse", "tensorboard")
    code = f"from flowar import FlowARPipeline; import sys; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
