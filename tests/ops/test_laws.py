"""What must hold whatever the numbers are."""

from __future__ import annotations

import threading

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from op_cases import randn

from flowar import ops
from flowar.ops import reference


@pytest.fixture(params=["compiled", "reference"], autouse=True)
def implementation(request: pytest.FixtureRequest) -> object:
    if request.param == "compiled":
        yield
    else:
        with ops.use_reference():
            yield


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_zero_modulation_is_the_plain_norm(norm: str) -> None:
    x, zero = randn(2, 3, 33), torch.zeros(33)
    torch.testing.assert_close(ops.spatial_adaln(x, zero, zero, norm), reference.normalize(x, norm, 1e-6))


@pytest.mark.parametrize("norm", ["rms", "layer"])
def test_the_norm_ignores_the_size_of_its_input(norm: str) -> None:
    x, scale, shift = randn(2, 3, 33), randn(2, 3, 33, seed=1), randn(2, 3, 33, seed=2)
    torch.testing.assert_close(
        ops.spatial_adaln(1000 * x, scale, shift, norm), ops.spatial_adaln(x, scale, shift, norm)
    )


def test_a_closed_gate_leaves_the_residual_stream() -> None:
    x, branch, scale, shift = (randn(2, 3, 33, seed=i) for i in range(4))
    total, out = ops.spatial_adaln_residual(x, torch.zeros(33), branch, scale, shift)
    assert torch.equal(total, x)
    torch.testing.assert_close(out, ops.spatial_adaln(x, scale, shift))


def test_every_float8_survives_quantization() -> None:
    """Rows that hold each number of the format, times a power of two, come back as they are."""
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    numbers = numbers[numbers.isfinite()]
    for power in (-20, 0, 20):
        values, scale = ops.quantize_rows((numbers * 2.0**power).expand(3, -1))
        assert torch.equal(values.float(), numbers.expand(3, -1))
        assert torch.equal(scale, torch.full((3, 1), 2.0**power))


def halfway(numbers: torch.Tensor) -> torch.Tensor:
    """Half way between each two neighbours of the numbers, and the float32 below and above that."""
    numbers = numbers.unique()
    middle = (numbers[1:] + numbers[:-1]) / 2
    infinity = torch.tensor(torch.inf)
    return torch.cat([middle, torch.nextafter(middle, -infinity), torch.nextafter(middle, infinity)])


def test_float8_rounds_to_nearest_even() -> None:
    numbers = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn).float()
    x = torch.cat([torch.tensor([448.0]), halfway(numbers[numbers.isfinite()])])
    values, scale = ops.quantize_rows(x[None])
    assert scale == 1
    assert torch.equal(values.view(torch.uint8)[0], x.to(torch.float8_e4m3fn).view(torch.uint8))


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_float8_of_what_is_not_finite(value: float) -> None:
    """An element makes no other one finite that is not."""
    values, scale = ops.quantize_rows(torch.tensor([[1.0, value, -2.0], [1.0, -2.0, 3.0]]))
    product = values.float() * scale
    assert product[0].isnan().any()
    assert not product[0, 1].isfinite()
    assert product[1].isfinite().all()


def test_quantized_rows_do_not_depend_on_their_size_or_neighbours() -> None:
    x = randn(2, 3, 33)
    values, scale = ops.quantize_rows(x)
    larger, larger_scale = ops.quantize_rows(4 * x[1:])
    assert torch.equal(larger.float(), values[3:].float())
    assert torch.equal(larger_scale, 4 * scale[3:])


def test_rotation_keeps_lengths_and_composes() -> None:
    packed, angles = randn(2, 5, 2 * 8), randn(5, 4)
    rotation, back = (torch.stack((a.cos(), a.sin()), -1) for a in (angles, -angles))
    rotated = ops.rotary_qkv(packed, rotation, 2, parts=1)[0]
    torch.testing.assert_close(rotated.norm(dim=-1), packed.unflatten(-1, (2, 8)).norm(dim=-1))
    again = ops.rotary_qkv(rotated.flatten(2), back, 2, parts=1)[0]
    torch.testing.assert_close(again.flatten(2), packed)


def test_scale_by_scale_caching_is_one_pass() -> None:
    packed, rotation = randn(2, 7, 3 * 16), randn(7, 4, 2)
    k_cache, v_cache = torch.zeros(2, 2, 7, 2, 8)
    q = [
        ops.rotary_qkv_cache(packed[:, a:b], rotation[a:b], 2, k_cache, v_cache, a) for a, b in [(0, 1), (1, 5), (5, 7)]
    ]
    assert torch.equal(torch.stack((torch.cat(q, 1), k_cache, v_cache)), ops.rotary_qkv(packed, rotation, 2))


def averaging(out: int, size: int) -> torch.Tensor:
    """Rows that sum to one, like those of every resampling operator."""
    return torch.softmax(4 * randn(out, size), -1)


def test_a_constant_image_stays_constant() -> None:
    tokens = randn(2, 1, 5).expand(2, 12, 5)
    resampled = ops.latent_resample(tokens, averaging(6, 3), averaging(2, 4))
    torch.testing.assert_close(resampled, tokens[:, :1].expand(2, 12, 5))


def test_the_identity_changes_nothing() -> None:
    tokens = randn(2, 12, 5)
    assert torch.equal(ops.latent_resample(tokens, torch.eye(3), torch.eye(4)), tokens)


def test_a_pyramid_is_its_levels() -> None:
    latents = randn(2, 5, 3, 4)
    operators = [(averaging(n, 3), averaging(n + 1, 4)) for n in (1, 2, 7)]
    tokens = latents.flatten(2).transpose(1, 2)
    levels = [ops.latent_resample(tokens, rows, columns) for rows, columns in operators]
    torch.testing.assert_close(
        ops.latent_pyramid(latents, *map(list, zip(*operators, strict=True))), torch.cat(levels, 1)
    )


def test_no_step_changes_nothing() -> None:
    state = randn(2, 3, 5)
    before, following = state.clone(), torch.empty(4, 3, 5)
    ops.velocity_step(state, randn(4, 3, 5), 0.0, 3.0, following)
    assert torch.equal(state, before)
    assert torch.equal(following, before.repeat(2, 1, 1))


def test_guidance_of_one_is_the_conditional_velocity() -> None:
    velocity = randn(4, 3, 5)
    guided, plain = torch.zeros(2, 3, 5), torch.zeros(2, 3, 5)
    ops.velocity_step(guided, velocity, 1.0, 1.0)
    ops.velocity_step(plain, velocity[:2], 1.0, 7.0)
    torch.testing.assert_close(guided, plain)


def test_silu_and_gelu_at_their_limits() -> None:
    x = torch.tensor([-torch.inf, -1e30, -200.0, -0.0, 0.0, 200.0, 1e30, torch.nan])
    for result, square in [(ops.silu_add(x[1:], torch.zeros(1)), False), (ops.geglu(torch.stack((x, x), 1)), True)]:
        wanted = torch.where(x > 0, x * x if square else x, 0.0)[-len(result) :]
        torch.testing.assert_close(result.flatten()[-7:-1], wanted.flatten()[-7:-1], rtol=1e-6, atol=1e-30)
        assert result.flatten()[-1].isnan()


def test_every_16_bit_number_survives() -> None:
    """Widening and narrowing are exact on all float16 and bfloat16 values, and round to nearest even between them."""
    bits = torch.arange(-(2**15), 2**15).to(torch.int16)
    for dtype in (torch.float16, torch.bfloat16):
        x = bits.view(dtype)
        x = x[x.isfinite()]
        wide = torch.zeros(1, 1, len(x))
        ops.velocity_step(wide, x.view(1, 1, -1), 1.0, 1.0)
        assert torch.equal(wide.flatten(), x.float())
        largest = torch.finfo(dtype).max * (1 + torch.arange(-2, 3) * torch.finfo(dtype).eps / 4)
        beyond = torch.tensor([torch.inf, 3.4e38, 65519.99, 65520.0, torch.nan])
        between = torch.cat([halfway(x.float()), largest, beyond, -beyond])[None, None]
        following = torch.empty_like(between, dtype=dtype)
        ops.velocity_step(between, torch.zeros_like(between), 1.0, 1.0, following)
        torch.testing.assert_close(following, between.to(dtype), rtol=0, atol=0, equal_nan=True)
        ops.velocity_step(between.zero_(), between.add(torch.inf).to(dtype), 1.0, 1.0)
        assert (between == torch.inf).all()


def test_noise_is_normal() -> None:
    x = ops.counter_normal(torch.arange(20), 3, 5000).flatten().double()
    quantiles = torch.special.ndtri(torch.linspace(0.001, 0.999, 999, dtype=torch.float64))
    empirical = torch.searchsorted(x.sort().values, quantiles) / len(x)
    assert (empirical - torch.linspace(0.001, 0.999, 999, dtype=torch.float64)).abs().max() < 1.95 / len(x) ** 0.5
    assert x.unfold(0, 2, 1).prod(-1).mean().abs() < 4 / len(x) ** 0.5


@settings(max_examples=25, deadline=None)
@given(st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**32 - 1), st.integers(0, 60), st.integers(0, 60))
def test_noise_depends_on_seed_stream_and_index_alone(seed: int, stream: int, count: int, more: int) -> None:
    row = ops.counter_normal(torch.tensor([seed]), stream, count + more)
    assert torch.equal(ops.counter_normal(torch.tensor([1, seed]), stream, count)[1], row[0, :count])


def test_the_choice_of_implementation_is_per_thread() -> None:
    seen = []
    with ops.use_reference():
        assert ops.implementation() == "reference"
        thread = threading.Thread(target=lambda: seen.append(ops.implementation()))
        thread.start()
        thread.join()
        with ops.use_reference():
            pass
        assert ops.reference_active()
    assert seen == [ops.implementation()] or ops.reference_active()
