"""A program: one of two processes that distill a teacher, whose latents they draw themselves.

    distill_run.py TEACHER OUTPUT [RANK RENDEZVOUS]

With the latter it makes a process group, whose collectives time out long before the last latents are drawn, and the
second process looks late for what is missing. Shards are small, so that there are several.
"""

from __future__ import annotations

import sys
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from flowar.training import OptimConfig, teacher_latents
from flowar.training.distillation import distill
from flowar.training.distillation_config import DistillConfig

TIMEOUT, WAIT = 6.0, 10.0
Artist, LatentStore = teacher_latents.Artist, teacher_latents.LatentStore
draw, complete = Artist.draw, LatentStore.complete


def slow_draw(self: Any, number: int) -> None:
    if number == 1:
        time.sleep(WAIT)
    draw(self, number)


def slow_complete(folder: Path) -> bool:
    if dist.get_rank() == 1:
        time.sleep(1)
    return complete(folder)


torch.set_num_threads(1)
teacher_latents.SHARD_IMAGES = 4
teacher, output, *place = sys.argv[1:]
if place:
    meeting = {"init_method": f"file://{place[1]}", "rank": int(place[0]), "world_size": 2}
    dist.init_process_group("gloo", timeout=timedelta(seconds=TIMEOUT), **meeting)
    Artist.draw = slow_draw  # type: ignore[method-assign]
    LatentStore.complete = staticmethod(slow_complete)  # type: ignore[method-assign, assignment]
optim = OptimConfig(batch_size=8, steps=4, lr=1e-3, warmup_steps=2)
small: dict[str, Any] = {"images": 18, "jumps": 4, "device": "cpu", "log_every": 1, "sample_every": 0}
distill(DistillConfig(teacher, output, optim=optim, precision="float32", **small))
