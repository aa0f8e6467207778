"""The program; `python tests/campaign --help`."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

TESTS = Path(__file__).parents[1]
GATE, FULL = 300, 3000  # cases


def main() -> int:
    from campaign import __doc__ as about
    from campaign.campaign import replay, run_all

    parser = argparse.ArgumentParser(prog="python tests/campaign", description=about.splitlines()[0])
    parser.add_argument("--seed", type=int, default=0)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help=f"run {FULL} cases, not {GATE}")
    size.add_argument("--cases", type=int, default=GATE, help="how many cases to run")
    size.add_argument("--case", type=int, help="the number of the only case to run")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    if options.case is not None:
        return replay(options.seed, options.case)
    return run_all(options.seed, FULL if options.full else options.cases, options.jobs)


if __name__ == "__main__":
    # Before torch is imported: processes with several threads cannot be forked, and GPUs map more than is allowed.
    os.environ |= {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    sys.path[0] = str(TESTS)
    sys.path.insert(1, str(TESTS.parent))
    sys.exit(main())
