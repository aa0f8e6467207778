"""The copy that sums the bits of what it copies: bit for bit the definition, and blind to nothing."""

from __future__ import annotations

import pytest
import torch
from op_cases import DTYPES, randn
from test_ops import compiled_only, isa  # noqa: F401 (a fixture)

from flowar import ops
from flowar.ops import reference

BYTES = 8 * reference.RUN


def both(source: torch.Tensor, dtype: torch.dtype) -> None:
    """Assert that op and definition agree on a copy of `source` in `dtype`."""
    mine, theirs = (torch.full(source.shape, 7.0, dtype=dtype) for _ in range(2))
    sums = ops.checked_copy(mine, source)
    assert torch.equal(sums, reference.checked_copy(theirs, source))
    assert sums[-1] == (not source.isfinite().all())
    assert torch.equal(mine.view(torch.uint8), theirs.view(torch.uint8)) or not source.isfinite().all()
    assert torch.equal(mine.isnan(), theirs.isnan())


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("into", DTYPES, ids=str)
def test_as_the_definition(dtype: torch.dtype, into: torch.dtype, isa: str) -> None:  # noqa: F811
    run = BYTES // dtype.itemsize
    for count in (0, 1, 2, 3, 7, run - 1, run, run + 1, 3 * run + 5):
        for offset in (0, 1, 3):
            both(randn(count + offset, dtype=dtype)[offset:], into)


@compiled_only
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_what_is_not_finite_is_seen_everywhere(dtype: torch.dtype, value: float, isa: str) -> None:  # noqa: F811
    count = BYTES // dtype.itemsize + 5
    for place in [*range(9), *range(count - 9, count)]:
        source = torch.full((count,), torch.finfo(dtype).max, dtype=dtype)
        assert ops.checked_copy(torch.empty_like(source), source)[-1] == 0
        source[place] = value
        both(source, dtype)
        both(source, torch.float64)


def test_every_bit_changes_a_sum() -> None:
    source = randn(BYTES // 4 + 3)
    before = ops.checked_copy(torch.empty_like(source), source)
    for bit in range(0, source.nbytes * 8, 67):
        changed = source.clone()
        changed.view(torch.uint8)[bit // 8] ^= 1 << bit % 8
        assert not torch.equal(ops.checked_copy(torch.empty_like(source), changed)[:-1], before[:-1])


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_share_runs(threads: int) -> None:
    count = torch.get_num_threads()
    source = randn(300_001)
    try:
        torch.set_num_threads(threads)
        both(source, torch.float32)
        both(source, torch.bfloat16)
    finally:
        torch.set_num_threads(count)


def test_nothing_is_written_beside_it() -> None:
    buffer, source = torch.full((2000,), 7.0), randn(1500)
    ops.checked_copy(buffer[301:1801], source)
    assert torch.equal(buffer[301:1801], source)
    assert (buffer[:301] == 7).all()
    assert (buffer[1801:] == 7).all()


@pytest.mark.parametrize(
    "source", [torch.arange(9), torch.tensor([True, False]), randn(4, 6).T, randn(3).to(torch.float8_e4m3fn)]
)
def test_what_the_kernel_does_not_take(source: torch.Tensor) -> None:
    out = torch.empty(source.shape, dtype=source.dtype)
    assert len(ops.checked_copy(out, source)) == -(-source.nbytes // 8) + 1
    assert torch.equal(out.float(), source.float())


@compiled_only
@pytest.mark.parametrize(
    ("source", "message"),
    [
        (randn(3, 14)[:, ::2], "source: expected a contiguous tensor, got one with gaps"),
        (torch.ones(3, 7, dtype=torch.int64), "source: expected a floating dtype of 16, 32 or 64 bits"),
    ],
)
def test_refusals_of_the_kernel(source: torch.Tensor, message: str) -> None:
    with pytest.raises(RuntimeError, match=f"flowar::checked_copy: {message}"):
        torch.ops.flowar.checked_copy(torch.empty(3, 7), source)


@compiled_only
def test_opcheck() -> None:
    for into in (torch.float32, torch.bfloat16):
        torch.library.opcheck(torch.ops.flowar.checked_copy, (torch.empty(3, 7, dtype=into), randn(3, 7)))
