"""What a CUDA graph does, on any device: records the operations of a function, and replays them without the function.

A replay runs the same operations on the same memory. So it shows whether a function that is to be captured depends on
anything else: values read by the host, Python that acts only once, memory that is made anew.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOST_READS = ("_local_scalar_dense", "nonzero", "item", "equal", "is_nonzero")


class Recorder(TorchDispatchMode):
    """Keeps every operation with its arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[-1]
        if name in HOST_READS:
            raise RuntimeError(f"operation not permitted when stream is capturing: {name}")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, [x for x in tree_leaves(result) if isinstance(x, Tensor)]))
        return result

    def replay(self) -> None:
        for func, args, kwargs, results in self.calls:
            again = [x for x in tree_leaves(func(*args, **kwargs)) if isinstance(x, Tensor)]
            for recorded, new in zip(results, again, strict=True):
                if recorded.data_ptr() != new.data_ptr():  # a view or an operation in place needs no copy
                    recorded.copy_(new)


def capture(works: Sequence[Callable[[], Any]], device: torch.device) -> list[Callable[[], Any]]:
    """As `flowar.cuda_graph.capture`."""
    for work in works:
        work()
    replays = []
    for work in works:
        with Recorder() as recorder:
            result = work()

        def replay(recorder: Recorder = recorder, result: Any = result) -> Any:
            with torch.inference_mode():
                recorder.replay()
            return result

        replays.append(replay)
    return replays
