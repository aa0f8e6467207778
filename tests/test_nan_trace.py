"""What the trace of a bad step blames: the op that made the first number that is not finite, and no memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from conftest import small_model
from torch import Tensor, nn
from torch.utils import deterministic

from flowar.networks.attention import scale_attention
from flowar.training import nan_trace

NOTHING = nn.Identity()


@pytest.fixture(autouse=True)
def fresh_memory_is_nan() -> Iterator[None]:
    assert deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True)
    try:
        assert torch.empty(1).isnan()
        yield
    finally:
        torch.use_deterministic_algorithms(False)


@torch.library.custom_op("flowar_test::padded_attention", mutates_args=())
def padded_attention(q: Tensor) -> tuple[Tensor, Tensor]:
    """Attention as kernels of GPUs return it: its log-sum-exp lies in more memory than is written."""
    return q.clone(), q.new_empty(len(q) + 3)


@torch.library.custom_op("flowar_test::own_memory", mutates_args=())
def own_memory(x: Tensor) -> Tensor:
    """An op that allocates what it returns, and writes it."""
    return torch.empty_like(x).copy_(x)


@torch.library.custom_op("flowar_test::divide_into", mutates_args=("out",))
def divide_into(x: Tensor, y: Tensor, out: Tensor) -> None:
    """x / y, in the memory of `out`."""
    out.copy_(x / y)


def partly_written() -> Tensor:
    memory = torch.empty(2, 3)
    memory[0] = 1
    memory[1, :2] += 1
    return memory.view(-1)


def overlapping_parts() -> None:
    """The gradient of `attention.Parts` is written part by part."""
    qkv = torch.randn(3, 1, 5, 2, 4, requires_grad=True)
    scale_attention(qkv, (1, 4), causal=True).sum().backward()


NOT_BLAMED: dict[str, Callable[[], object]] = {
    "empty": lambda: torch.empty(2, 3),
    "Tensor": lambda: torch.Tensor(2, 3),
    "empty_like": lambda: torch.empty_like(torch.ones(2)),
    "empty_strided": lambda: torch.empty_strided((2, 3), (1, 2)),
    "empty_permuted": lambda: torch.empty_permuted((2, 3), (1, 0)),
    "new_empty": lambda: torch.ones(1).new_empty(3),
    "new_empty_strided": lambda: torch.ones(1).new_empty_strided((2, 3), (3, 1)),
    "complex": lambda: torch.empty(2, dtype=torch.complex64)[0],
    "resize_": lambda: torch.ones(2).resize_(5)[1:],
    "resize_as_": lambda: torch.ones(2).resize_as_(torch.ones(2, 3)),
    "slice": lambda: torch.empty(4)[1:3],
    "view": lambda: torch.empty(4).view(2, 2).transpose(0, 1).unbind(),
    "as_strided": lambda: torch.empty(4).as_strided((2,), (2,)).expand(3, 2),
    "a reshape that copies": lambda: torch.empty(2, 3).T.reshape(-1),
    "clone": lambda: torch.empty(2).clone(),
    "partly written": partly_written,
    "out": lambda: torch.add(torch.ones(2), 1, out=torch.empty(2)),
    "out of another size": lambda: torch.cat((torch.ones(2), torch.ones(3)), out=torch.empty(0)),
    "own memory": lambda: own_memory(torch.ones(3)),
    "what attention keeps": lambda: padded_attention(torch.ones(2)),
    "parts of attention": overlapping_parts,
}


@pytest.mark.parametrize("work", NOT_BLAMED.values(), ids=NOT_BLAMED)
def test_memory_is_not_blamed(work: Callable[[], object]) -> None:
    assert nan_trace.trace(NOTHING, work) is None


@pytest.mark.parametrize(
    "work",
    [
        lambda memory: memory[1:].view(-1),
        lambda memory: memory.T.unbind(),
        lambda memory: torch.mul(torch.ones(2, 2), 2, out=memory),
        lambda memory: memory.zero_(),
    ],
)
def test_older_memory_is_not_blamed(work: Callable[[Tensor], object]) -> None:
    memory = torch.full((2, 2), torch.nan)
    assert nan_trace.trace(NOTHING, lambda: work(memory)) is None


BLAMED: dict[str, tuple[Callable[[], object], str]] = {
    "result": (lambda: torch.tensor([-1.0]).log().view(-1) + 1, "aten.log gave numbers that are not finite, from f"),
    "in place": (lambda: torch.ones(2).mul_(torch.inf), "aten.mul_ gave numbers that are not finite, from finite"),
    "out": (
        lambda: torch.div(torch.ones(2), 0, out=torch.empty(2)),
        "aten.div gave numbers that are not finite, from f",
    ),
    "into a slice": (lambda: torch.empty(4)[1:].copy_(torch.ones(3)).log_().sub_(1).sqrt(), "aten.sqrt"),
    "filled": (lambda: torch.empty(4).fill_(torch.inf), "aten.fill_ gave numbers that are not finite, from finite"),
    "a list": (lambda: torch._foreach_div([torch.ones(1), torch.ones(2)], 0.0), "aten._foreach_div"),
    "no result": (
        lambda: divide_into(torch.ones(2), torch.zeros(2), torch.empty(2)),
        "flowar_test.divide_into gave numbers that are not finite, from finite arguments [[2]]",
    ),
    "complex": (lambda: torch.ones(2, dtype=torch.complex64) / 0, "aten.div"),
    "attention": (lambda: padded_attention(torch.tensor([1.0, -1.0]).sqrt()), "aten.sqrt"),
}


@pytest.mark.parametrize(("work", "found"), BLAMED.values(), ids=BLAMED)
def test_the_op_that_made_the_number_is_blamed(work: Callable[[], object], found: str) -> None:
    assert f"op {found}" in str(nan_trace.trace(NOTHING, work))


def test_numbers_that_came_from_elsewhere() -> None:
    weights = torch.tensor([[1.0, torch.nan]])
    found = nan_trace.trace(NOTHING, lambda: torch.ones(1, 2) @ weights.T)
    assert found is not None
    assert "op aten.mm gave numbers that are not finite, from arguments that were not [[1, 1]]" in found


def test_attention_itself_is_blamed() -> None:
    q = torch.full((1, 1, 2, 4), torch.nan)
    found = nan_trace.trace(NOTHING, lambda: nn.functional.scaled_dot_product_attention(q, q, q))
    assert found is not None
    assert "attention" in found


@pytest.mark.parametrize("flow_block", ["attn_mlp", "attn_cross_mlp"])
def test_a_good_pass(flow_block: str) -> None:
    model = small_model(flow_block=flow_block, dropout=0.1).train()
    latents, labels = torch.randn(2, 4, 4, 4), torch.tensor([0, 1])
    assert nan_trace.trace(model, lambda: model.loss(latents, labels).loss.backward()) is None
