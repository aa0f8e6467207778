"""What `torch.cuda` answers on a machine with GPUs that are not there: devices, streams, events and graphs.

Nothing of it computes; it keeps the order of things: which device and stream is current, and whether one records.
"""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch

GPUS = 2  # as fake_guard.cpp has it
CAPABILITY = (9, 0)
MEMORY = 80 * 2**30


class Driver:
    """The state of the GPUs, and `torch.cuda` as far as it tells of it.

    Args:
        waits: called with what the host waits for whenever it does.
    """

    def __init__(self, waits: Callable[[str], None]) -> None:
        self.waits = waits
        self.guard = build_guard()
        self.streams = [Stream(self, index) for index in range(GPUS)]  # the current one of every GPU
        self.recording: Graph | None = None
        self.replays = 0

    @property
    def device(self) -> int:
        """The current device of this thread."""
        return self.guard.current_device()

    @contextmanager
    def installed(self) -> Iterator[None]:
        """`torch.cuda` is this driver's."""
        properties = SimpleNamespace(
            name="a GPU that is not there", major=CAPABILITY[0], minor=CAPABILITY[1], total_memory=MEMORY
        )
        answers: dict[str, Any] = {
            "_lazy_init": lambda: None,
            "_exchange_device": self.exchange_device,
            "_maybe_exchange_device": self.exchange_device,
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "is_bf16_supported": lambda *_: True,
            "device_count": lambda: GPUS,
            "current_device": lambda: self.device,
            "set_device": self.exchange_device,
            "get_device_capability": lambda *_: CAPABILITY,
            "get_device_properties": lambda *_: properties,
            "get_device_name": lambda *_: properties.name,
            "empty_cache": lambda: None,
            "_sleep": lambda _: None,
            "manual_seed_all": lambda _: None,
            "synchronize": lambda *_: self.waits("torch.cuda.synchronize"),
            "current_stream": lambda device=None: self.streams[index_of(self, device)],
            "set_stream": self.set_stream,
            "Stream": lambda device=None, **_: Stream(self, index_of(self, device)),
            "Event": lambda **_: Event(self),
            "CUDAGraph": lambda **_: Graph(self),
            "is_current_stream_capturing": lambda: self.recording is not None,
            "MemPool": lambda: SimpleNamespace(id=(0, 1), use_count=lambda: 1, snapshot=lambda **_: []),
        }
        with ExitStack() as stack:
            for name, answer in answers.items():
                stack.enter_context(mock.patch.object(torch.cuda, name, answer))
            stack.enter_context(mock.patch.object(torch._C, "_cuda_clearCublasWorkspaces", create=True))
            yield

    def exchange_device(self, device: Any) -> int:
        """Make `device` the current one, unless its index is negative. Returns the one before."""
        return self.guard.exchange_device(index_of(self, device))

    def set_stream(self, stream: Stream) -> None:
        self.exchange_device(stream.device)
        self.streams[stream.device.index] = stream


def build_guard() -> ctypes.CDLL:
    """fake_guard.cpp, built and installed in this process for good."""
    torch_folder = Path(torch.__file__).parent
    with TemporaryDirectory() as folder:
        library = Path(folder, "guard.so")
        flags = ["-std=c++20", "-shared", "-fPIC", f"-I{torch_folder}/include", f"-L{torch_folder}/lib", "-lc10"]
        subprocess.run(["g++", Path(__file__).with_name("fake_guard.cpp"), "-o", library, *flags], check=True)
        guard = ctypes.CDLL(str(library))
    guard.install()
    return guard


def index_of(driver: Driver, device: Any) -> int:
    """The index of a device as `torch.cuda` takes it."""
    if isinstance(device, int):
        return device
    index = None if device is None else torch.device(device).index
    return driver.device if index is None else index


class Stream:
    """A stream of one GPU."""

    def __init__(self, driver: Driver, index: int) -> None:
        self.driver, self.device = driver, torch.device("cuda", index)

    def wait_stream(self, stream: Stream) -> None:
        """Work that follows here comes after what `stream` has now."""

    def synchronize(self) -> None:
        self.driver.waits("Stream.synchronize")


class Event:
    """A moment on a stream."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    def record(self, stream: Stream | None = None) -> None:
        """It is over when what the stream has now is."""

    def wait(self, stream: Stream) -> None:
        """Work that follows on `stream` comes after this."""

    def elapsed_time(self, end: Event) -> float:
        return 1.0

    def synchronize(self) -> None:
        self.driver.waits("Event.synchronize")


class Graph:
    """What was recorded between `capture_begin` and `capture_end`."""

    def __init__(self, driver: Driver) -> None:
        self.driver = driver

    def capture_begin(self, *_: Any, **__: Any) -> None:
        if self.driver.recording is not None:
            raise RuntimeError("a capture begins within a capture")
        self.driver.recording = self

    def capture_end(self) -> None:
        if self.driver.recording is not self:
            raise RuntimeError("a capture ends that did not begin")
        self.driver.recording = None

    def replay(self) -> None:
        self.driver.replays += 1

    def reset(self) -> None:
        """Let go of what was recorded."""
