"""Free memory, and the refusal of work that no memory holds, before any of it is taken."""

from __future__ import annotations

import math
from pathlib import Path

from flowar.errors import FlowARError
from flowar.system.threads import control_groups, lines

ROOT = Path("/")
UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB")
NEVER = 2.0**46  # bytes that no machine has, where the system does not tell how many are free
UNNOTICED = 2**28  # bytes that are asked for without a look at what is free

# A control group's limit, what it uses, and in its statistics what it can give up: version 2, version 1.
GROUP_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def check_memory(name: str, what: str, needed: float) -> None:
    """Check that the memory that something takes at the very least is there.

    Args:
        name: the option that asks for it.
        what: what takes it, in words.
        needed: the bytes that it takes.

    Raises:
        FlowARError: if there is less, with the estimate.
    """
    if needed < UNNOTICED:
        return
    free = free_on_host(ROOT)
    free = NEVER if free is None else free + swap(ROOT)
    if needed > free:
        raise FlowARError(f"{name}: expected what fits into {size(free)} of free memory, got {what}: {size(needed)}")


def size(count: float) -> str:
    """A number of bytes in words, as 1.5 GiB."""
    power = min(len(UNITS) - 1, int(math.log2(max(count, 1)) // 10))
    return f"{count / 1024**power:.3g} {UNITS[power]}"


def swap(root: Path) -> float:
    """The free bytes of swap space."""
    free = [line.split()[1] for line in lines(root / "proc/meminfo") if line.startswith("SwapFree:")]
    return int(free[0]) * 1024 if free else 0


def free_on_host(root: Path) -> float | None:
    """The free bytes of the host: what Linux has available, or less if the control groups of this process allow less.

    Args:
        root: the root of the file system, with `proc` and `sys/fs/cgroup`.
    """
    available = [line.split()[1] for line in lines(root / "proc/meminfo") if line.startswith("MemAvailable:")]
    if not available:
        return None
    return min(int(available[0]) * 1024, *map(group_free, control_groups(root, "memory")), math.inf)


def group_free(group: Path) -> float:
    """The bytes that a control group allows beyond those in use; infinity if it has no limit."""
    for limit, usage, cache in GROUP_FILES:
        words = lines(group / limit)
        if words and words[0] != "max":
            given_up = [int(line.split()[1]) for line in lines(group / "memory.stat") if line.split()[0] == cache]
            return int(words[0]) - int(lines(group / usage)[0]) + sum(given_up)
    return math.inf
