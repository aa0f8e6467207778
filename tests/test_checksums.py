"""Checksums of files of tensors: every bit that flips is found, and files without them load as before."""

from __future__ import annotations

import json
import logging
import random
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from conftest import recording, small_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from flowar import FlowAR
from flowar.errors import CheckpointError
from flowar.storage.checksums import KEY
from flowar.storage.weights import open_safetensors, save_tensors

TENSORS = {
    "a": torch.randn(3, 700),
    "half": torch.randn(5, 7).half(),
    "counts": torch.arange(9),
    "flags": torch.tensor([True, False]),
    "one": torch.tensor(0.5, dtype=torch.bfloat16),
    "none": torch.empty(0, 4),
}


def header_bytes(path: Path) -> int:
    return 8 + int.from_bytes(path.read_bytes()[:8], "little")


def flipped(path: Path, bits: Iterable[int]) -> Iterable[int]:
    """The bits, each while it is flipped in the file at `path`."""
    content = path.read_bytes()
    for bit in bits:
        changed = bytearray(content)
        changed[bit // 8] ^= 1 << bit % 8
        path.write_bytes(changed)
        yield bit
    path.write_bytes(content)


def test_any_bit_of_a_small_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_tensors(path, TENSORS, {"about": '{"number": 12}'})
    assert open_safetensors(path).keys() == TENSORS.keys()
    assert all(torch.equal(tensor, TENSORS[name]) for name, tensor in open_safetensors(path).items())
    header, size = header_bytes(path), path.stat().st_size
    for bit in flipped(path, [*range(8 * header), *range(8 * header, 8 * size, 61)]):
        with pytest.raises(CheckpointError) as raised:
            open_safetensors(path)
        assert "\n" not in str(raised.value), bit
    open_safetensors(path)


@pytest.mark.parametrize("dtype", [None, torch.float16])
def test_a_hundred_bits_of_a_model(dtype: torch.dtype | None, tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path, dtype)
    path, draw = tmp_path / "model.safetensors", random.Random(0)
    for _ in flipped(path, [draw.randrange(8 * path.stat().st_size) for _ in range(100)]):
        with pytest.raises(CheckpointError, match=r"model\.safetensors: "):
            FlowAR.from_pretrained(tmp_path)
    FlowAR.from_pretrained(tmp_path)


def test_the_damaged_tensor_is_named(tmp_path: Path) -> None:
    small_model().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    next(iter(flipped(path, [8 * path.stat().st_size - 1])))
    last = max(load_file(path))  # by name, as they all have one dtype
    with pytest.raises(CheckpointError, match=rf"damaged: tensor {last}: expected checksum [0-9a-f]{{8}}, got"):
        FlowAR.from_pretrained(tmp_path)


def test_files_without_checksums(tmp_path: Path) -> None:
    model, path = small_model(), tmp_path / "model.safetensors"
    model.save_pretrained(tmp_path)
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    assert {*json.loads(metadata.pop(KEY))["tensors"]} == {*model.state_dict()}
    save_file(load_file(path), path, metadata)
    assert all(map(torch.equal, FlowAR.from_pretrained(tmp_path).parameters(), model.parameters()))
    save_file(TENSORS, path)
    assert open_safetensors(path).keys() == TENSORS.keys()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16])
def test_numbers_that_are_not_finite(value: float, dtype: torch.dtype | None, tmp_path: Path) -> None:
    model, name = small_model(), "ar_transformer.middle_norm.weight"
    with torch.no_grad():
        model.get_parameter(name)[5] = value
    model.save_pretrained(tmp_path, dtype)
    with pytest.raises(CheckpointError, match=rf"model\.safetensors: tensor {name}: expected finite numbers, got NaN"):
        FlowAR.from_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=f"tensor {name}: expected finite"):
        open_safetensors(tmp_path / "model.safetensors")


def test_published_tensor_that_is_not_finite(tmp_path: Path) -> None:
    state = recording("tiny_attn_cross_mlp").published()
    state["encoder_norm.weight"][0] = float("nan")
    torch.save(state, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth: tensor encoder_norm\.weight: expected finite numbers"):
        FlowAR.from_published(tmp_path / "x.pth")


def test_an_edited_configuration_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    small_model().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"guidance_scale": 7.5, "num_inference_steps": 4}))
    with caplog.at_level(logging.WARNING):
        assert FlowAR.from_pretrained(tmp_path).config.guidance_scale == 7.5
    assert "saved with another num_inference_steps and guidance_scale than config.json has" in caplog.text
