"""A program for torchrun: what one of two processes hears of the other. Its argument is a file for them to meet in."""

from __future__ import annotations

import os
import sys
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist

from flowar.errors import TrainingError
from flowar.system.ranks import Ranks, join_ranks


def talk(ranks: Ranks) -> None:
    main = ranks.main
    assert (ranks.rank, ranks.world_size, ranks.local_size) == (int(os.environ["RANK"]), 2, 2)
    assert ranks.from_main(lambda: {"chosen": [main, 7]}) == {"chosen": [True, 7]}

    def fail() -> None:
        raise KeyError("nothing")

    message = "'nothing'" if main else "the main process failed: KeyError: 'nothing'"
    with pytest.raises(KeyError if main else TrainingError, match=f"^{message}$"):
        ranks.from_main(fail)
    with ranks.main_first():
        time.sleep(4 * main)  # longer than collectives of the group wait
    time.sleep(4 * main)
    ranks.wait_for_all()
    assert ranks.gather(torch.full((2 - ranks.rank, 3), ranks.rank)).tolist() == [[0] * 3, [0] * 3, [1] * 3]
    assert ranks.sum(torch.ones(2)).tolist() == [2, 2]


with join_ranks("cpu") as ranks:
    talk(ranks)
assert not dist.is_initialized()
place = {"init_method": f"file://{sys.argv[1]}", "rank": int(os.environ["RANK"]), "world_size": 2}
dist.init_process_group("gloo", timeout=timedelta(seconds=2), **place)
for _ in range(2):
    with join_ranks("cpu") as ranks:
        talk(ranks)
    dist.barrier()  # the group is there as before
dist.destroy_process_group()
