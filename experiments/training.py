"""One variant from its recipe to averaged weights, by the parts of `flowar train`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.budgets import Budget
from experiments.catalog import Variant
from experiments.tokenizers import CONVOLUTIONAL, FOLDER, TRAINED, rehearse, trained_tokenizer
from experiments.variants import latents_key, posterior
from experiments.variants.students import JUMPS, STUDENTS
from flowar import FlowAR, FlowARPipeline
from flowar.data.sources import IdxImages, open_idx
from flowar.data.transforms import to_unit_range
from flowar.system.progress import step_progress
from flowar.system.ranks import Ranks
from flowar.tokenizers.base import Tokenizer
from flowar.tokenizers.loading import load_tokenizer
from flowar.training.batches import batches
from flowar.training.config import LossConfig, TrainConfig
from flowar.training.data_config import DataConfig
from flowar.training.distillation_config import DistillConfig
from flowar.training.distillation_step import JumpLoss
from flowar.training.jump_targets import Teacher
from flowar.training.latent_store import LatentStore, Shard
from flowar.training.metrics import StepMetrics
from flowar.training.optimizer import learning_rate
from flowar.training.pool import Pool
from flowar.training.state import TrainState
from flowar.training.step import OptimizerStep, TrainingStep
from flowar.training.tokenizers import tokenizer_for_training

ENCODE_BATCH = 500


@dataclass
class Data:
    """Images of one folder, encoded as variants ask for it, in memory.

    Attributes:
        folder: of Fashion-MNIST's four idx files.
        budget: says what is trained.
        output: for what is trained.
        images: of the training split to take, the first ones.
    """

    folder: Path
    budget: Budget
    device: torch.device
    output: Path
    images: int
    _tokenizers: dict[str, Tokenizer] = field(default_factory=dict)
    _stores: dict[object, LatentStore] = field(default_factory=dict)

    @cached_property
    def source(self) -> IdxImages:
        """The images to train on."""
        whole = open_idx(self.folder, "train")
        parts = whole.labels[: self.images], whole.images[: self.images]
        return IdxImages(
            whole.root, parts[0], whole.class_names, whole.image_size, whole.channels, parts[1].contiguous()
        )

    def tokenizer(self, name: str) -> Tokenizer:
        """The tokenizer called `name`, on the device; trained now if it is one of `TRAINED` and nobody has."""
        if name not in self._tokenizers:
            if name in TRAINED:
                tokenizer = trained_tokenizer(name, self.budget, self.output, self.source.images, self.device)
            elif name == CONVOLUTIONAL:
                tokenizer = load_tokenizer(FOLDER)
            else:
                tokenizer = tokenizer_for_training(name, self.source)
            self._tokenizers[name] = tokenizer.to(self.device)
        return self._tokenizers[name]

    def rehearse_tokenizer(self, name: str) -> float:
        """Seconds of a training step of one of `TRAINED`; a hardly trained one stands in for it here from now on."""
        self._tokenizers[name], seconds = rehearse(name, self.source.images, self.device)
        return seconds

    def store(self, name: str, model: FlowAR) -> LatentStore:
        """What `model` trains on, by the tokenizer called `name`."""
        key = (name, *latents_key(model))
        if key not in self._stores:
            self._stores[key] = self._encode(self.tokenizer(name), model)
        return self._stores[key]

    def _encode(self, tokenizer: Tokenizer, model: FlowAR) -> LatentStore:
        def moments_of(images: Tensor) -> Tensor:
            return torch.stack(posterior(model, tokenizer, to_unit_range(images.to(self.device))), 1).cpu()

        moments = torch.cat([moments_of(part) for part in self.source.images.split(ENCODE_BATCH)])[:, None]
        shard = Shard(moments, self.source.labels, {}, 0, [])
        return LatentStore(self.folder, {}, self.source.class_names, [shard], self.source.labels)


@dataclass
class Trained:
    """A model of averaged weights, in eval mode, and what there is to say of its training.

    Attributes:
        loss: mean over the last tenth of the steps.
        seconds: that the steps took.
    """

    model: FlowAR
    loss: float
    seconds: float


def train(
    variant: Variant, budget: Budget, data: Data, seed: int, steps: int | None = None, teacher: FlowAR | None = None
) -> Trained:
    """Train a variant, a student by its teacher; `steps` ends it early, to see how long a step takes."""
    ranks = Ranks(data.device)
    budget = variant.spent(budget)
    model = new_model(variant, budget, data, seed) if teacher is None else variant.student_of(teacher)
    store = data.store(variant.tokenizer, model)
    step = training_step(variant, budget, model, ranks, seed, data.tokenizer(variant.tokenizer), teacher)
    state, config = step.state, step.config
    metrics, warmup = StepMetrics(model.config, data.device), config.optim.warmup_steps
    last = budget.steps if steps is None else steps
    started = time.perf_counter()
    with step_progress(last, None, f"training {variant.name}, seed {seed}") as advance:
        for batch in batches(Pool.whole(store), budget.batch_size, seed, 0, last, ranks):
            if state.step == last - max(1, last // 10):
                metrics.reset()
            outcome = step(batch.to(data.device), learning_rate(state.step, budget.steps, warmup, config.optim))
            for out, times in outcome.losses:
                metrics.update_loss(out, times)
            advance()
    seconds = time.perf_counter() - started
    loss = metrics.row(metrics.sums(), seconds, last * budget.batch_size)["loss"]
    copy_averages(state, config.optim.ema_decays[0])
    return Trained(model.eval().requires_grad_(False), loss, seconds)


def training_step(
    variant: Variant,
    budget: Budget,
    model: FlowAR,
    ranks: Ranks,
    seed: int,
    tokenizer: Tokenizer,
    teacher: FlowAR | None,
) -> OptimizerStep:
    """What trains the model of a variant."""
    optim, source = replace(budget.optim(), **variant.optim), DataConfig(latents="memory")
    precision = variant.precision
    if teacher is None:
        loss = LossConfig(**variant.loss)
        config = TrainConfig(
            source, "unused", model=model.config, loss=loss, optim=optim, precision=precision, seed=seed
        )
        return TrainingStep(TrainState.new(model, config.optim), config, ranks, model)
    optim = replace(optim, lr=optim.lr / 2)
    own = DistillConfig("teacher", "unused", source, jumps=JUMPS, optim=optim, precision=precision, seed=seed)
    guided = Teacher(FlowARPipeline(teacher, tokenizer), teacher.schedule())
    return STUDENTS[variant.student].step(TrainState.new(model, optim), own, ranks, JumpLoss(model), guided)


def new_model(variant: Variant, budget: Budget, data: Data, seed: int) -> FlowAR:
    """The variant's model with the fresh weights of `seed`."""
    torch.manual_seed(seed)
    return variant.build(budget, data.tokenizer(variant.tokenizer).channels).to(data.device)


@torch.no_grad()
def copy_averages(state: TrainState, decay: float) -> None:
    """Put the averages in the place of the weights."""
    parameters: dict[str, nn.Parameter] = dict(state.model.named_parameters())
    for name, average in state.averages.by_decay[decay].items():
        parameters[name].copy_(average)
