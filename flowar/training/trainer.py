"""The training run: its parts, its loop, and the models that it exports."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch

from flowar.config import IMAGENET_CLASSES, FlowARConfig
from flowar.errors import TrainingError
from flowar.model import FlowAR
from flowar.pipeline import FlowARPipeline
from flowar.system.files import write_json
from flowar.system.precision import default_device, matmul_precision, parse_dtype
from flowar.system.progress import step_progress
from flowar.system.ranks import Ranks
from flowar.system.structured import read_rows
from flowar.tokenizers.base import Tokenizer
from flowar.training.batches import batches
from flowar.training.checkpoints import CheckpointWriter, load_checkpoint, refuse_second_run
from flowar.training.config import TrainConfig
from flowar.training.finetune import load_start, start_from
from flowar.training.held_out import turned
from flowar.training.latent_store import LatentStore
from flowar.training.load_data import count_classes, load_data, load_held_out
from flowar.training.metrics import MetricsRow, MetricsWriter, StepMetrics
from flowar.training.optimizer import learning_rate, total_steps, warmup_steps
from flowar.training.parallel import parallelize
from flowar.training.pool import Pool
from flowar.training.room import check_model, check_time
from flowar.training.sample_grids import sample_grid
from flowar.training.state import TrainState
from flowar.training.step import REMEDY, Batch, Outcome, TrainingStep, check_shares, chosen_precision

log = logging.getLogger(__name__)


def train(config: TrainConfig, ranks: Ranks | None = None) -> Path:
    """Train a model, or resume a run.

    Args:
        config: all that the run depends on.
        ranks: this process among others (`join_ranks`); if left out, it is alone.

    Returns:
        The folder of the exported model: averaged weights and tokenizer.

    Raises:
        ValueError: for a configuration, data set, tokenizer or checkpoint that does not fit.
        TrainingError: for a run that does not converge; one whose last loss or weights are not finite exports nothing.
        OSError: if writing fails; checkpoints that were there stay.

    Example:
        ```python
        data = DataConfig(folder="photos", tokenizer="pixel:4", image_size=32)
        folder = train(TrainConfig(data, output="runs/photos", model=FlowARConfig()))
        pipe = FlowARPipeline.from_pretrained(folder)
        ```
    """
    return Run(config, ranks or Ranks(default_device(config.device))).to_the_end()


class Run:
    """A training run, as one of its processes sees it."""

    def __init__(self, config: TrainConfig, ranks: Ranks) -> None:
        self.ranks, self.output = ranks, Path(config.output)
        self.checkpoint_folder = self.output / "checkpoints"
        if not config.resume:
            refuse_second_run(self.output, self.checkpoint_folder)
        check_shares(config, ranks.world_size)
        check_model(config.model, config, ranks)
        classes = None if config.model.classes_left_out else config.model.num_classes
        with ranks.main_first():
            self.data, self.tokenizer = load_data(config.data, self.output, classes, config.model.class_names)
            self.held_out, images = load_held_out(config.validation, config.data, self.data, self.output)
        self.config = config = replace(config, model=with_classes(config.model, self.data))
        self.pool = Pool(self.data, images, config.balance_classes)
        torch.manual_seed(config.seed)
        self.steps = total_steps(config.optim, len(self.pool))
        model = new_model(config, self.data, self.tokenizer, self.steps, ranks).to(ranks.device)
        model.checkpointing = config.checkpointing
        distributed = parallelize(model, config.parallel, ranks)
        self.state = TrainState.new(model, config.optim)
        self.step = TrainingStep(self.state, config, ranks, distributed)
        self.warmup = warmup_steps(config.optim, len(self.pool))
        if config.resume:
            path = load_checkpoint(self.state, self.checkpoint_folder)
            log.info("resumed from %s", path)

    def to_the_end(self) -> Path:
        """Train to the last step, and return the folder of the exported model."""
        if self.ranks.main:
            precision = chosen_precision(self.config.precision, self.ranks.device)  # "auto" tells nobody what it was
            write_json(self.output / "config.json", asdict(replace(self.config, resume=False, precision=precision)))
        saving = CheckpointWriter(self.checkpoint_folder, self.config.keep_checkpoints, self.ranks)
        writer = MetricsWriter(self.output, self.state.step) if self.ranks.main else None
        try:
            self._train(saving, writer)
        finally:
            if writer:
                writer.close()
            saving.close()
        return self._export()

    def _train(self, saving: CheckpointWriter, writer: MetricsWriter | None) -> None:
        config, state, device = self.config, self.state, self.ranks.device
        optim, metrics = config.optim, StepMetrics(state.model.config, device)
        interval = Interval(state.step)
        source = batches(self.pool, optim.batch_size, config.seed, state.step, self.steps, self.ranks)
        with step_progress(self.steps, None if writer else False, "training", state.step) as advance:
            while state.step < self.steps:
                batch = interval.wait_for(source).to(device)
                lr = learning_rate(state.step, self.steps, self.warmup, optim)
                outcome = self.step(batch, lr)
                if not outcome.skipped:
                    for out, times in outcome.losses:
                        metrics.update_loss(out, times)
                metrics.update_step(outcome.grad_norm, torch.tensor(outcome.skipped, device=device), lr)
                advance()
                if state.step == self.steps:
                    self._check_last(outcome)
                save = self._due(config.save_every)
                evaluate = self.held_out is not None and self._due(config.validation.every)
                # A resumed run begins an interval where this one does.
                log_now = save or evaluate or self._due(config.log_every)
                if log_now:
                    self._log(metrics, interval, writer, evaluate)
                if config.sample_every and self._due(config.sample_every):
                    picture = sample_grid(state, config, self.tokenizer, self.ranks)
                    if writer:
                        writer.image(state.step, "samples", picture)
                if save:
                    saving.save(state)
                if log_now:
                    interval = Interval(state.step)

    def _check_last(self, outcome: Outcome) -> None:
        """Check that the loss of the last step is finite, before a checkpoint says that the run has ended.

        Raises:
            TrainingError: if it is not.
        """
        loss = self.ranks.sum(torch.stack([out.loss for out, _ in outcome.losses]).sum())
        if not loss.isfinite():
            raise TrainingError(f"step {self.steps}: expected a finite loss in the last step, got {loss}; {REMEDY}")

    def _due(self, every: int) -> bool:
        return self.state.step % every == 0 or self.state.step == self.steps

    def _log(self, metrics: StepMetrics, interval: Interval, writer: MetricsWriter | None, evaluate: bool) -> None:
        """Write a row for the steps since the last one, with the held-out loss if it is due."""
        sums, step = self.ranks.sum(metrics.sums()), self.state.step
        images = (step - interval.first) * self.config.optim.batch_size
        precision = self.step.precision
        seconds = time.perf_counter() - interval.started
        with matmul_precision(precision):  # which peak to compare with
            row = metrics.row(sums, seconds, images, precision.dtype, interval.waited, self.ranks.world_size)
        metrics.reset()
        if self.held_out is not None and evaluate:
            model = self.state.average_model(self.config.optim.ema_decays[0])
            per_scale = self.held_out.loss(model, precision, self.ranks)
            row |= {"held_out_loss": metrics.weighted(per_scale), "held_out_loss_scale": per_scale}
        if writer:
            writer.write(step, row)
            losses = [f"{name.replace('_', ' ')} {row[name]:.4f}" for name in ("loss", "held_out_loss") if name in row]
            rate = row["images_per_second"]
            log.info("step %d of %d: %s, %.0f images/s", step, self.steps, ", ".join(losses), rate)
            if evaluate and (warning := turned(read_rows(writer.path, MetricsRow))):
                log.warning(warning)

    def _export(self) -> Path:
        """Write every average as a model of its own, and return the folder of the first."""
        decays = self.config.optim.ema_decays
        folders = [self.output / ("model" if decay == decays[0] else f"model_ema_{decay}") for decay in decays]
        for decay, folder in zip(decays, folders, strict=True):
            model = self.state.average_model(decay)
            if not all(weight.isfinite().all() for weight in model.parameters()):
                raise TrainingError(f"{folder}: expected finite weights to export, got others; {REMEDY}")
            with self.ranks.main_first():
                if self.ranks.main:
                    pipeline = FlowARPipeline(model, self.tokenizer)
                    pipeline.save_pretrained(folder, parse_dtype(self.config.export_dtype))
        return folders[0]


class Interval:
    """The time between two rows of metrics."""

    def __init__(self, first: int) -> None:
        self.first, self.started, self.waited = first, time.perf_counter(), 0.0

    def wait_for(self, source: Iterator[Batch]) -> Batch:
        """The next batch; `waited` grows by the seconds that fetching it took."""
        started = time.perf_counter()
        batch = next(source)
        self.waited += time.perf_counter() - started
        return batch


def new_model(config: TrainConfig, data: LatentStore, tokenizer: Tokenizer, steps: int, ranks: Ranks) -> FlowAR:
    """Make the model that a run of so many steps begins with, whose classes `config` has from the data.

    Raises:
        ValueError: if the configured model, or the one to start from, does not fit the data, or its training takes more
            memory or time than there is.
    """
    start = load_start(config.finetune) if config.finetune else None
    model = config.model
    if start and replace(model, num_classes=IMAGENET_CLASSES, class_names=()) == FlowARConfig():  # all else left out
        model = replace(start.config, num_classes=model.num_classes, class_names=model.class_names)
    fitted = fitting(model, data, tokenizer)
    check_model(fitted, config, ranks)
    check_time(fitted, config, steps, ranks)
    if start is None:
        return FlowAR(fitted)
    assert config.finetune is not None
    return start_from(start, fitted, config.finetune)


def with_classes(config: FlowARConfig, data: LatentStore) -> FlowARConfig:
    """`config` with the classes of the data and their names, where they have any; a number alone may be larger."""
    count = count_classes(data) if config.classes_left_out else config.num_classes
    return replace(config, num_classes=count, class_names=data.class_names or config.class_names)


def fitting(config: FlowARConfig, data: LatentStore, tokenizer: Tokenizer) -> FlowARConfig:
    """The configuration with channels, grid and tokenizer of the data; scales that were not chosen follow the grid.

    Raises:
        ValueError: if the scales that were chosen do not end in the grid of the data.
    """
    chosen = config.grids != FlowARConfig(latent_size=config.grid).grids
    return replace(
        config,
        latent_channels=tokenizer.channels,
        latent_size=data.grid,
        scales=config.scales if chosen else None,
        tokenizer=tokenizer.record(),
    )
