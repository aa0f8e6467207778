"""The number of CPUs that this process may use.

PyTorch knows the affinity of a process, but not the quota of a container.
"""

from __future__ import annotations

import math
import os
from pathlib import Path

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")  # where the user has said how many threads there should be


def limit_threads() -> None:
    """Lower PyTorch's threads to `usable_cpus()`, unless an environment variable sets them: more only wait."""
    import torch  # flowar doctor starts where it cannot be imported

    if not thread_variable():
        torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))


def describe_limit() -> str:
    """The reason for the number of threads, in a few words."""
    variable = thread_variable()
    if variable:
        return f"{variable}={os.environ[variable]}"
    cpus, quota = cpus_by_affinity(), cpus_by_quota()
    return f"quota of {quota:g} CPUs" if quota < cpus else f"affinity to {cpus} CPUs"


def thread_variable() -> str | None:
    """The environment variable that sets the number of threads, if one does."""
    return next((name for name in VARIABLES if os.environ.get(name)), None)


def usable_cpus() -> int:
    """The number of CPUs that this process may use at once, by affinity and by quota; at least 1."""
    return max(1, math.ceil(min(cpus_by_quota(), cpus_by_affinity())))


def cpus_by_affinity() -> int:
    """The number of CPUs that this process may be scheduled on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpus_by_quota(root: Path = Path("/")) -> float:
    """The CPUs' worth of time that the control groups of this process allow; infinity if there is no limit.

    Args:
        root: the root of the file system, with `proc/self/cgroup` and `sys/fs/cgroup`.
    """
    return min(map(group_quota, control_groups(root, "cpu")), default=math.inf)


def control_groups(root: Path, controller: str) -> list[Path]:
    """The folders of the groups that limit this process, and of those around them; some may not exist.

    In a container, the paths are those of the host, or start at the container's own group: its mount is the last.

    Args:
        controller: "cpu" or "memory".
    """
    groups = []
    for line in lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / (controller if controllers else "")  # version 2 has one tree of all of them
        group = mount / path.lstrip("/")
        groups += [group, *(parent for parent in group.parents if parent.is_relative_to(mount))]
    return groups


def group_quota(group: Path) -> float:
    """The CPUs' worth of time that one control group allows."""
    words = " ".join(lines(group / "cpu.max")).split()  # version 2: "150000 100000", or "max 100000"
    if not words:
        words = [*lines(group / "cpu.cfs_quota_us"), *lines(group / "cpu.cfs_period_us")]  # version 1: -1 is no limit
    if len(words) < 2 or words[0] in ("max", "-1"):
        return math.inf
    return int(words[0]) / int(words[1])


def lines(path: Path) -> list[str]:
    """The lines of a file; none if there is no such file, as outside Linux."""
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
