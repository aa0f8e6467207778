"""Captures that fail on a GPU, and what works afterwards; run by test_gpu.py in a process of its own."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from conftest import inference_plan, small_model
from torch import Tensor

from flowar import Schedule
from flowar.engine.cuda_graph import GraphedFunction
from flowar.sampling.callbacks import Callbacks
from flowar.sampling.noise import image_seeds

GPU = torch.device("cuda")
SCHEDULE = Schedule.published(6, 3.0, (0.0, 0.8))


def arguments(count: int) -> tuple[Any, ...]:
    return torch.arange(count, device=GPU), SCHEDULE, image_seeds(0, count).to(GPU), Callbacks()


def reads_the_host(x: Tensor) -> Tensor:
    return x + float(x.sum())


def nothing_is_left() -> None:
    """The stream is the default one, the random generator works, and memory can be given back."""
    assert torch.cuda.current_stream() == torch.cuda.default_stream()
    assert torch.randn(8, device=GPU).isfinite().all()
    torch.cuda.synchronize()
    torch.cuda.empty_cache()


def plan_that_fails() -> None:
    model = small_model(ar_width=128, flow_width=128, latent_size=16, latent_channels=16, num_classes=10).to(GPU)
    plan, eager = (inference_plan(model, torch.bfloat16) for _ in range(2))
    expected = eager.sample(*arguments(2))
    run = plan.networks.flow.run
    plan.networks.flow.run = lambda x, *others: reads_the_host(run(x, *others))  # type: ignore[method-assign]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(3):
            plan.sample(*arguments(2))
    assert len(caught) == 1, caught
    nothing_is_left()
    plan.networks.flow.run = run  # type: ignore[method-assign]
    assert not plan.report().programs
    assert torch.equal(plan.sample(*arguments(2)), expected)
    assert not plan.report().programs  # it is remembered
    plan.sample(*arguments(4))
    assert [program.batch for program in plan.report().programs] == [4]


def memory_of_failures() -> None:
    """However many captures fail, what they held comes back."""
    reserved = []
    for size in range(1, 7):
        graphed = GraphedFunction(lambda x: reads_the_host(x.repeat(2**22)), "this", lambda: [])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                graphed(torch.ones(size, device=GPU))
        assert len(caught) == 1, caught
        nothing_is_left()
        reserved.append(torch.cuda.memory_reserved())
    assert reserved[-1] <= reserved[1]


if __name__ == "__main__":
    plan_that_fails()
    memory_of_failures()
