"""What `test_emulated.py` runs upon emulated kernels beside the tests of other files."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from conftest import TINY, error, inference_plan, recorded_model, recording, small_model
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from flowar import ops
from flowar.system.precision import PRECISIONS, served_precisions


class Launched(TorchDispatchMode):
    """Collects the ops of flowar whose calls launched emulated kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.ops: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = torch.ops.flowar_emulation.launches()
        result = func(*args, **(kwargs or {}))
        if func.namespace == "flowar" and torch.ops.flowar_emulation.launches() > before:
            self.ops.add(func._schema.name)
        return result


def ops_on_gpus() -> set[str]:
    """Of the schema in `csrc/ops.cpp`, those that take tensors and do not load files."""
    schemas = [each for each in torch._C._jit_get_all_schemas() if each.name.startswith("flowar::")]
    of_tensors = {each.name for each in schemas if any("Tensor" in str(argument.type) for argument in each.arguments)}
    return of_tensors - {"flowar::checked_copy"}


def test_sampling_and_training_launch_every_op() -> None:
    dtypes = {"float32", "bfloat16", "fp8"} & {*served_precisions(torch.device("cpu"))}
    with Launched() as launched:
        for flow_block in ("attn_mlp", "attn_cross_mlp"):
            model = small_model(flow_block=flow_block)
            for dtype in dtypes:
                model.sample([0, 1], 2, dtype=dtype)
            inference_plan(model, PRECISIONS["fp8"])  # rounds weights, also where this torch does not multiply them
            model.loss(torch.randn(2, 4, 4, 4), torch.arange(2)).loss.backward()
    assert len(launched.ops) >= 15
    assert launched.ops == ops_on_gpus()


@pytest.mark.parametrize("name", TINY)
def test_loss_and_gradients_are_those_of_the_definition(name: str) -> None:
    recorded, model = recording(name), recorded_model(name)

    def step() -> dict[str, Tensor]:
        model.zero_grad()
        out = model.loss(*(recorded[f"train.{part}"] for part in ("latents", "labels", "noise", "times")))
        out.loss.backward()
        gradients = {name: each.grad.clone() for name, each in model.named_parameters() if each.grad is not None}
        return gradients | {"loss": out.loss.detach()}

    ours = step()
    with ops.use_reference():
        expected = step()
    assert ours.keys() == expected.keys()
    assert len(ours) == 1 + len([*model.parameters()])
    for each in ours:
        assert error(ours[each], expected[each]) < 1e-4, each
