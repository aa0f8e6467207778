"""CUDA graphs: a recorded sequence of kernels that one call launches again, over the same memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

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
