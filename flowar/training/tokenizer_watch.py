"""The watch over a tokenizer's training: at every interval a checkpoint, metrics, a picture, a line in the log."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from torch import Tensor

from flowar.system.files import write_json
from flowar.system.progress import duration
from flowar.system.ranks import Ranks
from flowar.training.checkpoints import CheckpointWriter, load_checkpoint, refuse_second_run
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
    """Saves and measures a tokenizer's training at every interval."""

    def __init__(self, state: TokenizerState, options: WatchOptions) -> None:
        """Bring `state` to where the training was, if it is to be resumed.

        Raises:
            DataError: for a checkpoint of another training, for none to resume, and for some where a training is new.
        """
        self.output, self.held_out = options.output, options.held_out
        folder = self.output / "checkpoints"
        if options.resume:
            log.info("resumed from %s", load_checkpoint(state, folder))
        else:
            refuse_second_run(self.output, folder)
        write_json(self.output / "training.json", asdict(state.config))
        self.saving = CheckpointWriter(folder, KEPT_CHECKPOINTS, Ranks(state.tokenizer.mean.device))
        self.metrics = MetricsWriter(self.output, state.step)
        self.first, self.started = state.step, time.perf_counter()

    def due(self, state: TokenizerState) -> bool:
        """Whether an interval ends at this step."""
        return state.step % state.config.interval == 0 or state.step in (state.steps, state.all_steps)

    def look(self, state: TokenizerState, loss: float) -> None:
        """Save a checkpoint, measure, draw and log; the tokenizer is in eval mode afterwards."""
        self.saving.save(state)
        self.saving.wait()  # so that a kill at any moment costs no more than the interval
        found = reconstruct(state.tokenizer.eval(), self.held_out)
        picture = self.output / "reconstructions" / f"step_{state.step:08d}.png"
        draw(self.held_out, found, picture)
        seconds = (time.perf_counter() - self.started) / (state.step - self.first)
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
