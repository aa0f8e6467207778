"""The watch over a tokenizer's training: at every interval metrics, a picture, a line in the log, a checkpoint."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from flowar.system.files import write_json
from flowar.system.progress import duration
from flowar.system.ranks import Ranks
from flowar.system.signals import StopRequest
from flowar.training.checkpoints import CheckpointWriter, check_run_folder, load_checkpoint
from flowar.training.interruption import Interruption
from flowar.training.metrics import MetricsWriter
from flowar.training.reconstructions import draw, reconstruct
from flowar.training.tokenizer_state import TokenizerState

log = logging.getLogger(__name__)

KEPT_CHECKPOINTS = 2


@dataclass(frozen=True)
class WatchOptions:
    """The options of watching a training.

    Attributes:
        output: the folder that gets `training.json`, the folders `checkpoints` and `reconstructions`, `metrics.jsonl`
            and, where it is installed, TensorBoard's events.
        held_out: images that are not trained on, uint8 [N, C, H, W].
        resume: whether to go on from the newest checkpoint, exactly as if the training had not been interrupted.
    """

    output: Path
    held_out: Tensor
    resume: bool = False


class Watch:
    """Measures and saves a tokenizer's training at every interval, and when a signal ends it."""

    def __init__(self, state: TokenizerState, options: WatchOptions, request: StopRequest) -> None:
        """Bring `state` to where the training was, if it is to be resumed; `request` notes signals from now on.

        Raises:
            DataError: for a checkpoint of another training, for none to resume, and for some where a training is new.
        """
        self.output, self.held_out = options.output, options.held_out
        folder, ranks = self.output / "checkpoints", Ranks(state.tokenizer.mean.device)
        record: dict[str, Any] = {}
        check_run_folder(self.output, folder, options.resume)
        if options.resume:
            _, record = load_checkpoint(state, folder, ranks)
        reported = record.get("reported", True)
        write_json(self.output / "training.json", asdict(state.config))
        self.saving = CheckpointWriter(folder, KEPT_CHECKPOINTS, ranks)
        self.interruption = Interruption(request, state.config.save_minutes, ranks)
        self.metrics = MetricsWriter(self.output, state.step if reported else state.step - 1)
        self.first, self.started = state.step, time.perf_counter()
        if not reported:
            self.look(state, record["loss"])

    def after_step(self, state: TokenizerState, loss: Tensor) -> None:
        """Look and save, if an interval ends at this step, and end the process, if a signal came.

        The tokenizer may be in eval mode afterwards.
        """
        self.interruption.ask()
        signum = self.interruption.signum
        due = state.step % state.config.interval == 0 or state.step in (state.steps, state.all_steps)
        if due and not signum:
            self.look(state, loss.item())
        if due or signum or self.interruption.overdue:
            self.saving.save(state, loss=loss.item(), reported=not (due and signum))
            self.saving.wait()  # so that a kill at any moment costs no more than the interval
            self.interruption.saved()
        if signum:
            self.interruption.end(state.step)

    def look(self, state: TokenizerState, loss: float) -> None:
        """Measure, draw and log; the tokenizer is in eval mode afterwards."""
        found = reconstruct(state.tokenizer.eval(), self.held_out)
        picture = self.output / "reconstructions" / f"step_{state.step:08d}.png"
        draw(self.held_out, found, picture)
        seconds = (time.perf_counter() - self.started) / max(1, state.step - self.first)
        rate, left = state.config.batch_size / seconds, seconds * (state.all_steps - state.step)
        psnr = {"psnr": found.psnr, "psnr_worst": found.worst, "psnr_colour": found.by_colour}
        self.metrics.write(state.step, {"loss": loss, **psnr, "images_per_second": rate})
        self.metrics.image(state.step, "reconstructions", picture)
        log.info(
            "step %d of %d: loss %.4f; held out %s; %.0f images/s, %s left",
            *(state.step, state.all_steps, loss, found, rate, duration(left)),
        )

    def close(self) -> None:
        """Finish what is being written."""
        self.metrics.close()
        self.saving.close()
