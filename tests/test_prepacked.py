"""Linear layers in oneDNN's layout: the same numbers and files, and a way back."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import error, inference_plan, needs_fp8, small_model
from safetensors.torch import load_file
from torch import nn

from flowar import FlowAR, Schedule
from flowar.engine.onednn_linear import PrepackedLinear, prepack, supported, unpack
from flowar.pipeline import FlowARPipeline

SCHEDULE = Schedule.published(4, 2.0, (0.0, 0.7))
BLOCKS = ("attn_mlp", "attn_cross_mlp")

needs_layout = pytest.mark.skipif(
    not supported(torch.float32), reason="this torch, or this processor, has no prepacked layout"
)


def is_prepacked(module: nn.Module) -> bool:
    return any(isinstance(each, PrepackedLinear) for each in module.modules())


def sample(model: FlowAR, dtype: torch.dtype | None = None, naive: bool = False) -> torch.Tensor:
    return model.sample([1, 2, 3], schedule=SCHEDULE, dtype=dtype, naive=naive)


@needs_layout
class TestLayer:
    @pytest.mark.parametrize("shape", [(17,), (1, 17), (5, 17), (2, 3, 17), (2, 3, 4, 17), (0, 17)])
    @pytest.mark.parametrize("bias", [True, False])
    def test_same_numbers(self, shape: tuple[int, ...], bias: bool) -> None:
        linear, x = nn.Linear(17, 29, bias), torch.randn(shape)
        with torch.no_grad():
            got = PrepackedLinear(linear.weight, linear.bias)(x)
            torch.testing.assert_close(got, F.linear(x, linear.weight, linear.bias))

    def test_strided_input(self) -> None:
        linear, x = nn.Linear(17, 29), torch.randn(3, 40, 8).transpose(1, 2)[..., 3:20]
        with torch.no_grad():
            torch.testing.assert_close(PrepackedLinear(linear.weight, linear.bias)(x), linear(x))

    def test_the_weight_is_kept_bit_for_bit(self) -> None:
        linear = nn.Linear(17, 29)
        layer = PrepackedLinear(linear.weight, linear.bias)
        assert torch.equal(layer.weight, linear.weight)
        assert all(torch.equal(each, layer.state_dict()[name]) for name, each in linear.state_dict().items())
        assert torch.equal(copy.deepcopy(layer).weight, linear.weight)

    def test_it_refuses_to_train_and_to_move(self) -> None:
        layer = PrepackedLinear(torch.ones(4, 4), None)
        with pytest.raises(RuntimeError, match="unpack"):
            layer(torch.ones(1, 4, requires_grad=True))
        with pytest.raises(RuntimeError, match="unpack"):
            layer.to(torch.float64)


@needs_layout
class TestModel:
    @pytest.mark.parametrize("flow_block", BLOCKS)
    def test_sampling_gives_the_same_latents(self, flow_block: str) -> None:
        model = small_model(flow_block=flow_block)
        expected, naive = sample(model), sample(model, naive=True)
        prepacked = sample(model.prepack())
        assert is_prepacked(model)
        assert torch.equal(prepacked, expected)
        assert error(prepacked, naive) < 1e-4

    @pytest.mark.parametrize("flow_block", BLOCKS)
    def test_no_second_copy(self, flow_block: str) -> None:
        """The plan of a prepacked model holds next to nothing of its own; packing lets go of the plain weights."""
        model = small_model(ar_width=64, flow_width=128, ar_depth=8, flow_depth=8, flow_block=flow_block)
        size = sum(parameter.nbytes for parameter in model.parameters())
        model.prepack()
        rest = sum(parameter.nbytes for parameter in model.parameters())
        assert rest < 0.2 * size  # biases, embeddings, positions
        assert inference_plan(model, torch.float32).report().weight_bytes < 0.05 * size

    def test_bfloat16_plans_are_prepacked_by_themselves(self) -> None:
        networks = inference_plan(small_model(), torch.bfloat16).networks
        assert is_prepacked(networks.flow) == is_prepacked(networks.ar) == supported(torch.bfloat16)
        assert not any(type(each) is nn.Linear for each in networks.flow.modules()) or not supported(torch.bfloat16)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_other_dtypes_of_a_prepacked_model(self, dtype: torch.dtype) -> None:
        model = small_model()
        expected = sample(model, dtype)
        assert error(sample(model.prepack(), dtype), expected) < (1e-12 if dtype == torch.float64 else 0.1)

    @needs_fp8
    def test_fp8_of_a_prepacked_model(self) -> None:
        """The same layers are rounded as of a plain one."""
        model = small_model().bfloat16()
        expected = model.sample([1, 2], schedule=SCHEDULE, dtype="fp8")
        assert torch.equal(model.prepack().sample([1, 2], schedule=SCHEDULE, dtype="fp8"), expected)
        assert not torch.equal(model.sample([1, 2], schedule=SCHEDULE, dtype="bfloat16"), expected)

    def test_saved_files_are_the_same(self, tmp_path: Path) -> None:
        model = small_model()
        model.save_pretrained(tmp_path / "plain")
        model.prepack().save_pretrained(tmp_path / "prepacked")
        plain, prepacked = (load_file(tmp_path / name / "model.safetensors") for name in ("plain", "prepacked"))
        assert plain.keys() == prepacked.keys()
        assert all(torch.equal(weight, prepacked[name]) for name, weight in plain.items())

    def test_training_undoes_it(self) -> None:
        model = small_model()
        weights = copy.deepcopy(model.state_dict())
        model.prepack().train()
        assert not is_prepacked(model)
        assert model.state_dict().keys() == weights.keys()
        assert all(torch.equal(each, weights[name]) for name, each in model.state_dict().items())
        model.loss(torch.randn(2, 4, 4, 4), torch.tensor([0, 1])).loss.backward()
        assert all(parameter.grad is not None for parameter in model.parameters())

    def test_a_loss_with_gradients_is_refused_in_evaluation_mode(self) -> None:
        with pytest.raises(RuntimeError, match="unpack"):
            small_model().prepack().loss(torch.randn(2, 4, 4, 4), torch.tensor([0, 1]))

    def test_new_weights(self) -> None:
        """They undo it, and the next sample is theirs."""
        model, other = small_model(), small_model(seed=1)
        sample(model.prepack())
        model.load_state_dict(other.state_dict())
        assert torch.equal(sample(model), sample(other))

    def test_another_dtype_undoes_it(self) -> None:
        model = small_model()
        expected = sample(copy.deepcopy(model).double())
        assert torch.equal(sample(model.prepack().double()), expected)

    @pytest.mark.parametrize("flow_block", BLOCKS)
    def test_naive_sampling_leaves_it(self, flow_block: str) -> None:
        """It runs on plain layers of the same weights."""
        model = small_model(flow_block=flow_block)
        expected = sample(model, naive=True)
        names = [name for name, _ in model.prepack().named_parameters()]
        assert torch.equal(sample(model, naive=True), expected)
        assert is_prepacked(model)
        assert [name for name, _ in model.named_parameters()] == names

    def test_copies(self) -> None:
        model = small_model().prepack()
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert is_prepacked(twin)
            assert torch.equal(sample(twin), sample(model))
            assert not {id(each) for each in twin.parameters()} & {id(each) for each in model.parameters()}

    def test_twice_and_back(self) -> None:
        model = small_model()
        names = [name for name, _ in model.named_modules()]
        assert [name for name, _ in unpack(prepack(prepack(model))).named_modules()] == names


@needs_layout
@pytest.mark.parametrize(("dtype", "prepacked"), [("float32", True), ("bfloat16", False), (None, True)])
def test_pipelines_prepack_where_it_gains(dtype: str | None, prepacked: bool) -> None:
    """In the dtype of the parameters; others pack weights of their own."""
    pipeline = FlowARPipeline.from_pretrained("flowar-fashion")
    expected = pipeline.sample([3], num_inference_steps=2, dtype=dtype)
    assert not is_prepacked(pipeline.model)
    assert is_prepacked(pipeline.prepack(dtype).model) == prepacked
    assert torch.equal(pipeline.sample([3], num_inference_steps=2, dtype=dtype), expected)


def test_without_the_layout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain layers stay, and give the numbers."""
    monkeypatch.setattr("flowar.engine.onednn_linear.supported", lambda dtype: False)
    model = small_model()
    expected = sample(model)
    assert torch.equal(sample(model.prepack()), expected)
    assert not is_prepacked(model)


def test_a_broken_layout_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PrepackedLinear, "forward", lambda self, x: x @ self.weight.T + 1)
    assert not supported.__wrapped__(torch.float32)
    monkeypatch.setattr(PrepackedLinear, "__init__", lambda *_: (_ for _ in ()).throw(RuntimeError("none")))
    assert not supported.__wrapped__(torch.float32)


def test_prepack_is_for_the_cpu() -> None:
    with pytest.raises(ValueError, match=r"^prepack: expected a model on the CPU, got meta$"):
        small_model().to("meta").prepack()
