"""CUDA graphs: a recorded sequence of kernels that one call launches again, over the same memory.

While a graph is recorded, other threads may go on with CUDA: launch kernels, allocate, copy, wait for streams and
events of their own, replay graphs. What CUDA and torch forbid them meanwhile is to wait for the whole device
(`torch.cuda.synchronize`), to empty torch's cache of memory, and to record graphs of their own other than by `capture`,
which takes turns.
"""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import torch
from torch import Tensor

from flowar.errors import first_line

Result = TypeVar("Result")

_one_capture_at_a_time = threading.Lock()
_failed_graphs: list[torch.cuda.CUDAGraph] = []  # torch 2.11 has pointers to them in its allocator of pinned memory


def capture(works: Sequence[Callable[[], Result]], device: torch.device) -> tuple[list[Callable[[], Result]], int]:
    """A graph of each function, to be replayed in this order, over one memory pool; and the bytes of that pool.

    The functions may use nothing of the host but what stays as it is: they are run twice, once to warm up libraries
    and once to be recorded. A replay returns the result of the recording, whose memory has new contents.

    Raises:
        RuntimeError: if something in the functions cannot be captured, or memory runs out. Streams, memory and random
            numbers are then as if nothing had been captured, and later captures succeed.
    """
    with _one_capture_at_a_time, torch.cuda.device(device):
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        try:
            with torch.cuda.stream(stream):
                for work in works:
                    work()
                return _record(works, device)
        finally:
            torch.cuda.current_stream(device).wait_stream(stream)


def _record(works: Sequence[Callable[[], Result]], device: torch.device) -> tuple[list[Callable[[], Result]], int]:
    """`capture`, on the current stream, of works that are warm."""
    torch.cuda.synchronize()
    # cuBLAS keeps a workspace for every stream: one from before must not be freed under a graph that uses it, and
    # nobody may use one in the memory of a graph.
    torch._C._cuda_clearCublasWorkspaces()
    torch.cuda.empty_cache()
    pool = torch.cuda.MemPool()
    graphs: list[torch.cuda.CUDAGraph] = []
    replays = []
    try:
        for work in works:
            graphs.append(torch.cuda.CUDAGraph())
            replays.append(_replay(graphs[-1], _record_one(work, graphs[-1], pool.id)))
        return replays, sum(segment["total_size"] for segment in pool.snapshot(include_traces=False))
    except BaseException:
        _undo(graphs, pool, device)
        raise
    finally:
        torch._C._cuda_clearCublasWorkspaces()
        del pool  # here and not with a traceback that refers to this frame: its end must not meet another capture


def _record_one(work: Callable[[], Result], graph: torch.cuda.CUDAGraph, pool: tuple[int, int]) -> Result:
    graph.capture_begin(pool, capture_error_mode="thread_local")  # type: ignore[arg-type]
    try:
        result = work()
    except BaseException:
        with suppress(RuntimeError):  # it says once more that the capture is invalid
            graph.capture_end()
        raise
    graph.capture_end()
    return result


def _replay(graph: torch.cuda.CUDAGraph, result: Result) -> Callable[[], Result]:
    def replay() -> Result:
        graph.replay()
        return result

    return replay


def _undo(graphs: Sequence[torch.cuda.CUDAGraph], pool: torch.cuda.MemPool, device: torch.device) -> None:
    """Leave torch as if the last of `graphs` had not failed.

    Where `capture_end` throws, torch 2.14 does so itself. 2.12 and 2.13 do not release the pool; 2.11 does not even end
    its use, and its random generator goes on as if a capture were under way.
    """
    index = torch.cuda.current_device()
    for graph in graphs:
        graph.reset()
    with suppress(RuntimeError):  # there is nothing to end
        torch._C._cuda_endAllocateToPool(index, pool.id)
    while pool.use_count() > 1:
        torch._C._cuda_releasePool(index, pool.id)
    _failed_graphs.extend(graphs[-1:])
    with suppress(RuntimeError):  # where this fails too, nothing on this GPU works any more, as the next call will say
        _capture_something(device)


def _capture_something(device: torch.device) -> None:
    """A capture that succeeds gives the random generator back."""
    number, graph = torch.zeros(1, device=device), torch.cuda.CUDAGraph()
    graph.capture_begin(capture_error_mode="thread_local")
    number.add_(1)
    graph.capture_end()


def available(device: torch.device) -> bool:
    """Whether work on `device` can be captured."""
    return device.type == "cuda"


def try_capture(make: Callable[[], None], make_room: Callable[[], bool], what: str) -> bool:
    """Whether `make`, which captures, succeeds: once more if memory ran out and `make_room` could free some.

    If it does not succeed, a warning says so and calls it `what`, as in "decoding".
    """
    try:
        try:
            make()
        except RuntimeError as error:
            if "out of memory" not in str(error) or not make_room():
                raise
        else:
            return True
        make()
    except RuntimeError as error:
        message = f"CUDA graph capture failed ({first_line(error)}): {what} goes on without graphs, more slowly"
        warnings.warn(message, RuntimeWarning, stacklevel=6)
        return False
    return True


class GraphedFunction:
    """A function of one tensor that is, on a GPU, replayed as a CUDA graph for shapes that come back.

    It may be called from several threads and on several streams. Where a capture fails, that shape goes without.
    """

    MAX_SHAPES = 4  # the graphs that are kept, those last used

    def __init__(self, function: Callable[[Tensor], Tensor], what: str, reads: Callable[[], Iterable[Tensor]]) -> None:
        """`what` a warning calls it, as in "decoding"; `reads` gives the weights that it uses, wherever they are."""
        self.function, self.what, self.reads = function, what, reads
        self._seen: OrderedDict[Any, _Graph | None] = OrderedDict()  # None: called once
        self._failed: set[Any] = set()
        self._lock = threading.Lock()

    def __reduce__(self) -> tuple[type[GraphedFunction], tuple[Any, ...]]:
        """Copies and pickles begin without graphs."""
        return GraphedFunction, (self.function, self.what, self.reads)

    def __call__(self, x: Tensor) -> Tensor:
        if not available(x.device):
            return self.function(x)
        with self._lock:
            key = (x.shape, x.dtype, x.device, *(tensor.data_ptr() for tensor in self.reads()))
            graph = None if key in self._failed else self._graph(key, x)
            return self.function(x) if graph is None else graph(x)

    def _graph(self, key: Any, x: Tensor) -> _Graph | None:
        """The graph for x; None at its first call, and where it cannot be captured."""
        graph = self._seen.get(key)
        if graph is None and key in self._seen:
            graph = _Graph(self.function, x)
            if not try_capture(graph.capture, self._make_room, self.what):
                self._seen.pop(key, None)
                self._failed.add(key)
                return None
        self._seen[key] = graph
        self._seen.move_to_end(key)
        if len(self._seen) > self.MAX_SHAPES:
            _, dropped = self._seen.popitem(last=False)
            if dropped is not None:
                dropped.close()
        return graph

    def clear(self) -> None:
        """Let go of all graphs, and of their memory."""
        with self._lock:
            self._make_room()

    def _make_room(self) -> bool:
        """Drop all graphs; whether there were any."""
        graphs = [graph for graph in self._seen.values() if graph is not None]
        self._seen.clear()
        for graph in graphs:
            graph.close()
        return bool(graphs)


class _Graph:
    """The graph of a function for one shape, with its input."""

    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self.function, self.order = function, StreamOrder(x.device)
        with torch.inference_mode(False):  # where this is called first, as in a preview; it may be written anywhere
            self.input = x.clone()

    def capture(self) -> None:
        (self.replay,), _ = capture([lambda: self.function(self.input)], self.input.device)

    def __call__(self, x: Tensor) -> Tensor:
        with self.order:
            self.input.copy_(x)
            return self.replay().clone()

    def close(self) -> None:
        self.order.synchronize()


class StreamOrder:
    """`with order: ...` makes runs over one memory wait for each other on the GPU, whatever stream each is on.

    The stream of a run is the current one of the memory's device, which need not be the current device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.finished = torch.cuda.Event() if device.type == "cuda" else None

    def __enter__(self) -> None:
        if self.finished is not None:
            self.finished.wait(torch.cuda.current_stream(self.device))

    def __exit__(self, *_: object) -> None:
        if self.finished is not None:
            self.finished.record(torch.cuda.current_stream(self.device))

    def synchronize(self) -> None:
        """Wait on the host until the last run is over, so that its memory may be used for something else."""
        if self.finished is not None:
            self.finished.synchronize()
