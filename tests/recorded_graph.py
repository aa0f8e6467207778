"""What torch's API of CUDA graphs does, on any device: its graphs record the operations of a function, and replay them.

A replay runs the same operations on the same memory without the function. So it shows whether a function that is to be
captured depends on anything else: values read by the host, Python that acts only once, memory that is made anew.

`CudaApi` also keeps the books that torch keeps while it captures (current stream, memory pools, random generator,
workspaces of cuBLAS), and leaves them as the versions of torch do when a capture fails.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

HOST_READS = ("_local_scalar_dense", "nonzero", "item", "equal", "is_nonzero")
VERSIONS = ("2.11", "2.13", "2.14")  # that differ in what a failed capture leaves behind

Pool = tuple[int, int]


class Recorder(TorchDispatchMode):
    """Keeps every operation with its arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple[Any, ...], dict[str, Any], list[Tensor]]] = []
        self.invalid = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.split("::")[-1]
        if name in HOST_READS:
            self.invalid = True
            raise RuntimeError(f"CUDA error: operation not permitted when stream is capturing: {name}\nmore")
        result = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, [x for x in tree_leaves(result) if isinstance(x, Tensor)]))
        return result

    def replay(self) -> None:
        for func, args, kwargs, results in self.calls:
            again = [x for x in tree_leaves(func(*args, **kwargs)) if isinstance(x, Tensor)]
            for recorded, new in zip(results, again, strict=True):
                if recorded.data_ptr() != new.data_ptr():  # a view or an operation in place needs no copy
                    recorded.copy_(new)


class Stream:
    """A stream that knows for which others it has waited."""

    def __init__(self, device: Any = None) -> None:
        self.waited_for: list[Stream] = []

    def wait_stream(self, other: Stream) -> None:
        self.waited_for.append(other)


class CudaApi:
    """The state of a process. `install` puts it in torch's place; `clean` says whether all is as at the start."""

    def __init__(self, version: str = VERSIONS[0]) -> None:
        self.version = version
        self.default = self.stream = Stream()
        self.uses: Counter[Pool] = Counter()  # of every pool
        self.captures: list[Pool] = []  # underway
        self.generator_captures = False
        self.workspaces: dict[Stream, Pool | None] = {}  # in which pool
        self.begun = 0  # captures
        self.over = False  # what was launched: until then memory that it uses cannot be given back
        self.memory = float("inf")  # uses of pools that fit

    def install(self, patch: pytest.MonkeyPatch) -> CudaApi:
        functions = {
            "device": lambda device: nullcontext(),
            "current_device": lambda: 0,
            "Stream": Stream,
            "stream": self.use_stream,
            "current_stream": lambda device=None: self.stream,
            "synchronize": self.wait,
            "empty_cache": self.empty_cache,
            "MemPool": lambda: MemPool(self),
            "CUDAGraph": lambda: Graph(self),
        }
        for name, function in functions.items():
            patch.setattr(torch.cuda, name, function)
        patch.setattr(torch._C, "_cuda_clearCublasWorkspaces", self.workspaces.clear, raising=False)
        patch.setattr(torch._C, "_cuda_endAllocateToPool", lambda device, pool: self.end(pool), raising=False)
        patch.setattr(torch._C, "_cuda_releasePool", lambda device, pool: self.release(pool), raising=False)
        return self

    def clean(self) -> bool:
        waiting = self.stream is self.default and not self.captures and not self.generator_captures
        return waiting and not self.workspaces and not +self.uses

    @contextmanager
    def use_stream(self, stream: Stream) -> Iterator[None]:
        before, self.stream, self.over = self.stream, stream, False
        try:
            yield
        finally:
            self.stream = before

    def wait(self) -> None:
        self.expect_no_capture()
        self.over = True

    def empty_cache(self) -> None:
        self.expect_no_capture()
        assert self.over, "what is still in use stays in the cache, and the graphs find less memory"

    def expect_no_capture(self) -> None:
        if self.captures:
            raise RuntimeError("captures_underway.empty() INTERNAL ASSERT FAILED")

    def begin(self, pool: Pool) -> None:
        self.uses[pool] += 1
        if pool in self.captures:
            raise RuntimeError("beginAllocateToPool: already recording to mempool_id")
        self.captures.append(pool)

    def end(self, pool: Pool) -> None:
        if pool not in self.captures:
            raise RuntimeError("endAllocatePool: not currently recording to mempool_id")
        self.captures.remove(pool)

    def release(self, pool: Pool) -> None:
        self.uses[pool] -= 1
        assert self.uses[pool] >= 0, "a pool with less than no users breaks every later `empty_cache`"

    def multiply(self) -> Pool | None:
        """A product by cuBLAS on the current stream: the pool that its workspace lies in."""
        return self.workspaces.setdefault(self.stream, self.captures[-1] if self.captures else None)


class MemPool:
    """A pool with a use of its own."""

    count = 0

    def __init__(self, api: CudaApi) -> None:
        MemPool.count += 1
        self.api, self.id = api, (0, MemPool.count)
        api.uses[self.id] += 1

    def use_count(self) -> int:
        return self.api.uses[self.id]

    def snapshot(self, include_traces: bool = True) -> list[dict[str, int]]:
        assert not include_traces
        return [{"total_size": 2**20}] * (self.use_count() - 1)  # one for every graph

    def __del__(self) -> None:
        if self.api.captures:
            self.api.uses[self.id] += 100  # the process ends here
        self.api.release(self.id)


class Graph:
    """A `torch.cuda.CUDAGraph`."""

    def __init__(self, api: CudaApi) -> None:
        self.api, self.recorder = api, Recorder()
        self.holds: Pool | None = None  # the pool that `reset` releases

    def capture_begin(self, pool: Pool | None = None, capture_error_mode: str = "global") -> None:
        assert self.api.stream is not self.api.default
        assert capture_error_mode == "thread_local"
        self.pool = (1, id(self)) if pool is None else pool
        self.api.begin(self.pool)
        self.holds = self.pool if self.api.version == "2.14" else None
        self.api.begun += 1
        self.api.generator_captures = True
        self.recorder.__enter__()

    def capture_end(self) -> None:
        self.recorder.__exit__(None, None, None)
        if not self.recorder.invalid or self.api.version != "2.11":
            self.api.end(self.pool)
            self.api.generator_captures = False
        if self.recorder.invalid:
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture")
        self.holds = self.pool
        if sum(self.api.uses.values()) > self.api.memory:
            raise RuntimeError("CUDA error: out of memory\nmore")

    def replay(self) -> None:
        with torch.inference_mode():
            self.recorder.replay()

    def reset(self) -> None:
        if self.api.version == "2.14" and self.holds in self.api.captures:
            self.api.end(self.holds)
            self.api.generator_captures = False
        if self.holds is not None:
            self.api.release(self.holds)
        self.holds = None

    def __del__(self) -> None:
        self.reset()
