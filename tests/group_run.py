"""A program: `train` as the programs of others call it, in a process group of their own or started by torchrun.

    group_run.py CONFIG [RANK SIZE RENDEZVOUS TIMEOUT WAIT]

With the latter it makes the group first, whose collectives time out after TIMEOUT seconds, and the main process takes
WAIT seconds longer to load its data. It prints what it found out.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from training_runs import read_config

from flowar.training import checkpoints, trainer

torch.set_num_threads(1)
checked: list[str] = []
load_data, check = trainer.load_data, checkpoints.check


def slow_load_data(*arguments: Any) -> Any:
    if dist.get_rank() == 0:
        time.sleep(float(sys.argv[6]))
    return load_data(*arguments)


def noted_check(path: Path, *arguments: Any) -> Any:
    checked.append(path.name)
    return check(path, *arguments)


checkpoints.check = noted_check
if len(sys.argv) > 2:
    rank, size, rendezvous, timeout = sys.argv[2:6]
    place = {"init_method": f"file://{rendezvous}", "rank": int(rank), "world_size": int(size)}
    dist.init_process_group("gloo", timeout=timedelta(seconds=float(timeout)), **place)
    trainer.load_data = slow_load_data
trainer.train(read_config(Path(sys.argv[1])))
together = torch.ones(1)
if dist.is_initialized():
    dist.all_reduce(together)
print(json.dumps({"checked": checked, "together": int(together)}))
