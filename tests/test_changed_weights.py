"""No stale numbers: weights that changed in any way, and modules that were replaced, are seen at the next call."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import needs_fp8, small_model
from recorded_graph import CudaApi
from torch import Tensor, nn

from flowar import FlowAR
from flowar.engine import cuda_graph
from flowar.engine import plan as plan_module
from flowar.engine.packed import RUN, Savings, bit_sums

PRECISIONS = ["float32", "bfloat16", "float64", pytest.param("fp8", marks=needs_fp8)]
BLOCKS = ["attn_mlp", "attn_cross_mlp"]


def sample(model: FlowAR, dtype: str) -> Tensor:
    return model.sample([1, 2], 3, 2.0, dtype=dtype)


def some_weight(model: FlowAR) -> nn.Parameter:
    weight = model.flow_transformer.blocks[1].mlp.fc2.weight
    assert isinstance(weight, nn.Parameter)
    return weight


def through_data(model: FlowAR) -> None:
    for parameter in model.parameters():
        parameter.data.mul_(1.25)


def negated_through_data(model: FlowAR) -> None:
    some_weight(model).data.neg_()


def reordered_through_data(model: FlowAR) -> None:
    weight = some_weight(model).data
    weight.copy_(weight.flip(0))


def one_element_through_data(model: FlowAR) -> None:
    some_weight(model).data[-1, -1] += 1


def other_data(model: FlowAR) -> None:
    some_weight(model).data = -some_weight(model).data


def through_numpy(model: FlowAR) -> None:
    some_weight(model).detach().numpy()[:] *= 2


def in_inference_mode(model: FlowAR) -> None:
    with torch.inference_mode():
        some_weight(model).mul_(2)


def by_an_optimizer(model: FlowAR) -> None:
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    model.loss(torch.randn(2, 4, 4, 4), torch.tensor([0, 1])).loss.backward()
    optimizer.step()


def by_load_state_dict(model: FlowAR) -> None:
    model.load_state_dict(small_model(1, **fields_of(model)).state_dict())


def by_apply(model: FlowAR) -> None:
    model._apply(lambda tensor: tensor * 1.25)


def between_unpack_and_prepack(model: FlowAR) -> None:
    through_data(model.unpack())
    model.prepack()


def a_replaced_layer(model: FlowAR) -> None:
    model.flow_transformer.blocks[1].mlp = small_model(1, **fields_of(model)).flow_transformer.blocks[1].mlp


def a_table(model: FlowAR) -> None:
    model.flow_transformer.constants.rotation.data.mul_(0.5)


CHANGES = [
    through_data,
    negated_through_data,
    reordered_through_data,
    one_element_through_data,
    other_data,
    through_numpy,
    in_inference_mode,
    by_an_optimizer,
    by_load_state_dict,
    by_apply,
    between_unpack_and_prepack,
    a_replaced_layer,
    a_table,
]


def fields_of(model: FlowAR) -> dict[str, Any]:
    return {"flow_block": model.config.flow_block, "ar_width": model.config.ar_width}


def check_change(model: FlowAR, change: Callable[[FlowAR], None], dtype: str) -> None:
    """The sample after `change` is another one, that of a copy which packs its weights for the first time."""
    before = sample(model, dtype)
    assert torch.equal(sample(model, dtype), before)
    change(model)
    after = sample(model, dtype)
    assert not torch.equal(after, before)
    assert torch.equal(after, sample(copy.deepcopy(model), dtype))


@pytest.mark.parametrize("flow_block", BLOCKS)
@pytest.mark.parametrize("dtype", PRECISIONS)
@pytest.mark.parametrize("change", CHANGES)
def test_changes_are_seen(change: Callable[[FlowAR], None], dtype: str, flow_block: Any) -> None:
    check_change(small_model(flow_block=flow_block, ar_width=64), change, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("change", [by_load_state_dict, by_apply, between_unpack_and_prepack])
def test_changes_of_a_prepacked_model_are_seen(change: Callable[[FlowAR], None], dtype: str) -> None:
    check_change(small_model().prepack(), change, dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_changes_are_seen_where_scales_are_graphs(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With all savings, as on a GPU."""
    monkeypatch.setattr(cuda_graph, "available", lambda device: True)
    monkeypatch.setattr(plan_module, "memory_budget", lambda device: 2**30)
    monkeypatch.setattr(plan_module, "default_savings", lambda device: Savings())
    CudaApi().install(monkeypatch)
    for change in (through_data, one_element_through_data, other_data, by_load_state_dict):
        check_change(small_model(flow_block="attn_cross_mlp"), change, dtype)


def test_weights_that_stay_are_packed_once() -> None:
    """Training passes, copies and casts of other models change nothing."""
    model = small_model()
    plan = model._plan(model.precision())
    model.loss(torch.randn(2, 4, 4, 4), torch.tensor([0, 1])).loss.backward()
    model.train().eval()
    copy.deepcopy(model).double()
    for parameter in model.parameters():
        parameter.data.mul_(1)
    assert model._plan(model.precision()) is plan


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int8])
@pytest.mark.parametrize("size", [1, 3, 8 * RUN - 1, 8 * RUN, 16 * RUN + 5])
def test_sums_tell_every_bit(dtype: torch.dtype, size: int) -> None:
    data = torch.randint(-100, 100, (size,)).to(dtype)
    sums = bit_sums([data])
    bits = data.view(torch.uint8)
    for place in {0, len(bits) // 2, len(bits) - 1}:
        for bit in range(8):
            bits[place] ^= 1 << bit
            assert not torch.equal(bit_sums([data]), sums)
            bits[place] ^= 1 << bit
    assert torch.equal(bit_sums([data]), sums)


@pytest.mark.parametrize("width", [128, 192, 1024])
@pytest.mark.parametrize("axis", [0, 1])
def test_sums_tell_where_rows_and_columns_are(axis: int, width: int) -> None:
    matrix = torch.randn(300, width)
    sums = bit_sums([matrix])
    for i, j in ((0, 1), (5, 66), (7, 127)):
        order = torch.arange(matrix.shape[axis])
        order[[i, j]] = order[[j, i]]
        assert not torch.equal(bit_sums([matrix.index_select(axis, order)]), sums)


@pytest.mark.parametrize("change", [torch.neg, lambda x: 2 * x, lambda x: 4 * x, lambda x: x + 1, lambda x: x.flip(0)])
def test_sums_tell_of_changes_of_all_elements(change: Callable[[Tensor], Tensor]) -> None:
    for matrix in (torch.ones(512, 512), torch.randn(1024, 64)):
        matrix[0] = 2
        assert not torch.equal(bit_sums([change(matrix)]), bit_sums([matrix]))


def test_sums_of_any_memory() -> None:
    """Strided, empty, scalar, and beginning anywhere in their storage."""
    values = torch.randn(16_001)
    for start in range(4):
        part = torch.zeros(20_000)[start : start + len(values)].copy_(values)
        assert torch.equal(bit_sums([part]), bit_sums([values]))
    square = torch.randn(50, 50)
    assert torch.equal(bit_sums([square.T]), bit_sums([square.T.contiguous()]))
    assert len(bit_sums([torch.empty(0), torch.tensor(1.0)])) == 1
