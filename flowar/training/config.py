"""Everything a training run depends on, as one dataclass: the run folder keeps it as `config.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from flowar.config import FlowARConfig, is_count, is_number, require
from flowar.model import Checkpointing
from flowar.training.data_config import DataConfig

OptimizerName = Literal["adamw", "muon"]
Parallel = Literal["auto", "ddp", "fsdp", "hybrid"]
LearningRateSchedule = Literal["cosine", "constant"]
Times = Literal["uniform", "logit_normal"]
TrainPrecision = Literal["auto", "bf16", "tf32", "float32"]


@dataclass
class LossConfig:
    """What the loss is taken at, and how much each scale counts. The defaults are the paper's.

    Raises:
        ValueError: for a value that no loss can have, naming the field, what was expected and what came.

    Attributes:
        times: distribution of the times in [0, 1], one an image and scale: "uniform", or "logit_normal", the sigmoid of
            a standard normal (Stable Diffusion 3), which has more of the middle and less of both ends.
        context_noise: greatest strength of the noise on the coarser latents that the AR transformer sees, in standard
            deviations of the finest ones; drawn uniformly from 0 to this for every image and scale (Noisy Context
            Learning, arXiv 2502.20388). A model that has seen it forgives its own errors in coarser scales.
        scale_exponent: scale k, of n_k tokens, counts as (n_k / n_last) ** scale_exponent: 1 in the paper; at 0 all
            scales count alike.
    """

    times: Times = "uniform"
    context_noise: float = 0.0
    scale_exponent: float = 1.0

    def __post_init__(self) -> None:
        require("times", " or ".join(get_args(Times)), self.times, self.times in get_args(Times))
        for name in ("context_noise", "scale_exponent"):
            value = getattr(self, name)
            require(name, "a number >= 0", value, is_number(value) and value >= 0)


@dataclass
class OptimConfig:
    """Optimizer with linear warm-up and cosine decay (paper, section 4; lr scales with the batch).

    Raises:
        ValueError: for a value that no run can have, naming the field, what was expected and what came.

    Attributes:
        optimizer: "adamw" (paper), or "muon" for the matrices between input and output, with updates as large as
            AdamW's so that `lr` and `weight_decay` need no change, and AdamW for all else.
        batch_size: images of an optimizer step, on all devices together.
        steps: optimizer steps in all.
        epochs: passes over the data, where `steps` is left out.
        lr: the highest learning rate.
        lr_schedule: after the warm-up "cosine" decay to `final_lr`, or "constant".
        final_lr: the learning rate of the last step.
        warmup_steps: of linear growth.
        warmup_epochs: of linear growth, instead of `warmup_steps`.
        betas: AdamW's.
        weight_decay: biases and norms are not decayed.
        max_grad_norm: gradients are clipped to this norm.
        skip_grad_norm: a step whose gradient norm is larger than this, before clipping, is skipped and counted. One
            whose norm is not finite always is.
        max_skipped: the run ends with an error after so many skipped steps in a row.
        ema_decays: of exponential moving averages of the weights. The first one is sampled from and published as
            `model`, the others beside it.
    """

    optimizer: OptimizerName = "adamw"
    batch_size: int = 256
    steps: int | None = None
    epochs: float | None = 400
    lr: float = 2e-4
    lr_schedule: LearningRateSchedule = "cosine"
    final_lr: float = 1e-5
    warmup_steps: int = 1000
    warmup_epochs: float | None = None
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.02
    max_grad_norm: float = 1.0
    skip_grad_norm: float | None = None
    max_skipped: int = 100
    ema_decays: Sequence[float] = (0.9999,)

    def __post_init__(self) -> None:
        for name in ("batch_size", "max_skipped"):
            require(name, "a positive integer", getattr(self, name), is_count(getattr(self, name)))
        require("steps", "a positive integer", self.steps, self.steps is None or is_count(self.steps))
        require("optim", "steps or epochs", "neither", self.steps is not None or self.epochs is not None)
        for name in ("epochs", "warmup_epochs", "lr", "max_grad_norm", "skip_grad_norm"):
            value = getattr(self, name)
            require(name, "a positive number", value, value is None or (is_number(value) and value > 0))
        optimizers, schedules = get_args(OptimizerName), get_args(LearningRateSchedule)
        require("optimizer", " or ".join(optimizers), self.optimizer, self.optimizer in optimizers)
        require("lr_schedule", " or ".join(schedules), self.lr_schedule, self.lr_schedule in schedules)
        decays = tuple(self.ema_decays)
        different = bool(decays) and len(set(decays)) == len(decays) and all(0 <= each < 1 for each in decays)
        require("ema_decays", "different numbers in [0, 1), at least one", decays, different)


@dataclass
class ValidationConfig:
    """Images that are held out: the run does not train on them, and says how well it does on them.

    Raises:
        ValueError: for a value that no validation can have, naming the field, what was expected and what came.

    Attributes:
        share: of the images of every class to hold out, the same ones in every run; at least one of each class.
        folder: of images that are held out already, laid out as those to train on; of idx files the split "t10k".
        every: steps from one evaluation to the next.
        images: to evaluate on at most.
    """

    share: float = 0.0
    folder: str | None = None
    every: int = 500
    images: int = 1000

    def __post_init__(self) -> None:
        require("share", "a number in [0, 1)", self.share, is_number(self.share) and 0 <= self.share < 1)
        require("validation", "share or folder", "both", not (self.share and self.folder))
        for name in ("every", "images"):
            require(name, "a positive integer", getattr(self, name), is_count(getattr(self, name)))


@dataclass
class FinetuneConfig:
    """A model to start from.

    Attributes:
        checkpoint: folder or safetensors file of this package, Hub id, or one of the authors' `.pth` files.
        classes: for every class of the new model the class of the old one whose embedding it begins with; -1 for the
            old null class, which is what to begin a class with that the old model does not know. If left out: the
            classes are the same where there are equally many, else all are new.
        interpolate_positions: when the latents have another grid, or the model other scales, than the checkpoint, begin
            with its learned positions brought to the new grids (bicubic, scale by scale, each from the old scale that
            is nearest in size) instead of ending with an error.
    """

    checkpoint: str
    classes: list[int] | None = None
    interpolate_positions: bool = False


@dataclass
class TrainConfig:
    """One training run.

    Attributes:
        data: what to train on.
        output: the run folder: checkpoints, metrics.jsonl, TensorBoard events, sample grids, the exported model.
        model: the model; channels and grid of its latents are those of the data. If all of it is left out: that of
            `finetune`, or else preset S, with the classes of the data.
        loss: what the loss is taken at.
        optim: optimizer, learning rate, averages.
        validation: images to hold out, and how often to look at the loss on them.
        balance_classes: an epoch has equally many images of every class, and as many in all as there are; those of
            small classes come repeatedly.
        finetune: the model to start from, if not from fresh weights.
        precision: "bf16" autocast over float32 weights, "tf32" or "float32" without it, or "auto": bf16 where the
            hardware multiplies it natively, else float32; the run folder's config.json says which.
        parallel: over the processes of torchrun: "ddp" (a replica each), "fsdp" (parameters, gradients and optimizer
            split over all), "hybrid" (split inside a machine, replicas across); "auto" is ddp.
        micro_batch: images that one device takes at once; gradients of several add up to a batch. If left out, its
            whole share.
        checkpointing: whose activations are computed again in the backward pass instead of kept, to save memory: of no
            block, of those of the flow transformer, or of all.
        compile: whether the step runs under torch.compile.
        seed: of weights, data order and noise.
        log_every: steps from one row of metrics.jsonl to the next.
        sample_every: steps from one sample grid to the next; 0 for none.
        save_every: steps from one checkpoint to the next.
        keep_checkpoints: how many of the newest stay.
        nan_trace: when a step's gradients are not finite, run it again, looking at every op, and end with the name of
            the module and op that went wrong first.
        export_dtype: of the exported model's stored weights; loading gives float32 again.
        resume: go on from the newest checkpoint in `output`, exactly as if the run had not been interrupted.
        device: "auto" is the GPU if there is one.
    """

    data: DataConfig
    output: str
    model: FlowARConfig
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    balance_classes: bool = False
    finetune: FinetuneConfig | None = None
    precision: TrainPrecision = "auto"
    parallel: Parallel = "auto"
    micro_batch: int | None = None
    checkpointing: Checkpointing = "none"
    compile: bool = False
    seed: int = 0
    log_every: int = 20
    sample_every: int = 1000
    save_every: int = 500
    keep_checkpoints: int = 2
    nan_trace: bool = False
    export_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    resume: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("log_every", "save_every", "keep_checkpoints"):
            require(name, "a positive integer", getattr(self, name), is_count(getattr(self, name)))
        micro = self.micro_batch
        require("micro_batch", "a positive integer", micro, micro is None or is_count(micro))
        require("sample_every", "an integer >= 0", self.sample_every, self.sample_every >= 0)
        whole = self.parallel in ("auto", "ddp") or self.optim.optimizer != "muon"  # Muon needs whole matrices
        require("optimizer", f"adamw for parallel {self.parallel}", self.optim.optimizer, whole)
