"""Functions that are replayed for shapes that come back; graphs are recorded and replayed by `recorded_graph`."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import recorded_graph
import torch
from torch import Tensor

from flowar import cuda_graph
from flowar.cuda_graph import GraphedFunction


class Counted:
    """2x + 1, and how often Python computed it."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return 2 * x + 1


@pytest.fixture
def graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_graph, "available", lambda device: True)
    monkeypatch.setattr(cuda_graph, "capture", recorded_graph.capture)


def test_without_a_gpu_it_is_the_function() -> None:
    counted = Counted()
    graphed = GraphedFunction(counted, "counting", lambda: [])
    for value in range(3):
        assert torch.equal(graphed(torch.full((2,), value)), torch.full((2,), 2 * value + 1))
    assert counted.calls == 3


@pytest.mark.usefixtures("graphs")
def test_a_shape_is_captured_when_it_comes_back() -> None:
    counted = Counted()
    graphed = GraphedFunction(counted, "counting", lambda: [])
    assert torch.equal(graphed(torch.zeros(2)), torch.ones(2))
    assert counted.calls == 1
    graphed(torch.zeros(2))
    captured = counted.calls
    results = [graphed(torch.full((2,), float(value))) for value in range(5)]
    assert counted.calls == captured
    assert torch.equal(torch.stack(results), 2 * torch.arange(5.0)[:, None].expand(5, 2) + 1)
    graphed(torch.zeros(3))
    assert counted.calls == captured + 1


@pytest.mark.usefixtures("graphs")
def test_graphs_are_bounded() -> None:
    graphed = GraphedFunction(Counted(), "counting", lambda: [])
    for size in [*range(1, 8), *range(1, 8)]:
        assert torch.equal(graphed(torch.zeros(size)), torch.ones(size))
    assert len(graphed._seen) == GraphedFunction.MAX_SHAPES


def test_failed_capture_warns_once(graphs: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(works: Any, device: Any) -> Any:
        raise RuntimeError("out of memory\nmore")

    monkeypatch.setattr(cuda_graph, "capture", fail)
    graphed = GraphedFunction(Counted(), "counting", lambda: [])
    with pytest.warns(RuntimeWarning, match=r"capture failed \(out of memory\): counting goes on") as caught:
        results = [graphed(torch.zeros(2)) for _ in range(4)]
    assert len(caught) == 1
    assert all(torch.equal(result, torch.ones(2)) for result in results)


@pytest.mark.usefixtures("graphs")
def test_weights_that_move_are_followed() -> None:
    weights = [torch.ones(2)]
    graphed = GraphedFunction(lambda x: x * weights[0], "scaling", lambda: weights)
    for value in (1.0, 3.0):
        weights[0] = torch.full((2,), value)
        assert all(torch.equal(graphed(torch.ones(2)), weights[0]) for _ in range(3))


@pytest.mark.usefixtures("graphs")
def test_threads() -> None:
    graphed, wrong = GraphedFunction(Counted(), "counting", lambda: []), []

    def work(value: float) -> None:
        for _ in range(50):
            if not torch.equal(graphed(torch.full((4,), value)), torch.full((4,), 2 * value + 1)):
                wrong.append(value)

    threads = [threading.Thread(target=work, args=(float(value),)) for value in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
