"""Threads: the CPUs that a process may use, and what the command sets up for its own process."""

from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from flowar.system import threads
from flowar.system.threads import cpus_by_affinity, cpus_by_quota, describe_limit, limit_threads, usable_cpus


def version_1(folder: str, quota: str) -> dict[str, str]:
    """The files of version 1, with the quota in this folder."""
    groups = {"proc/self/cgroup": "5:memory:/job\n4:cpu,cpuacct:/job\n0::/\n"}
    return groups | {f"{folder}cpu.cfs_quota_us": f"{quota}\n", f"{folder}cpu.cfs_period_us": "100000\n"}


@pytest.mark.parametrize(
    ("files", "quota"),
    [
        ({}, math.inf),
        ({"proc/self/cgroup": "0::/\n"}, math.inf),
        ({"proc/self/cgroup": "0::/\n", "cpu.max": "max 100000\n"}, math.inf),
        ({"proc/self/cgroup": "0::/\n", "cpu.max": "150000 100000\n"}, 1.5),
        ({"proc/self/cgroup": "0::/a/b\n", "a/b/cpu.max": "400000 100000\n", "a/cpu.max": "50000 50000\n"}, 1),
        ({"proc/self/cgroup": "0::/a/b\n", "a/b/cpu.max": "50000 100000\n", "a/cpu.max": "max 100000\n"}, 0.5),
        ({"proc/self/cgroup": "0::/a\n", "b/cpu.max": "50000 100000\n"}, math.inf),
        ({"proc/self/cgroup": "0::/of/the/host\n", "cpu.max": "200000 100000\n"}, 2),
        (version_1("cpu/job/", "-1"), math.inf),
        (version_1("cpu/job/", "250000"), 2.5),
        (version_1("cpu/", "50000"), 0.5),
    ],
)
def test_quota(tmp_path: Path, files: Mapping[str, str], quota: float) -> None:
    for name, content in files.items():
        path = tmp_path / (name if name.startswith("proc") else f"sys/fs/cgroup/{name}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert cpus_by_quota(tmp_path) == quota


def test_quota_of_this_machine() -> None:
    assert cpus_by_quota() > 0
    assert 1 <= usable_cpus() <= cpus_by_affinity() <= (os.cpu_count() or 1)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Eight CPUs, and no word from the user."""
    for name in threads.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "cpus_by_affinity", lambda: 8)
    return monkeypatch


@pytest.mark.parametrize(
    ("quota", "cpus", "description"),
    [
        (math.inf, 8, "affinity to 8 CPUs"),
        (16, 8, "affinity to 8 CPUs"),
        (2, 2, "quota of 2 CPUs"),
        (1.5, 2, "quota of 1.5 CPUs"),
        (0.1, 1, "quota of 0.1 CPUs"),
    ],
)
def test_usable_cpus(machine: pytest.MonkeyPatch, quota: float, cpus: int, description: str) -> None:
    machine.setattr(threads, "cpus_by_quota", lambda: quota)
    assert usable_cpus() == cpus
    assert describe_limit() == description


@pytest.mark.parametrize(
    ("before", "quota", "environment", "after"),
    [
        (4, 1.5, {}, 2),
        (4, math.inf, {}, 4),
        (2, 3.0, {}, 2),
        (4, 1.5, {"OMP_NUM_THREADS": ""}, 2),
        (4, 1.5, {"OMP_NUM_THREADS": "4"}, 4),
        (4, 1.5, {"MKL_NUM_THREADS": "4"}, 4),
    ],
)
def test_threads_are_lowered(
    machine: pytest.MonkeyPatch, before: int, quota: float, environment: Mapping[str, str], after: int
) -> None:
    machine.setattr(threads, "cpus_by_quota", lambda: quota)
    for name, value in environment.items():
        machine.setenv(name, value)
    own = torch.get_num_threads()
    try:
        torch.set_num_threads(before)
        limit_threads()
        assert torch.get_num_threads() == after
    finally:
        torch.set_num_threads(own)


def test_variable_is_named(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("MKL_NUM_THREADS", "3")
    assert describe_limit() == "MKL_NUM_THREADS=3"


def run(code: str) -> list[int]:
    """The integers that `code` prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
    )
    return [int(word) for word in done.stdout.split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_sampling_honours_the_number_of_threads() -> None:
    """With one thread none is started; with three, two are, so the count is one of what it should be."""
    before, one, three = run(
        """if True:
            import os, torch
            from conftest import small_model  # sets one thread
            def count():
                print(len(os.listdir("/proc/self/task")))
            model, labels = small_model(), [0, 1, 2, 3] * 32
            count()
            model.sample(labels, 2)
            count()
            torch.set_num_threads(3)
            model.sample(labels, 2)
            count()
        """
    )
    assert (one, three) == (before, before + 2)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="settings of glibc")
def test_freed_memory_is_kept() -> None:
    """A block of 64 MiB that is freed and asked for again has its pages still."""
    before, after = run(
        """if True:
            import resource
            from flowar.system.process import keep_freed_memory
            def faults():
                start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
                for _ in range(4):
                    bytearray(b"x") * 2**26
                return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start
            print(faults())
            keep_freed_memory()
            print(faults())
        """
    )
    assert after < before / 2
