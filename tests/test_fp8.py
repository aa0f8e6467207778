"""fp8: the quantiser, the layer against the product that it stands for, and what it does to a sample."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from conftest import TINY, needs_fp8, recorded_model, small_model
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from flowar import FlowAR, ops
from flowar.engine.fp8 import Fp8Linear, to_fp8
from flowar.engine.rewrites import pad_hidden
from flowar.networks.layers import GEGLU
from flowar.ops import quantize_rows


def dequantized(x: Tensor) -> Tensor:
    """x [M, K] as float8 rows under their scales hold it, in float64."""
    values, scale = quantize_rows(x)
    return values.double() * scale.double()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_keep_three_bits_of_mantissa(dtype: torch.dtype) -> None:
    x = (torch.randn(50, 64) * torch.logspace(-3, 3, 50)[:, None]).to(dtype)
    values, scale = quantize_rows(x)
    assert (values.dtype, values.shape) == (torch.float8_e4m3fn, (50, 64))
    assert (scale.dtype, scale.shape) == (torch.float32, (50, 1))
    assert torch.equal(values.float().abs().amax(-1), torch.full((50,), 448.0))
    difference = (dequantized(x) - x.double()).abs()
    half_step = torch.maximum(x.double().abs() * 2**-4, scale.double() * 2**-10)  # below 2^-6 the steps are all 2^-9
    assert (difference <= half_step * (1 + 1e-6)).all()
    assert difference.max() > 0


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, 3e38])
def test_rows_of_extreme_size(value: float) -> None:
    x = torch.full((2, 16), value)
    x[1] = 1
    got = dequantized(x)
    torch.testing.assert_close(got[1], torch.ones(16).double(), rtol=1e-7, atol=0)
    assert (got[0] - value).abs().max() <= value * 2**-4 + 1e-38


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_what_is_not_finite_is_seen(bad: float) -> None:
    x = torch.ones(2, 16)
    x[0, 3] = bad
    assert dequantized(x)[0, 3].isnan()
    assert dequantized(x)[1].isfinite().all()


@needs_fp8
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(32,), (1, 32), (7, 32), (2, 5, 3, 32)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layer_is_the_product_of_rounded_matrices(dtype: torch.dtype, shape: tuple[int, ...], bias: bool) -> None:
    linear, x = nn.Linear(32, 48, bias=bias, dtype=dtype), torch.randn(shape).to(dtype)
    got = Fp8Linear(linear)(x)
    assert (got.dtype, got.shape) == (torch.bfloat16, (*shape[:-1], 48))
    expected = dequantized(x.reshape(-1, 32)) @ dequantized(linear.weight.detach()).T
    if bias:
        expected = expected + linear.bias.detach().to(torch.bfloat16).double()
    torch.testing.assert_close(got.double().view(expected.shape), expected, rtol=2**-8, atol=1e-5)
    assert not any(parameter.requires_grad for parameter in Fp8Linear(linear).parameters())


@needs_fp8
def test_layer_of_strided_input_and_compiled() -> None:
    layer, x = Fp8Linear(nn.Linear(32, 48)), torch.randn(5, 2, 64)[..., ::2].transpose(0, 1)
    expected = layer(x.contiguous())
    assert torch.equal(layer(x), expected)
    assert torch.equal(torch.compile(layer, fullgraph=True, backend="aot_eager")(x), expected)


@pytest.mark.parametrize("sizes", [(24, 32), (32, 40)])
def test_layer_of_sizes_that_do_not_fit(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match=f"multiples of 16, got {sizes[0]} to {sizes[1]}"):
        Fp8Linear(nn.Linear(*sizes))


def layers(model: FlowAR, kind: type[nn.Module]) -> set[str]:
    """The names of the layers of one kind, without the number of the block."""
    names = [name for name, layer in model.named_modules() if isinstance(layer, kind)]
    return {".".join(part for part in name.split(".") if not part.isdigit()) for name in names}


def in_fp8(model: FlowAR) -> FlowAR:
    """A copy, its transformers in fp8."""
    model = copy.deepcopy(model)
    to_fp8(model.ar_transformer)
    to_fp8(model.flow_transformer)
    return model


def test_which_layers_change() -> None:
    model = small_model(flow_block="attn_cross_mlp", ar_width=48, flow_width=192)
    ar, flow = "ar_transformer", "flow_transformer"
    quantized = in_fp8(model)
    assert layers(quantized, Fp8Linear) == {
        *(f"{ar}.blocks.{name}" for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2", "modulation")),
        *(f"{flow}.blocks.{name}" for name in ("attn.qkv", "attn.proj", "cross.q", "cross.kv", "cross.proj")),
        *(f"{flow}.blocks.{name}" for name in ("mlp.fc1", "mlp.fc2", "time_modulation", "position_modulation")),
    }
    assert layers(quantized, nn.Linear) == {
        *(f"{ar}.{name}" for name in ("input_proj", "middle_proj")),
        *(f"{flow}.{name}" for name in ("time_embed.mlp", "condition_embed", "input_proj", "output_modulation")),
        f"{flow}.output_proj",
    }
    assert layers(model, Fp8Linear) == set()


def test_layers_of_other_sizes_stay() -> None:
    quantized = in_fp8(small_model())  # widths 32 and 64, hidden 85 and 170
    assert {name for name in layers(quantized, nn.Linear) if ".blocks." in name} == {
        f"{part}_transformer.blocks.mlp.{layer}" for part in ("ar", "flow") for layer in ("fc1", "fc2")
    }


@needs_fp8
@pytest.mark.parametrize("name", TINY)
def test_error_of_a_sample(name: str) -> None:
    """Against bfloat16, relative to the latents' standard deviation: 0.022 for both kinds of block."""
    model = copy.deepcopy(recorded_model(name))
    for layer in model.modules():
        if isinstance(layer, GEGLU):
            pad_hidden(layer)
    quantized = in_fp8(model)
    assert not any(".blocks." in layer for layer in layers(quantized, nn.Linear))
    expected, got = (each.sample([0, 1], 4, dtype=torch.bfloat16, naive=True) for each in (model, quantized))
    relative = float((got - expected).square().mean().sqrt() / expected.std())
    assert 0.002 < relative < 0.03


class Calls(TorchDispatchMode):
    """Counts what PyTorch dispatches."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.skipif(ops.reference_active(), reason="installed without the compiled ops")
@needs_fp8
@pytest.mark.parametrize("name", TINY)
def test_a_plan_dispatches_hardly_more_than_in_bfloat16(name: str) -> None:
    """1.16 and 1.19 times as much."""
    model, counts = recorded_model(name), []
    for dtype in ("bf16", "fp8"):
        model.sample([0, 1], 4, dtype=dtype)  # packs the weights
        with Calls() as calls:
            model.sample([0, 1], 4, dtype=dtype)
        counts.append(calls.count)
    assert 1000 < counts[0] < counts[1] < 1.2 * counts[0]
