"""What sampling leaves behind: the model and the pipeline as they were before the call."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from conftest import small_model
from torch import Tensor

from flowar import FlowAR, FlowARPipeline
from flowar.tokenizers.pixel import PixelTokenizer

DTYPES = ["float32", "bfloat16", "float64"]
BLOCKS = ["attn_mlp", "attn_cross_mlp"]


def pipeline(**fields: Any) -> FlowARPipeline:
    return FlowARPipeline(small_model(latent_channels=16, **fields), PixelTokenizer(1))


def sample(model: FlowAR | FlowARPipeline, dtype: str) -> Tensor:
    return model.sample([1, 2], num_inference_steps=3, guidance_scale=2.0, dtype=dtype)


def by_torch_save(model: Any) -> Any:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


COPIES: dict[str, Callable[[Any], Any]] = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda model: pickle.loads(pickle.dumps(model)),
    "torch.save": by_torch_save,
}


def state(model: FlowAR) -> list[tuple[Any, ...]]:
    """All that a user may hold on to: modules, parameters, buffers and settings, by identity."""
    modules = [(name, id(module), type(module), module.training) for name, module in model.named_modules()]
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return modules + [(name, id(t), t.data_ptr(), t.dtype, t._version, t.requires_grad) for name, t in tensors]


@pytest.mark.parametrize("flow_block", BLOCKS)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("dtype", "naive"), [*((dtype, False) for dtype in DTYPES), ("float32", True), ("bfloat16", True)]
)
def test_modules_and_parameters_are_the_same_objects(flow_block: str, training: bool, dtype: str, naive: bool) -> None:
    model = small_model(flow_block=flow_block).train(training)
    before, weights = state(model), copy.deepcopy(model.state_dict())
    model.sample([1, 2], 3, 2.0, dtype=dtype, naive=naive)
    assert state(model) == before
    assert all(torch.equal(weights[name], each) for name, each in model.state_dict().items())


@pytest.mark.parametrize("dtype", DTYPES)
def test_calling_a_pipeline_leaves_it(dtype: str) -> None:
    """With previews of every evaluation too."""
    pipe = pipeline()
    before, attributes = state(pipe.model), {**vars(pipe)}
    pipe([1, 2], 3, 2.0, dtype=dtype, preview=lambda k, images: None, preview_steps=True)
    assert state(pipe.model) == before
    assert vars(pipe) == attributes


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("how", COPIES)
@pytest.mark.parametrize("make", [small_model, pipeline])
def test_copies_sample_the_same(dtype: str, how: str, make: Callable[[], FlowAR | FlowARPipeline]) -> None:
    """And are of their own: what happens to a copy does not happen to the original."""
    original = make()
    expected = sample(original, dtype)
    twin = COPIES[how](original)
    assert torch.equal(sample(twin, dtype), expected)
    model = twin.model if isinstance(twin, FlowARPipeline) else twin
    with torch.no_grad():
        next(model.parameters()).add_(1)
    assert torch.equal(sample(original, dtype), expected)
    assert not torch.equal(sample(twin, dtype), expected)


def test_a_copied_pipeline_decodes_by_its_own_tokenizer() -> None:
    original = pipeline()
    original([1], 2)
    for copied in (each(original) for each in COPIES.values()):
        assert copied._decode.function.__self__ is copied
        assert copied.tokenizer is not original.tokenizer


@pytest.mark.parametrize("dtype", DTYPES)
def test_optimizers_go_on(dtype: str) -> None:
    """One made before the call and one made after it train the weights that are sampled next."""
    model = small_model()
    before = torch.optim.SGD(model.parameters(), 0.1)
    first = sample(model, dtype)
    after = torch.optim.SGD(model.parameters(), 0.1)
    for optimizer in (before, after):
        optimizer.zero_grad()
        model.loss(torch.randn(2, 4, 4, 4), torch.tensor([0, 1])).loss.backward()
        optimizer.step()
        latents = sample(model, dtype)
        assert not torch.equal(latents, first)
        assert torch.equal(latents, sample(copy.deepcopy(model), dtype))
        first = latents


@pytest.mark.parametrize("dtype", DTYPES)
def test_it_moves_after_a_call(dtype: str) -> None:
    model, moved = small_model(), small_model().double()
    sample(model, dtype)
    assert {each.dtype for each in model.to(torch.float64).parameters()} == {torch.float64}
    assert torch.equal(sample(model, dtype), sample(moved, dtype))
    assert all(each.is_meta for each in model.to("meta").parameters())
