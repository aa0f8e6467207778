"""Captures, those that fail, and functions replayed for shapes that come back: over the API of `recorded_graph`."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from recorded_graph import VERSIONS, CudaApi
from torch import Tensor

from flowar.engine import cuda_graph
from flowar.engine.cuda_graph import GraphedFunction, StreamOrder, capture

CPU = torch.device("cpu")


class Counted:
    """2x + 1, and how often Python computed it."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return 2 * x + 1


@pytest.fixture(params=VERSIONS)
def api(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> CudaApi:
    """The graphs of one version of torch, for tensors on the CPU."""
    monkeypatch.setattr(cuda_graph, "available", lambda device: True)
    monkeypatch.setattr(cuda_graph, "_failed_graphs", [])
    return CudaApi(request.param).install(monkeypatch)


def reads_the_host(x: Tensor) -> Tensor:
    """Cannot be captured: what it does next depends on a number."""
    return x + float(x.sum())


def test_a_capture_is_replayed(api: CudaApi) -> None:
    x = torch.zeros(3)
    works = [lambda: x + 1, lambda: x * 2]
    replays, size = capture(works, CPU)
    assert size == 2 * 2**20
    x.fill_(5)
    assert [replay().tolist() for replay in replays] == [[6.0] * 3, [10.0] * 3]
    assert api.begun == 2
    assert api.stream is api.default
    assert not api.captures
    del replays
    assert api.clean()


def test_a_failed_capture_leaves_nothing_behind(api: CudaApi) -> None:
    x, worked = torch.ones(3), []
    works = [lambda: x + 1, lambda: reads_the_host(x), lambda: worked.append(1)]
    with pytest.raises(RuntimeError, match="not permitted when stream is capturing"):
        capture(works, CPU)
    assert api.clean()
    assert len(worked) == 1  # in the warm-up
    (replay,), _ = capture([lambda: x + 1], CPU)
    assert torch.equal(replay(), torch.full((3,), 2.0))


@pytest.mark.parametrize("exception", [KeyboardInterrupt, ValueError, RuntimeError])
def test_a_work_that_raises_while_it_is_recorded(api: CudaApi, exception: type[BaseException]) -> None:
    def work() -> Tensor:
        if api.captures:
            raise exception
        return torch.zeros(1)

    with pytest.raises(exception):
        capture([lambda: torch.ones(1), work], CPU)
    assert api.clean()


def test_a_capture_without_memory_leaves_nothing_behind(api: CudaApi) -> None:
    api.memory = 2
    with pytest.raises(RuntimeError, match="out of memory"):
        capture([lambda: torch.ones(1), lambda: torch.ones(1)], CPU)
    assert api.clean()


def test_warm_up_is_over_before_anything_else_runs(api: CudaApi) -> None:
    """Also where a capture fails: what runs instead uses the same memory on another stream."""
    streams = []

    def work() -> Tensor:
        streams.append(api.stream)
        return reads_the_host(torch.ones(1))

    with pytest.raises(RuntimeError):
        capture([work], CPU)
    assert streams[0].waited_for == [api.default]
    assert api.default.waited_for == [streams[0]]


def test_workspaces_lie_in_the_memory_of_the_graphs_and_nobody_else_has_them(api: CudaApi) -> None:
    pools = []
    capture([lambda: pools.append(api.multiply()), lambda: pools.append(api.multiply())], CPU)
    warm, recorded = set(pools[:2]), set(pools[2:])
    assert warm == {None}
    assert len(recorded) == 1
    assert None not in recorded
    assert not api.workspaces


def test_captures_take_turns(api: CudaApi) -> None:
    errors = []

    def work() -> None:
        try:
            for _ in range(20):
                capture([lambda: torch.ones(2) + 1], CPU)
        except RuntimeError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    assert api.clean()


def test_without_a_gpu_it_is_the_function() -> None:
    counted = Counted()
    graphed = GraphedFunction(counted, "counting", lambda: [])
    for value in range(3):
        assert torch.equal(graphed(torch.full((2,), value)), torch.full((2,), 2 * value + 1))
    assert counted.calls == 3


@pytest.mark.usefixtures("api")
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


@pytest.mark.usefixtures("api")
def test_graphs_are_bounded() -> None:
    graphed = GraphedFunction(Counted(), "counting", lambda: [])
    for size in [*range(1, 8), *range(1, 8)]:
        assert torch.equal(graphed(torch.zeros(size)), torch.ones(size))
    assert len(graphed._seen) == GraphedFunction.MAX_SHAPES


@pytest.mark.filterwarnings("error")
def test_a_shape_that_cannot_be_captured_is_tried_once(api: CudaApi) -> None:
    """However often it comes, and however many others come between."""
    function = lambda x: reads_the_host(x) if len(x) == 2 else x + 1  # noqa: E731
    graphed = GraphedFunction(function, "counting", lambda: [])
    shape = r"CUDA graph capture failed \(CUDA error: operation not permitted.*\): counting goes on without graphs"
    graphed(torch.ones(2))
    with pytest.warns(RuntimeWarning, match=shape):
        assert torch.equal(graphed(torch.ones(2)), torch.full((2,), 3.0))
    begun = api.begun
    for size in [*range(3, 4 + GraphedFunction.MAX_SHAPES)] * 2:
        assert torch.equal(graphed(torch.ones(2)), torch.full((2,), 3.0))
        assert torch.equal(graphed(torch.zeros(size)), torch.ones(size))
    assert api.begun == begun
    assert torch.equal(graphed(torch.zeros(size)), torch.ones(size))
    assert api.begun == begun + 1
    assert api.stream is api.default
    assert not api.captures


@pytest.mark.usefixtures("api")
def test_a_shape_that_cannot_be_captured_takes_no_place() -> None:
    calls: list[int] = []

    def function(x: Tensor) -> Tensor:
        calls.append(len(x))
        return reads_the_host(x) if len(x) == 2 else x + 1

    graphed = GraphedFunction(function, "counting", lambda: [])
    for size in (1, 1):
        graphed(torch.zeros(size))
    graphed(torch.zeros(2))
    with pytest.warns(RuntimeWarning, match="counting goes on without graphs"):
        graphed(torch.zeros(2))
    others = range(3, 2 + GraphedFunction.MAX_SHAPES)
    for size in (*others, *others):
        graphed(torch.zeros(size))
    calls.clear()
    for size in (1, *others):
        graphed(torch.zeros(size))
    assert not calls


@pytest.mark.filterwarnings("error")
def test_graphs_make_room_for_another(api: CudaApi) -> None:
    """Where memory runs out the others go, and the capture is tried once more."""
    graphed = GraphedFunction(Counted(), "counting", lambda: [])
    api.memory = 3  # two graphs, and the pool of the third while it is captured
    for size in (1, 1, 2, 2):
        graphed(torch.zeros(size))
    for _ in range(3):
        assert torch.equal(graphed(torch.ones(3)), torch.full((3,), 3.0))
    assert [key[0] for key in graphed._seen] == [(3,)]
    assert not api.captures


@pytest.mark.filterwarnings("error")
def test_no_room_at_all(api: CudaApi) -> None:
    counted = Counted()
    graphed = GraphedFunction(counted, "counting", lambda: [])
    api.memory = 1
    graphed(torch.zeros(2))
    with pytest.warns(RuntimeWarning, match="out of memory"):
        graphed(torch.zeros(2))
    for _ in range(3):
        assert torch.equal(graphed(torch.zeros(2)), torch.ones(2))
    assert api.begun == 2  # the failed one, and the one that gives the random generator back
    assert api.clean()


@pytest.mark.usefixtures("api")
def test_weights_that_move_are_followed() -> None:
    weights = [torch.ones(2)]
    graphed = GraphedFunction(lambda x: x * weights[0], "scaling", lambda: weights)
    for value in (1.0, 3.0):
        weights[0] = torch.full((2,), value)
        assert all(torch.equal(graphed(torch.ones(2)), weights[0]) for _ in range(3))


@pytest.mark.usefixtures("api")
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


def test_runs_are_ordered_on_the_stream_of_their_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which need not be the current device."""
    calls = []

    class Event:
        def wait(self, stream: Any) -> None:
            calls.append(("wait", stream))

        def record(self, stream: Any) -> None:
            calls.append(("record", stream))

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: f"current stream of {device}")
    with StreamOrder(torch.device("cuda:1")):
        calls.append("run")
    assert calls == [("wait", "current stream of cuda:1"), "run", ("record", "current stream of cuda:1")]


@pytest.mark.usefixtures("api")
def test_called_first_in_inference_mode() -> None:
    graphed = GraphedFunction(Counted(), "counting", lambda: [])
    with torch.inference_mode():
        for _ in range(2):
            graphed(torch.zeros(2))
    assert torch.equal(graphed(torch.ones(2)), torch.full((2,), 3.0))
