"""The training run: its parts, its loop, and the models that it exports."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import nn

from flowar.config import IMAGENET_CLASSES, FlowARConfig
from flowar.errors import TrainingError
from flowar.model import FlowAR
from flowar.pipeline import FlowARPipeline
from flowar.system.arguments import check_type
from flowar.system.files import write_json
from flowar.system.lock import locked_by_main
from flowar.system.precision import matmul_precision, parse_dtype
from flowar.system.progress import step_progress
from flowar.system.ranks import Ranks, joined
from flowar.system.signals import StopRequest
from flowar.system.structured import read_rows
from flowar.tokenizers.base import Tokenizer
from flowar.training.batches import batches
from flowar.training.checkpoints import CheckpointWriter, check_run_folder, load_checkpoint
from flowar.training.config import RunConfig, TrainConfig
from flowar.training.finetune import load_start, start_from
from flowar.training.held_out import HeldOut, turned
from flowar.training.interruption import Interruption
from flowar.training.interval import Interval
from flowar.training.latent_store import LatentStore
from flowar.training.load_data import count_classes, load_data, load_held_out
from flowar.training.metrics import MetricsRow, MetricsWriter, StepMetrics
from flowar.training.optimizer import learning_rate, total_steps, warmup_steps
from flowar.training.parallel import parallelize
from flowar.training.pool import Pool
from flowar.training.room import check_model, check_time
from flowar.training.sample_grids import sample_grid
from flowar.training.state import TrainState
from flowar.training.step import REMEDY, Batch, OptimizerStep, Outcome, TrainingStep, check_shares, chosen_precision

log = logging.getLogger(__name__)


def train(config: TrainConfig, ranks: Ranks | None = None) -> Path:
    """Train a model, or resume a run.

    Args:
        config: all that the run depends on.
        ranks: this process among others; if left out, those of `join_ranks`.

    Returns:
        The folder of the exported model: averaged weights and tokenizer.

    Raises:
        ValueError: for a configuration, data set, tokenizer or checkpoint that does not fit, and for a run folder that
            another process writes to.
        TrainingError: for a run that does not converge; one whose last loss or weights are not finite exports nothing.
        OSError: if writing fails; checkpoints that were there stay.
        KeyboardInterrupt, SystemExit: for SIGINT and for SIGTERM (143), after the step that it is in, whose checkpoint
            is then there; a second signal ends the process at once. Signals that the program handles in its own way,
            or ignores, are left alone, as all are outside of the main thread.

    Example:
        ```python
        data = DataConfig(folder="photos", tokenizer="pixel:4", image_size=32)
        folder = train(TrainConfig(data, output="runs/photos", model=FlowARConfig()))
        pipe = FlowARPipeline.from_pretrained(folder)
        ```
    """
    check_type("config", config, TrainConfig, "a TrainConfig")
    with joined(ranks, config.device) as together, locked_by_main(Path(config.output), together):
        return TrainingRun(config, together).to_the_end()


class Run(ABC):
    """A run of any kind, as one of its processes sees it: its data, what it trains, its loop, what it exports.

    Attributes:
        config: the configuration; what the data decide is filled in.
        pool: the images to train on.
        tokenizer: what made their latents.
        held_out: the images to measure the loss on, if there are any.
        state: all that checkpoints hold.
        step: what a step does.
    """

    config: RunConfig
    pool: Pool
    tokenizer: Tokenizer
    held_out: HeldOut | None = None
    held_out_every = 0

    def __init__(self, config: RunConfig, output: Path, ranks: Ranks) -> None:
        self.config, self.ranks, self.output = config, ranks, output
        self.checkpoint_folder = self.output / "checkpoints"
        ranks.from_main(lambda: check_run_folder(self.output, self.checkpoint_folder, config.resume))
        check_shares(config, ranks.world_size)
        self._open_data()
        torch.manual_seed(config.seed)
        self.steps = total_steps(config.optim, len(self.pool))
        model = self._new_model().to(ranks.device)
        model.checkpointing = config.checkpointing
        distributed = self._distribute(model)
        self.state = TrainState.new(model, config.optim)
        self.step = self._new_step(distributed)
        self.warmup = warmup_steps(config.optim, len(self.pool))
        self.interval = Interval(StepMetrics(model.config, ranks.device), 0)
        self.reported = True  # whether the row, the picture and the checkpoint that are due at this step are there
        if config.resume:
            _, record = load_checkpoint(self.state, self.checkpoint_folder, ranks)
            self.reported = record.get("reported", True)
            self.interval.begin(self.state.step)
            if "interval" in record:
                self.interval.restore(record["interval"], ranks)

    @abstractmethod
    def _open_data(self) -> None:
        """Set `pool`, `tokenizer` and `held_out`, and what the data decide of `config`."""

    @abstractmethod
    def _new_model(self) -> FlowAR:
        """Make the model that the run begins with."""

    def _distribute(self, model: FlowAR) -> nn.Module:
        """Make the module that computes the loss of the model over all ranks."""
        return parallelize(model, self.config.parallel, self.ranks)

    @abstractmethod
    def _new_step(self, distributed: nn.Module) -> OptimizerStep:
        """Make the step, which trains the model of `state` by the loss of `distributed`."""

    def to_the_end(self) -> Path:
        """Train to the last step, and return the folder of the exported model."""
        if self.ranks.main:
            precision = chosen_precision(self.config.precision, self.ranks.device)  # "auto" tells nobody what it was
            write_json(self.output / "config.json", asdict(replace(self.config, resume=False, precision=precision)))
        saving = CheckpointWriter(self.checkpoint_folder, self.config.keep_checkpoints, self.ranks)
        last_row = self.state.step if self.reported else self.state.step - 1
        writer = MetricsWriter(self.output, last_row) if self.ranks.main else None
        with StopRequest() as request:
            try:
                self._train(saving, writer, Interruption(request, self.config.save_minutes, self.ranks))
            finally:
                if writer:
                    writer.close()
                saving.close()
        return self._export()

    def _train(self, saving: CheckpointWriter, writer: MetricsWriter | None, interruption: Interruption) -> None:
        """Train to the last step, or to the step in which a signal came."""
        state, saved = self.state, self.state.step
        source = batches(self.pool, self.config.optim.batch_size, self.config.seed, saved, self.steps, self.ranks)
        with step_progress(self.steps, None if writer else False, "training", saved) as advance:
            while True:
                interruption.ask()
                if not (interruption.signum or self.reported):
                    self._report(writer)
                due = self._due(self.config.save_every) or interruption.overdue or interruption.signum
                if due and state.step != saved:
                    saving.save(state, interval=self.interval.record(self.ranks), reported=self.reported)
                    interruption.saved()
                    saved = state.step
                if interruption.signum:
                    saving.wait()
                    interruption.end(saved)
                if self.interval.first == state.step:
                    self.interval.begin(state.step)  # once more: what was written did not take its time
                if state.step == self.steps:
                    return
                self._advance(source)
                advance()

    def _advance(self, source: Iterator[Batch]) -> None:
        """Make a step."""
        device, metrics = self.ranks.device, self.interval.metrics
        batch = self.interval.wait_for(source).to(device)
        lr = learning_rate(self.state.step, self.steps, self.warmup, self.config.optim)
        outcome = self.step(batch, lr)
        if not outcome.skipped:
            for out, times in outcome.losses:
                metrics.update_loss(out, times)
        metrics.update_step(outcome.grad_norm, torch.tensor(outcome.skipped, device=device), lr)
        if self.state.step == self.steps:
            self._check_last(outcome)
        self.reported = False

    def _report(self, writer: MetricsWriter | None) -> None:
        """Write the row of metrics and the picture that are due at this step."""
        config, state = self.config, self.state
        evaluate = self.held_out is not None and self._due(self.held_out_every)
        row = evaluate or self._due(config.save_every) or self._due(config.log_every)
        if row:
            self._log(writer, evaluate)
        if config.sample_every and self._due(config.sample_every):
            picture = sample_grid(state, self.output, config, self.tokenizer, self.ranks)
            if writer:
                writer.image(state.step, "samples", picture)
        if row:
            self.interval.begin(state.step)
        self.reported = True

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

    def _log(self, writer: MetricsWriter | None, evaluate: bool) -> None:
        """Write a row for the steps since the last one, with the held-out loss if it is due."""
        interval, metrics, step = self.interval, self.interval.metrics, self.state.step
        sums, precision = self.ranks.sum(metrics.sums()), self.step.precision
        images, seconds = (step - interval.first) * self.config.optim.batch_size, interval.seconds
        with matmul_precision(precision):  # which peak to compare with
            row = metrics.row(sums, seconds, images, precision.dtype, interval.waited, self.ranks.world_size)
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


class TrainingRun(Run):
    """A run that trains a model on images."""

    config: TrainConfig

    def __init__(self, config: TrainConfig, ranks: Ranks) -> None:
        super().__init__(config, Path(config.output), ranks)

    def _open_data(self) -> None:
        config = self.config
        check_model(config.model, config, self.ranks)
        classes = None if config.model.classes_left_out else config.model.num_classes
        with self.ranks.main_first():
            data, self.tokenizer = load_data(config.data, self.output, classes, config.model.class_names)
            self.held_out, images = load_held_out(config.validation, config.data, data, self.output)
        self.held_out_every = config.validation.every
        self.config = replace(config, model=with_classes(config.model, data))
        self.pool = Pool(data, images, config.balance_classes)

    def _new_model(self) -> FlowAR:
        return new_model(self.config, self.pool.store, self.tokenizer, self.steps, self.ranks)

    def _new_step(self, distributed: nn.Module) -> TrainingStep:
        return TrainingStep(self.state, self.config, self.ranks, distributed)


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
