"""Configurations: the published sizes, plain data and back, and what no model can have."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from flowar import FlowAR, FlowARConfig


@pytest.mark.parametrize(("name", "millions"), [("S", 171.7), ("B", 289.8), ("L", 586.9), ("H", 1913.3)])
def test_presets_have_the_published_sizes(name: str, millions: float) -> None:
    """S, L and H as their checkpoints; B was never published (the paper rounds it to 300)."""
    with torch.device("meta"):
        model = FlowAR(FlowARConfig.preset(name))
    count = sum(parameter.numel() for parameter in model.parameters())
    assert count / 1e6 == pytest.approx(millions, abs=0.05)
    assert model.config.tokens == 341


def test_preset_with_changes() -> None:
    config = FlowARConfig.preset("l", num_classes=10, latent_size=32)
    assert (config.num_classes, config.ar_width, config.tokens, config.null_class) == (10, 1024, 1365, 10)


@pytest.mark.parametrize(
    ("size", "scales", "grids"),
    [
        (16, None, [(1, 1), (2, 2), (4, 4), (8, 8), (16, 16)]),
        (7, None, [(1, 1), (2, 2), (4, 4), (7, 7)]),
        ((4, 16), None, [(1, 1), (1, 2), (1, 4), (2, 8), (4, 16)]),
        (16, [1, 4, 16], [(1, 1), (4, 4), (16, 16)]),
        ((8, 16), [1, [4, 8], (8, 16)], [(1, 1), (4, 8), (8, 16)]),
    ],
)
def test_scales(size: Any, scales: Any, grids: list[tuple[int, int]]) -> None:
    config = FlowARConfig(latent_size=size, scales=scales)
    assert list(config.grids) == grids
    assert config.tokens == sum(height * width for height, width in grids)


def test_json_round_trip() -> None:
    config = FlowARConfig.preset(
        "H", latent_size=(8, 16), num_classes=2, class_names=["a", "b"], tokenizer={"kind": "pixel", "channels": 16}
    )
    assert FlowARConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scales": [1, 4, 8]}, "scales: expected growing grids from 1x1 to latent_size 16x16, got 1x1, 4x4, 8x8"),
        ({"scales": [1, 8, 4, 16]}, "scales: expected growing"),
        ({"scales": [1, 4, 4, 16]}, "scales: expected growing"),
        ({"qk_norm": 1}, "qk_norm: expected true or false, got 1"),
        ({"scales": [4, 16]}, "scales: expected growing grids from 1x1"),
        ({"scales": []}, "scales: .* got none"),
        ({"scales": [0, 16]}, "scales: expected a positive side length"),
        ({"scales": 16}, "scales: expected a list, got 16"),
        ({"scales": ["16"]}, "scales: expected a positive side length or a .* pair, up to 65536, got '16'"),
        ({"latent_size": 0}, "latent_size: expected a positive side length"),
        ({"latent_size": (4, 4, 4)}, "latent_size: expected a positive side length"),
        ({"latent_size": None}, "latent_size: expected a positive side length"),
        ({"num_classes": 0}, "num_classes: expected a positive integer, got 0"),
        ({"latent_channels": 2.5}, "latent_channels: expected a positive integer, got 2.5"),
        ({"flow_width": "64"}, "flow_width: expected a positive integer, got '64'"),
        ({"ar_depth": 3}, "ar_depth: expected a positive even integer, got 3"),
        ({"ar_heads": 5}, "ar_heads: expected a divisor of ar_width / 4 = 192, got 5"),
        ({"flow_heads": 0}, "flow_heads: expected a positive integer, got 0"),
        ({"flow_block": "mlp"}, "flow_block: expected attn_mlp or attn_cross_mlp, got 'mlp'"),
        ({"upsample": "nearest"}, "upsample: expected published or bilinear, got 'nearest'"),
        ({"dropout": 1.0}, r"dropout: expected a number in \[0, 1\), got 1.0"),
        ({"class_dropout": None}, r"class_dropout: expected a number in \[0, 1\), got None"),
        ({"class_names": ["a"]}, "class_names: expected 1000 names or none, got 1 names"),
        ({"num_inference_steps": 0}, "num_inference_steps: expected an integer from 1 to 10000, got 0"),
        ({"guidance_scale": "4"}, r"guidance_scale: expected a number in \[0, 1000\], got '4'"),
        ({"guidance_interval": (0.5, 2.0)}, r"guidance_interval\[1\]: expected a number in \[0, 1\], got 2\.0"),
        ({"guidance_interval": (0.5, 0.2)}, "guidance_interval: expected 0 <= low <= high <= 1"),
        ({"tokenizer": {"channels": 4}}, "latent_channels: expected 4, as the tokenizer has, got 16"),
        ({"depth": 12}, "configuration: unknown fields depth"),
    ],
    ids=lambda value: str(next(iter(value))) if isinstance(value, dict) else "",
)
def test_impossible_fields(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as raised:
        FlowARConfig.from_dict(fields)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["XL", "", "s ", 7])
def test_unknown_preset(name: Any) -> None:
    with pytest.raises(ValueError, match="preset: expected one of S, B, L, H, got"):
        FlowARConfig.preset(name)
