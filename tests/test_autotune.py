"""The choice among functions that compute the same, by a clock that knows what each costs."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
from conftest import error, inference_plan, small_model
from recorded_graph import CudaApi
from torch import Tensor

from flowar import Schedule
from flowar.engine import cuda_graph, measured_products
from flowar.engine import packed as packed_module
from flowar.engine import plan as plan_module
from flowar.engine.measured_products import PRODUCTS, MeasuredLinear, candidates, measured, split_k
from flowar.engine.packed import Savings
from flowar.engine.plan import InferencePlan
from flowar.networks import attention_backends
from flowar.networks.attention_backends import BACKENDS, attention, reference_attention, use_attention_backend
from flowar.sampling.callbacks import Callbacks
from flowar.sampling.noise import image_seeds
from flowar.system import autotune
from flowar.system.autotune import Choice, Tuner, choose, set_autotune, use_tuner


class Clock:
    """Seconds of a call by the name that the candidate was made with; every call is noted."""

    def __init__(self, **seconds: float) -> None:
        self.seconds, self.calls = seconds, 0
        self.noise: Iterator[float] | None = None

    def __call__(self, call: Callable[[], object]) -> float:
        self.calls += 1
        assert isinstance(call, partial)
        return self.seconds[str(call.args[0])] * (1.0 if self.noise is None else next(self.noise))


def value(name: str, number: float = 1.0) -> Tensor:
    return torch.full((4,), number)


def named(*names: str) -> dict[str, Callable[[], Tensor]]:
    return {name: partial(value, name) for name in names}


@pytest.fixture(autouse=True)
def nothing_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "_chosen", {})
    monkeypatch.setattr(autotune, "_enabled", True)


def test_the_fastest_wins() -> None:
    choice = choose(named("a", "b", "c"), Clock(a=3e-6, b=1e-6, c=2e-6))
    assert choice.name == "b"
    assert choice.seconds == {"a": 3e-6, "b": 1e-6, "c": 2e-6}
    assert str(choice) == "b (a 3.0 us, b 1.0 us, c 2.0 us)"


@pytest.mark.parametrize(("challenger", "winner"), [(0.98, "a"), (0.96, "b"), (1.0, "a"), (1.5, "a")])
def test_the_default_stays_unless_another_is_clearly_faster(challenger: float, winner: str) -> None:
    assert choose(named("a", "b"), Clock(a=1.0, b=challenger)).name == winner


def test_a_disturbed_measurement_does_not_decide() -> None:
    """Three of seven rounds take ten times as long."""
    clock = Clock(a=2.0, b=1.0)
    clock.noise = iter([1.0, 10.0] * 3 + [1.0] * 8)
    assert choose(named("a", "b"), clock).name == "b"


def test_what_raises_is_left_out() -> None:
    def broken() -> Tensor:
        raise NotImplementedError("no kernel\nmore")

    choice = choose({"x": broken, **named("a", "b")}, Clock(a=2.0, b=1.0))
    assert choice.name == "b"
    assert choice.left_out == {"x": "no kernel"}


def test_the_only_one_is_not_timed() -> None:
    assert choose(named("a"), Clock()) == Choice("a", {}, {})


def test_none_works() -> None:
    def broken() -> Tensor:
        raise ValueError("no")

    with pytest.raises(RuntimeError, match=r"expected one of x, y to work, got \{'x': 'no', 'y': 'no'\}"):
        choose({"x": broken, "y": broken}, Clock())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wrong", [1.1, float("nan")])
def test_what_computes_something_else_is_left_out(dtype: torch.dtype, wrong: float) -> None:
    rounded = 1 + 2 * torch.finfo(dtype).eps
    numbers = {"a": 1.0, "rounded": rounded, "wrong": wrong}
    made = {name: partial(lambda name, number: torch.full((4,), number, dtype=dtype), name, number)
            for name, number in numbers.items()}  # fmt: skip
    choice = choose(made, Clock(a=3.0, rounded=2.0, wrong=1.0))
    assert choice.name == "rounded"
    assert choice.left_out == {"wrong": "expected the numbers of a, got others"}


def test_a_shape_is_measured_once_in_the_process() -> None:
    clock = Clock(a=2.0, b=1.0)
    tuners = [Tuner(clock, "one GPU"), Tuner(clock, "one GPU"), Tuner(clock, "another")]
    assert [tuner.fastest("call", lambda: named("a", "b")) for tuner in tuners] == ["b"] * 3
    assert clock.calls == 2 * 2 * autotune.ROUNDS
    assert [[*tuner.choices] for tuner in tuners] == [["call"]] * 3
    clock.seconds = {"a": 1.0, "b": 2.0}
    assert tuners[0].fastest("call", lambda: named("a", "b")) == "b"
    assert tuners[0].fastest("other call", lambda: named("a", "b")) == "a"


def test_a_tuner_is_that_of_its_thread() -> None:
    seen: list[Tuner | None] = []
    tuner = Tuner(Clock(), "GPU")
    with use_tuner(tuner):
        thread = threading.Thread(target=lambda: seen.append(autotune.active_tuner()))
        thread.start()
        thread.join()
        seen.append(autotune.active_tuner())
    seen.append(autotune.active_tuner())
    assert seen == [None, tuner, None]


def test_nothing_is_measured_on_a_cpu() -> None:
    assert autotune.gpu_tuner(torch.device("cpu")) is None
    plan = inference_plan(small_model(), torch.float32, Savings())
    plan.sample(torch.tensor([1]), Schedule.published(2, 2.0), image_seeds(0, 1), Callbacks())
    assert not plan.report().choices


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_those_of_pytorch(name: str, bias: bool) -> None:
    x, weight = torch.randn(6, 16), torch.randn(8, 16)
    given = torch.randn(8) if bias else None
    expected = torch.nn.functional.linear(x, weight, given)
    torch.testing.assert_close(PRODUCTS[name](x, weight, given), expected)
    assert next(iter(candidates(x, weight, given))) == "torch"


@pytest.mark.parametrize("fastest", PRODUCTS)
def test_a_layer_takes_the_fastest_product(fastest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []

    def spy(name: str, product: Any, *arguments: Any) -> Tensor:
        called.append(name)
        return product(*arguments)  # type: ignore[no-any-return]

    spies = {name: partial(spy, name, product) for name, product in PRODUCTS.items()}
    monkeypatch.setattr(measured_products, "PRODUCTS", spies)
    monkeypatch.setattr(measured_products, "MIN_ROWS", 6)
    clock = Clock(**{name: 1.0 if name == fastest else 2.0 for name in PRODUCTS})
    layer, x = torch.nn.Linear(16, 8, bias=False), torch.randn(2, 3, 16)
    with use_tuner(Tuner(clock, "GPU")):
        measured(layer)(x)
        called.clear()
        torch.testing.assert_close(measured(layer)(x), layer(x))
        measured(layer)(x[:1])  # too few rows to matter
    assert called == [fastest]


def test_attention_takes_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of those that work; the shapes of queries and of keys are shapes of their own."""
    called: list[str] = []

    def by(backend: str, q: Tensor, k: Tensor, v: Tensor, dropout: float = 0.0) -> Tensor:
        called.append(backend)
        if backend == "sdpa-flash":
            raise RuntimeError("No available kernel")
        return reference_attention(q, k, v)

    monkeypatch.setattr(attention_backends, "attention_by", by)
    clock = Clock(**{"sdpa-cudnn": 3.0, "sdpa-efficient": 2.0, "sdpa": 3.0})
    tuner = Tuner(clock, "GPU")
    q, k = torch.randn(2, 3, 4, 8), torch.randn(2, 5, 4, 8)
    with use_tuner(tuner):
        attention(q, k, k)
        called.clear()
        attention(q, k, k)
        assert called == ["sdpa-efficient"]
        attention(q, q, q)
        with use_attention_backend("sdpa"):
            called.clear()
            attention(q, k, k)
        assert called == ["sdpa"]
    assert [*tuner.choices] == [
        "attention float32 2 x 4 heads of 8, 3 x 5 tokens",
        "attention float32 2 x 4 heads of 8, 3 x 3 tokens",
    ]


@pytest.mark.parametrize("name", [name for name in BACKENDS if name.startswith("sdpa-")])
def test_kernels_of_a_gpu_do_not_serve_a_cpu(name: str) -> None:
    q = torch.randn(2, 3, 4, 8)
    with use_attention_backend(name), pytest.raises(ValueError, match=f"{name}: expected CUDA tensors, got cpu"):
        attention(q, q, q)


@pytest.fixture
def gpu_plans(monkeypatch: pytest.MonkeyPatch) -> CudaApi:
    """Plans on the CPU capture and measure; splitting K is fastest, and nothing is timed while a graph is recorded."""
    api = CudaApi().install(monkeypatch)

    def clock(call: Callable[[], object]) -> float:
        assert not api.captures
        call()
        return 1.0 if isinstance(call, partial) and call.func is split_k else 2.0

    monkeypatch.setattr(cuda_graph, "available", lambda device: True)
    monkeypatch.setattr(plan_module, "memory_budget", lambda device: 2**30)
    monkeypatch.setattr(packed_module, "gpu_tuner", lambda device: Tuner(clock, "GPU"))
    monkeypatch.setattr(measured_products, "MIN_ROWS", 8)
    return api


def sample(plan: InferencePlan) -> Tensor:
    schedule = Schedule.published(3, 3.0, (0.0, 0.8))
    return plan.sample(torch.tensor([1, 2]), schedule, image_seeds(0, 2), Callbacks())


@pytest.mark.usefixtures("gpu_plans")
@pytest.mark.parametrize("flow_block", ["attn_mlp", "attn_cross_mlp"])
@pytest.mark.parametrize("graphs", [True, False])
def test_a_plan_measures_before_it_captures_and_reports(flow_block: Any, graphs: bool) -> None:
    model = small_model(flow_block=flow_block)
    expected = sample(inference_plan(model, torch.float32, Savings(measured_kernels=False)))
    plan = inference_plan(model, torch.float32, Savings(graphs=graphs))
    assert error(sample(plan), expected) < 1e-5
    choices = plan.report().choices
    assert {call.split()[0] for call in choices} == {"attention", "product"}
    assert {choice.name for call, choice in choices.items() if "product" in call} <= {"split-k 2", "split-k 4"}
    assert any(isinstance(layer, MeasuredLinear) for layer in plan.networks.flow.modules())
    assert torch.equal(sample(inference_plan(model, torch.float32, Savings(graphs=not graphs))), sample(plan))


@pytest.mark.usefixtures("gpu_plans")
def test_programs_under_different_pins_are_different() -> None:
    plan = inference_plan(small_model(), torch.float32, Savings())
    sample(plan)
    measured_calls = [*plan.report().choices]
    with use_attention_backend("sdpa"):
        sample(plan)
    set_autotune(False)
    sample(plan)
    assert [(key.attention_backend, key.autotune) for key, _ in plan.pool.waiting()] == [
        ("auto", True),
        ("sdpa", True),
        ("auto", False),
    ]
    assert [*plan.report().choices] == measured_calls
