"""Settings for a process that is FlowAR's own, as the `flowar` command's is; the library leaves them to its users."""

from __future__ import annotations

import ctypes
import gc
import signal
import sys
import warnings

from flowar.system import signals
from flowar.system.streams import accept_any_encoding
from flowar.system.threads import limit_threads

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of glibc's malloc.h
LARGEST_INT, LARGEST_BLOCK = 2**31 - 1, 2**30


def take_over_terminal() -> None:
    """Let SIGTERM end the process in good order, unless it is ignored, and any terminal show what is printed."""
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, signals.end)
    accept_any_encoding()


def take_over_process() -> None:
    """Use no more threads than CPUs, keep freed memory, and spare the garbage collector what imports left behind.

    A warning of torch is silenced that every save and load of a run of one process would give.
    """
    limit_threads()
    keep_freed_memory()
    warnings.filterwarnings("ignore", "torch.distributed is disabled", module="torch.distributed.checkpoint")
    gc.freeze()  # PyTorch's hundred thousands of objects, which each full collection would walk, also those at exit


def keep_freed_memory() -> None:
    """Have glibc keep freed memory for the next op, but give blocks of 1 GiB back, which fault in page by page."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt and mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK):  # versions before 2.35 refuse more than 32 MiB
        mallopt(M_TRIM_THRESHOLD, LARGEST_INT)
