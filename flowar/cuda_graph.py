"""CUDA graphs: a recorded sequence of kernels that one call launches again, over the same memory."""

from __future__ import annotations

import threading
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from flowar.errors import first_line

Result = TypeVar("Result")

_one_capture_at_a_time = threading.Lock()


def capture(works: Sequence[Callable[[], Result]], device: torch.device) -> list[Callable[[], Result]]:
    """A graph of each function, to be replayed in this order, over one memory pool.

    The functions may use nothing of the host but what stays as it is: they are run twice, once to warm up libraries
    and once to be recorded. A replay returns the result of the recording, whose memory has new contents.

    Raises:
        RuntimeError: if something in the functions cannot be captured, or memory runs out.
    """
    with _one_capture_at_a_time, torch.cuda.device(device):
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for work in works:
                work()
        pool = torch.cuda.graph_pool_handle()
        replays = [_record(work, pool, stream) for work in works]
        torch.cuda.current_stream(device).wait_stream(stream)
    return replays


def _record(work: Callable[[], Result], pool: Any, stream: torch.cuda.Stream) -> Callable[[], Result]:
    graph = torch.cuda.CUDAGraph()
    # Other threads may go on with CUDA calls that a capture forbids its own thread.
    with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
        result = work()

    def replay() -> Result:
        graph.replay()
        return result

    return replay


def available(device: torch.device) -> bool:
    """Whether work on `device` can be captured."""
    return device.type == "cuda"


def warn_of_failure(what: str, error: RuntimeError) -> None:
    message = f"CUDA graph capture failed ({first_line(error)}): {what} goes on without graphs, more slowly"
    warnings.warn(message, RuntimeWarning, stacklevel=6)


class GraphedFunction:
    """A function of one tensor that is, on a GPU, replayed as a CUDA graph for shapes that come back.

    It may be called from several threads and on several streams.
    """

    MAX_SHAPES = 4  # the graphs that are kept, those last used

    def __init__(self, function: Callable[[Tensor], Tensor], what: str, reads: Callable[[], Iterable[Tensor]]) -> None:
        """`what` a warning calls it, as in "decoding"; `reads` gives the weights that it uses, wherever they are."""
        self.function, self.what, self.reads = function, what, reads
        self._seen: OrderedDict[Any, _Graph | None] = OrderedDict()  # None: called once, or not to be captured
        self._failed = False
        self._lock = threading.Lock()

    def __call__(self, x: Tensor) -> Tensor:
        if not available(x.device) or self._failed:
            return self.function(x)
        with self._lock:
            key = (x.shape, x.dtype, x.device, *(tensor.data_ptr() for tensor in self.reads()))
            graph = self._seen.get(key)
            if graph is None and key in self._seen:
                graph = self._capture(x)
            self._seen[key] = graph
            self._seen.move_to_end(key)
            if len(self._seen) > self.MAX_SHAPES:
                _, dropped = self._seen.popitem(last=False)
                if dropped is not None:
                    dropped.close()
            return self.function(x) if graph is None else graph(x)

    def _capture(self, x: Tensor) -> _Graph | None:
        try:
            return _Graph(self.function, x)
        except RuntimeError as error:
            self._failed = True
            warn_of_failure(self.what, error)
            return None


class _Graph:
    """The graph of a function for one shape, with its input."""

    def __init__(self, function: Callable[[Tensor], Tensor], x: Tensor) -> None:
        self.input = x.clone()
        (self.replay,) = capture([lambda: function(self.input)], x.device)
        self.order = StreamOrder(x.device)

    def __call__(self, x: Tensor) -> Tensor:
        with self.order:
            self.input.copy_(x)
            return self.replay().clone()

    def close(self) -> None:
        self.order.synchronize()


class StreamOrder:
    """`with order: ...` makes runs over one memory wait for each other on the GPU, whatever stream each is on."""

    def __init__(self, device: torch.device) -> None:
        self.finished = torch.cuda.Event() if device.type == "cuda" else None

    def __enter__(self) -> None:
        if self.finished is not None:
            self.finished.wait()

    def __exit__(self, *_: object) -> None:
        if self.finished is not None:
            self.finished.record()

    def synchronize(self) -> None:
        """Wait on the host until the last run is over, so that its memory may be used for something else."""
        if self.finished is not None:
            self.finished.synchronize()
