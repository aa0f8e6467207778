"""Whether both libraries of ops load, and serve every op of the schema: first contact with a torch built for CUDA.

    python tests/registered.py

Needs no GPU. Exit code 1 where a kernel is missing, or torch has no CUDA.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import flowar
from flowar import ops


def main() -> None:
    print(f"flowar of {Path(flowar.__file__).parent}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    if torch.version.cuda is None:
        sys.exit("registered: expected a torch that is built for CUDA, whose tensors the library of CUDA ops serves")
    missing = {device: ops.missing_kernels(device) for device in ("cpu", "cuda")}
    for device, names in missing.items():
        print(f"{device}: {'no kernel of ' + ', '.join(names) if names else 'every op has its kernel'}")
    print(f"{len(ops.cuda_kernels())} CUDA kernels: {', '.join(ops.cuda_kernels())}")
    sys.exit(1 if any(missing.values()) else 0)


if __name__ == "__main__":
    main()
