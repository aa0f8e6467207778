"""When a training is to stop or to save, whatever its step: because of a signal, or after some minutes."""

from __future__ import annotations

import logging
import time
from typing import NoReturn

import torch
import torch.distributed as dist

from flowar.system.ranks import Ranks
from flowar.system.signals import StopRequest, end

log = logging.getLogger(__name__)


class Interruption:
    """Asks between steps whether a training is to stop or to save; all ranks get the same answers.

    Attributes:
        signum: the signal that any rank got, or 0; as of the last `ask`.
        overdue: whether the last checkpoint lies `minutes` back; as of the last `ask`.
    """

    def __init__(self, request: StopRequest, minutes: float, ranks: Ranks) -> None:
        """Begin to wait for a signal that `request` notes; 0 minutes are no limit."""
        self.request, self.minutes, self.ranks = request, minutes, ranks
        self.group = dist.new_group(backend="gloo") if ranks.world_size > 1 else None  # which waits for no GPU
        self.signum, self.overdue = 0, False
        self.saved()

    def saved(self) -> None:
        """Count the minutes from now on."""
        self._saved = time.monotonic()

    def ask(self) -> None:
        """Find out, between two steps. All ranks must call this together."""
        late = bool(self.minutes) and time.monotonic() > self._saved + 60 * self.minutes
        answers = torch.tensor([self.request.signum or 0, late and self.ranks.main])
        if self.group is not None:
            dist.all_reduce(answers, dist.ReduceOp.MAX, group=self.group)
        self.signum, self.overdue = int(answers[0]), bool(answers[1])

    def end(self, step: int) -> NoReturn:
        """End the process as the signal says, when the checkpoint of `step`, if it is not 0, is on disk."""
        if step:
            log.info("stopped after step %d; resume goes on from its checkpoint", step)
        end(self.signum)
