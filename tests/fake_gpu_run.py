"""Everything that runs on a GPU, on GPUs that are not there: a table of what was tried, and what would go wrong.

    python tests/fake_gpu_run.py
    python tests/fake_gpu_run.py engine "naive path"      # some parts of the package
    python tests/fake_gpu_run.py planted                  # faults, to see that they are found

It needs a C++ compiler, no GPU, and any build of torch. Exit code 1: something was found.
"""

from __future__ import annotations

import gc
import sys
from itertools import chain

import torch
from fake_cuda import READ, WAIT, FakeCuda, Finding
from gpu_work import Case, cases, faults

from flowar.ops import backend

HEADER = f"{'':50} {'operations':>10} {'to GPU':>8} {'pageable':>8} {'to host':>8}  findings"


def main(parts: list[str]) -> int:
    """Try the cases of these parts of the package, or all of them."""
    torch.set_num_threads(1)
    # Where torch is built without CUDA, there is no library of CUDA kernels; shapes are those of any kernels.
    backend._kernels |= {(name, "cuda") for name, _ in backend._kernels}
    chosen = [case for case in chain(cases(), faults()) if case.part in (parts or {each.part for each in cases()})]
    gpu, findings = FakeCuda(), list[Finding]()
    print(HEADER)
    gc.freeze()  # every capture collects garbage
    with gpu.installed():
        for case in chosen:
            found = tried(gpu, case)
            findings += found
            print(row(gpu, case, found), *(f"    {finding}" for finding in found), sep="\n", flush=True)
    print(f"{len(findings)} findings; {gpu.driver.replays} replays of graphs; torch {torch.__version__}")
    return 1 if findings else 0


def tried(gpu: FakeCuda, case: Case) -> list[Finding]:
    """What is found, each once. Counts are those of the second call; the first one may measure kernels."""
    work = case.prepare()
    gpu.clear()
    with gpu.watched(WAIT, *case.allowed):
        work()
    first = [finding for finding in gpu.findings if not finding.where.startswith("flowar/system/autotune.py")]
    gpu.clear()
    with gpu.watched(*case.allowed):
        work()
    return [finding for finding in dict.fromkeys(first + gpu.findings) if not tells_of_changed_weights(finding)]


def tells_of_changed_weights(finding: Finding) -> bool:
    """Whether it is the read, one a call, by which the host learns whether weights are those that were packed."""
    return finding.kind == READ and finding.where.startswith("flowar/engine/plan.py")


def row(gpu: FakeCuda, case: Case, found: list[Finding]) -> str:
    return f"{case!s:50} {gpu.operations:10} {gpu.to_gpu:8} {gpu.pageable:8} {gpu.to_host:8}  {len(found)}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
