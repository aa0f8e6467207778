"""Every op against its definition: values, gradients, dtypes, strides, instruction sets, and torch.compile."""

from __future__ import annotations

from collections.abc import Iterator

import op_cases as cases
import pytest
import torch
from op_cases import CASES, DIFFERENTIABLE, DTYPES, EMPTY, SHAPES, randn

from flowar import ops
from flowar.ops import reference

compiled_only = pytest.mark.skipif(ops.reference_active(), reason="installed without the compiled ops")


@pytest.fixture(params=["baseline", "avx2", "avx512"])
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    if ops.reference_active():
        pytest.skip("installed without the compiled ops")
    before = ops.cpu_isa()
    try:
        ops.cpu_isa(request.param)
    except RuntimeError:
        pytest.skip(f"this processor lacks {request.param}")
    yield request.param
    ops.cpu_isa(before)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "kind"), cases.variants())
def test_forward(name: str, kind: str, dtype: torch.dtype) -> None:
    for shape in SHAPES + EMPTY:
        arguments = CASES[name][1](shape, dtype, kind)
        ours, eager = cases.call(name, arguments), cases.call(name, arguments, reference)
        for mine, theirs in zip(*(r if isinstance(r, tuple) else (r,) for r in (ours, eager)), strict=True):
            assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
            assert mine.is_contiguous()
        cases.assert_close(ours, eager, cases.call(name, cases.exact(arguments), reference), dtype)


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_accuracy_on_every_instruction_set(name: str, dtype: torch.dtype, isa: str) -> None:
    """The tolerance rule as it stands, on enough numbers that neither side is lucky."""
    arguments = CASES[name][1]((4, 12, 259), dtype, "packed")
    eager, exact = cases.call(name, arguments, reference), cases.call(name, cases.exact(arguments), reference)
    cases.assert_close(cases.call(name, arguments), eager, exact, dtype, slack=0)


@pytest.mark.parametrize(
    ("name", "kind"), [variant for variant in cases.variants(list(DIFFERENTIABLE)) if variant[1] != "expanded"]
)
def test_gradcheck(name: str, kind: str) -> None:
    """In float64. gradcheck itself refuses expanded arguments; `test_gradients` has them."""
    arguments = CASES[name][1]((2, 3, 5), torch.float64, kind)
    count = len(arguments) if name in cases.MODULATED else 1
    tensors = [x.detach().requires_grad_() for x in arguments[:count] if isinstance(x, torch.Tensor)]
    rest = arguments[len(tensors) :]
    assert torch.autograd.gradcheck(lambda *x: cases.call(name, (*x, *rest)), tensors)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("name", "kind"), cases.variants(list(DIFFERENTIABLE)))
def test_gradients(name: str, kind: str, dtype: torch.dtype) -> None:
    for shape in [(2, 3, 17), (1, 5, 64), (2, 0, 8)]:
        arguments = CASES[name][1](shape, dtype, kind)
        every = [(arguments, ops), (arguments, reference), (cases.exact(arguments), reference)]
        ours, eager, exact = (cases.gradients(name, *each) for each in every)
        for mine, theirs, truth in zip(ours, eager, exact, strict=True):
            assert (mine.shape, mine.dtype) == (theirs.shape, theirs.dtype)
            cases.assert_close(mine, theirs, truth, dtype, slack=4)


@compiled_only
@pytest.mark.parametrize("name", DIFFERENTIABLE)
def test_gradients_on_every_instruction_set(name: str, isa: str) -> None:
    arguments = CASES[name][1]((4, 12, 67), torch.float32, "per_image" if name in cases.MODULATED else "packed")
    every = [(arguments, ops), (arguments, reference), (cases.exact(arguments), reference)]
    ours, eager, exact = (cases.gradients(name, *each) for each in every)
    for mine, theirs, truth in zip(ours, eager, exact, strict=True):
        cases.assert_close(mine, theirs, truth, torch.float32, slack=4)


@compiled_only
def test_threads_share_rows() -> None:
    """Enough rows that several threads work, with sums over tokens that must stay within one of them."""
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            arguments = cases.spatial_adaln_residual((7, 65, 257), torch.float32, "per_image")
            results.append(cases.flat(cases.gradients("spatial_adaln_residual", arguments, ops)))
            results.append(ops.counter_normal(torch.arange(9), 1, 20000).double().flatten())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0], results[2])
    assert torch.equal(results[1], results[3])


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("name", cases.MODULATED)
def test_mixed_dtypes(name: str, low: torch.dtype) -> None:
    """A float32 residual stream beside 16-bit modulation and branch, as under autocast, and the other way round."""
    shape = (2, 5, 33)
    wide, narrow = (CASES[name][1](shape, dtype, "packed") for dtype in (torch.float32, low))
    for arguments in [(wide[0], *narrow[1:]), (narrow[0], *wide[1:])]:
        ours, eager = cases.call(name, arguments), cases.call(name, arguments, reference)
        dtypes = [[x.dtype for x in (r if isinstance(r, tuple) else (r,))] for r in (ours, eager)]
        assert dtypes[0] == dtypes[1]
        exact = cases.call(name, cases.exact(arguments), reference)
        cases.assert_close(ours, eager, exact, torch.float32, slack=4)
        grads = [cases.gradients(name, arguments, module) for module in (ops, reference)]
        truth = cases.gradients(name, cases.exact(arguments), reference)
        for mine, theirs, true in zip(*grads, truth, strict=True):
            assert mine.dtype == theirs.dtype
            cases.assert_close(mine, theirs, true, mine.dtype, slack=4)


@compiled_only
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "kind"), cases.variants())
def test_opcheck(name: str, kind: str, dtype: torch.dtype) -> None:
    arguments = list(CASES[name][1]((2, 3, 8), dtype, kind))
    if name.startswith("spatial"):
        arguments[-2] = arguments[-2] == "layer"
    if name in DIFFERENTIABLE:
        arguments[0] = arguments[0].clone().requires_grad_()
    torch.library.opcheck(getattr(torch.ops.flowar, CASES[name][0]), tuple(arguments))


@compiled_only
def test_opcheck_of_the_rest() -> None:
    packed, rotation = cases.rotary((2, 3, 4), torch.float32, 3)
    k_cache, v_cache = torch.zeros(2, 2, 9, cases.HEADS, 8)
    state, velocity, following = randn(2, 3, 5), randn(4, 3, 5), torch.zeros(4, 3, 5, dtype=torch.bfloat16)
    for name, arguments in {
        "rotary_qkv_cache": (packed, rotation, cases.HEADS, k_cache, v_cache, 4),
        "velocity_step": (state, velocity, -0.1, 2.0, following),
        "counter_normal": (torch.tensor([1, 2]), 3, 10),
        "spatial_adaln_backward": (*(randn(2, 3, 8) for _ in range(2)), randn(2, 1, 8), True, 1e-6),
        "spatial_adaln_residual_backward": (*(randn(2, 3, 8) for _ in range(6)), False, 1e-6),
        "silu_add_backward": (randn(2, 3, 8), randn(2, 3, 8), randn(8)),
        "geglu_backward": (randn(2, 3, 4), randn(2, 3, 8)),
        "rotary_qkv_backward": (randn(3, 2, 5, 2, 8), randn(5, 4, 2)),
    }.items():
        torch.library.opcheck(getattr(torch.ops.flowar, name), arguments)


@pytest.mark.parametrize("name", CASES)
def test_compile(name: str) -> None:
    """One graph, forward and backward, and the reference inside `use_reference`."""
    torch._dynamo.reset()  # every case compiles the same lambda; together they pass its limit of recompilations
    arguments = CASES[name][1]((2, 3, 8), torch.float32, "packed")
    function = torch.compile(lambda *x: cases.call(name, x), fullgraph=True, backend="aot_eager")
    expected = cases.call(name, arguments)
    assert torch.equal(cases.flat(function(*arguments)), cases.flat(expected))
    with ops.use_reference():
        # Not bit for bit: the compiler may break PyTorch's own functions down into others.
        torch.testing.assert_close(
            cases.flat(function(*arguments)), cases.flat(cases.call(name, arguments, reference)), rtol=1e-5, atol=1e-6
        )
    if name in DIFFERENTIABLE:
        first = arguments[0].clone().requires_grad_()
        result = function(first, *arguments[1:])
        torch.cat([x.flatten() for x in (result if isinstance(result, tuple) else (result,))]).sum().backward()
        assert first.grad is not None
        assert first.grad.isfinite().all()


def test_compile_of_the_rest() -> None:
    @torch.compile(fullgraph=True, backend="aot_eager")
    def step(state: torch.Tensor, velocity: torch.Tensor, seeds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        following = torch.empty(2, 3, 5, dtype=torch.bfloat16)
        ops.velocity_step(state, velocity, -0.5, 1.0, following)
        return following, ops.counter_normal(seeds, 1, 7)

    state, velocity, seeds = randn(2, 3, 5), randn(2, 3, 5, seed=1), torch.tensor([3, 4])
    expected = state - 0.5 * velocity
    following, normals = step(state, velocity, seeds)
    torch.testing.assert_close(state, expected)
    torch.testing.assert_close(following, expected.bfloat16())
    torch.testing.assert_close(normals, reference.counter_normal(seeds, 1, 7))


@pytest.mark.parametrize("cache_dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("transposed", [False, True])
def test_rotary_qkv_cache(dtype: torch.dtype, cache_dtype: torch.dtype, transposed: bool) -> None:
    """k and v land at their place, in the cache's dtype and layout, and nowhere else."""
    packed, rotation = cases.rotary((2, 3, 4), dtype, 3)
    results = []
    for module in (ops, reference):
        shape = (2, 2, cases.HEADS, 9, 8) if transposed else (2, 2, 9, cases.HEADS, 8)
        cache = torch.full(shape, 7.0, dtype=cache_dtype)
        k_cache, v_cache = cache.transpose(2, 3) if transposed else cache
        q = module.rotary_qkv_cache(packed, rotation, cases.HEADS, k_cache, v_cache, 4)
        assert q.is_contiguous()
        assert (k_cache[:, :4] == 7).all()
        assert (v_cache[:, 7:] == 7).all()
        results.append((q, k_cache, v_cache))
    exact = reference.rotary_qkv(packed.double(), rotation.double(), cases.HEADS)
    for mine, theirs, truth in zip(*results, exact, strict=True):
        window = slice(None) if mine.shape[1] == 3 else slice(4, 7)
        low = max((dtype, mine.dtype), key=lambda d: torch.finfo(d).eps)
        cases.assert_close(mine[:, window], theirs[:, window], truth, low, slack=1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("guided", [False, True])
@pytest.mark.parametrize("copies", [0, 1, 2])
@pytest.mark.parametrize("contiguous", [False, True])
def test_velocity_step(dtype: torch.dtype, guided: bool, copies: int, contiguous: bool) -> None:
    for batch, tokens, channels in [(1, 1, 1), (2, 3, 16), (3, 7, 67), (2, 5, 1031), (0, 3, 4)]:
        shape = (batch * (1 + guided), tokens, channels)
        velocity = randn(*shape, dtype=dtype) if contiguous else cases.activation(shape, dtype, 1)
        results = []
        for module in (ops, reference):
            buffer = randn(batch, tokens + 1, channels, seed=2, dtype=torch.float32)
            state = buffer[:, 1:].contiguous() if contiguous else buffer[:, 1:]
            following = torch.zeros(copies * batch, tokens, channels, dtype=dtype) if copies else None
            assert module.velocity_step(state, velocity, -0.25, 3.5, following) is None
            assert torch.equal(buffer[:, 0], randn(batch, tokens + 1, channels, seed=2)[:, 0])
            results.append([state] if following is None else [state, following])
        exact = randn(batch, tokens + 1, channels, seed=2)[:, 1:].double().contiguous()
        reference.velocity_step(exact, velocity.double(), -0.25, 3.5)
        for mine, theirs in zip(*results, strict=True):
            truth = exact.repeat(mine.shape[0] // max(batch, 1), 1, 1)
            cases.assert_close(mine, theirs, truth, mine.dtype if mine.dtype != torch.float64 else torch.float32, 4)


@pytest.mark.parametrize("count", [0, 1, 3, 4, 1023, 1025, 5456])
def test_counter_normal(count: int) -> None:
    """The same as the definition up to the last place, at any number of seeds."""
    seeds = torch.tensor([0, 1, -1, 2**62 + 12345, -(2**63)])
    ours, theirs = ops.counter_normal(seeds, 2**32 - 1, count), reference.counter_normal(seeds, 2**32 - 1, count)
    assert ours.dtype == torch.float32
    last_place = (torch.nextafter(theirs, torch.tensor(torch.inf)) - theirs).abs()
    assert ((ours - theirs).abs() <= last_place).all()
    assert torch.equal(ops.counter_normal(seeds[2:3], 2**32 - 1, count), ours[2:3])
    assert ops.counter_normal(seeds[:0], 1, count).shape == (0, count)


@compiled_only
def test_counter_normal_on_every_instruction_set(isa: str) -> None:
    seeds = torch.arange(4)
    torch.testing.assert_close(
        ops.counter_normal(seeds, 5, 3000), reference.counter_normal(seeds, 5, 3000), rtol=2**-22, atol=0
    )


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("offset", range(9))
def test_misaligned_views(dtype: torch.dtype, offset: int) -> None:
    """Inputs at every element offset of a buffer; state and next_input written between sentinels."""
    for name in CASES:
        arguments = cases.CASES[name][1]((2, 3, 17), dtype, "packed")

        def shifted(x: torch.Tensor) -> torch.Tensor:
            buffer = x.new_full((x.numel() + 16,), torch.nan)
            return buffer[offset : offset + x.numel()].view(x.shape).copy_(x)

        moved = cases.tree_map(shifted, arguments)
        assert torch.equal(cases.flat(cases.call(name, moved)), cases.flat(cases.call(name, arguments))), name
    buffer = torch.full((2, 100), 9.0)
    state, following = buffer[0, offset : offset + 30].view(2, 3, 5), buffer[1, offset : offset + 60].view(4, 3, 5)
    ops.velocity_step(state, randn(2, 3, 5, dtype=dtype), 0.5, 1.0, following)
    assert torch.equal(following, state.repeat(2, 1, 1))
    for row, size in zip(buffer, (30, 60), strict=True):
        assert (torch.cat((row[:offset], row[offset + size :])) == 9).all()
