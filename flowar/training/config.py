"""The configuration of a training run, which the run folder keeps as `config.json`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal

from flowar.config import Checkpointing, FlowARConfig, require
from flowar.system.fields import checks_fields
from flowar.system.rules import (
    Count,
    Epochs,
    Fraction,
    Index,
    Noise,
    Norm,
    Place,
    Range,
    Rate,
    Seed,
    TrainingSteps,
)
from flowar.training.data_config import DataConfig

OptimizerName = Literal["adamw", "muon"]
Parallel = Literal["auto", "ddp", "fsdp", "hybrid"]
LearningRateSchedule = Literal["cosine", "constant"]
Times = Literal["uniform", "logit_normal"]
TrainPrecision = Literal["auto", "bf16", "tf32", "float32"]


@dataclass
@checks_fields
class LossConfig:
    """The loss: its times, the noise on its context, and the weights of the scales. The defaults are the paper's.

    Raises:
        ValueError: for a value that no loss can have, naming the field, what was expected and what came.

    Attributes:
        times: distribution of the times in [0, 1], one per image and scale: "uniform", or "logit_normal", the sigmoid
            of a standard normal (Stable Diffusion 3), which has more of the middle and less of both ends.
        context_noise: greatest strength of the noise on the coarser latents that the AR transformer sees, in standard
            deviations of the finest ones; drawn uniformly from 0 to this for every image and scale (Noisy Context
            Learning, arXiv 2502.20388). A model that has seen it forgives its own errors in coarser scales.
        scale_exponent: scale k, of n_k tokens, counts as (n_k / n_last) ** scale_exponent: 1 in the paper; at 0 all
            scales count alike.
    """

    times: Times = "uniform"
    context_noise: Noise = 0.0
    scale_exponent: Annotated[float, Range(0, 10)] = 1.0


@dataclass
@checks_fields
class OptimConfig:
    """Optimizer with linear warm-up and cosine decay (paper, section 4; lr scales with the batch).

    Raises:
        ValueError: for a value that no run can have, naming the field, what was expected and what came.

    Attributes:
        optimizer: "adamw" (paper), or "muon" for the matrices between input and output, with updates as large as
            AdamW's so that `lr` and `weight_decay` need no change, and AdamW for all else.
        batch_size: images per optimizer step, on all devices together.
        steps: optimizer steps in all.
        epochs: passes over the data, if `steps` is left out.
        lr: the highest learning rate.
        lr_schedule: learning rate after the warm-up: "cosine" decay to `final_lr`, or "constant".
        final_lr: the learning rate of the last step.
        warmup_steps: steps in which the learning rate grows linearly.
        warmup_epochs: epochs in which it does, instead of `warmup_steps`.
        betas: decay rates of AdamW's moments.
        weight_decay: weight decay of matrices; biases and norms have none.
        max_grad_norm: norm that gradients are clipped to.
        skip_grad_norm: largest gradient norm, before clipping, of a step that is not skipped; a step whose norm is not
            finite is always skipped.
        max_skipped: skipped steps in a row after which the run ends with an error.
        ema_decays: decays of the moving averages of the weights. The first average is sampled from and exported as
            `model`, the others beside it.
    """

    optimizer: OptimizerName = "adamw"
    batch_size: Count = 256
    steps: TrainingSteps | None = None
    epochs: Epochs | None = 400
    lr: Rate = 2e-4
    lr_schedule: LearningRateSchedule = "cosine"
    final_lr: Annotated[float, Range(0, 100)] = 1e-5
    warmup_steps: Annotated[int, Range(0, 10**8)] = 1000
    warmup_epochs: Epochs | None = None
    betas: tuple[Fraction, Fraction] = (0.9, 0.95)
    weight_decay: Annotated[float, Range(0, 100)] = 0.02
    max_grad_norm: Norm = 1.0
    skip_grad_norm: Norm | None = None
    max_skipped: Count = 100
    ema_decays: Sequence[Fraction] = (0.9999,)

    def __post_init__(self) -> None:
        require("optim", "steps or epochs", "neither", self.steps is not None or self.epochs is not None)
        decays = tuple(self.ema_decays)
        require("ema_decays", "different numbers, at least one", decays, bool(decays) and len({*decays}) == len(decays))


@dataclass
@checks_fields
class ValidationConfig:
    """The configuration of held-out images, which the run measures its loss on and does not train on.

    Raises:
        ValueError: for a value that no validation can have, naming the field, what was expected and what came.

    Attributes:
        share: share of the images of every class to hold out, at least one; the same ones in every run.
        folder: folder of images to hold out, laid out as those to train on; of idx files the split "t10k".
        every: steps from one evaluation to the next.
        images: largest number of images to evaluate on.
    """

    share: Fraction = 0.0
    folder: Place | None = None
    every: Count = 500
    images: Count = 1000

    def __post_init__(self) -> None:
        require("validation", "share or folder", "both", not (self.share and self.folder))


@dataclass
@checks_fields
class FinetuneConfig:
    """The model that fine-tuning starts from.

    Attributes:
        checkpoint: folder or safetensors file of this package, Hub id, or one of the authors' `.pth` files.
        classes: for every class of the new model, the class of the old one whose embedding it begins with, or -1 for
            the null class, if the old model does not know it. If left out, the classes are the same if there are
            equally many, otherwise all are new.
        interpolate_positions: whether latents of another grid, or other scales, than the checkpoint's are allowed: its
            learned positions are then interpolated (bicubic, scale by scale, each from the old scale that is nearest in
            size).
    """

    checkpoint: Place
    classes: list[Annotated[int, Range(-1)]] | None = None
    interpolate_positions: bool = False


@dataclass(kw_only=True)
@checks_fields
class RunConfig:
    """The configuration of how a run goes, whatever it trains.

    Attributes:
        optim: optimizer, learning rate, averages.
        precision: "bf16" autocast over float32 weights, "tf32" or "float32" without it, or "auto": bf16 if the hardware
            multiplies it natively, else float32; the run folder's config.json says which.
        parallel: division among the processes of torchrun: "ddp" (a replica each), "fsdp" (parameters, gradients and
            optimizer split over all), "hybrid" (split inside a machine, replicas across); "auto" is ddp.
        micro_batch: images that a device takes at once, whose gradients add up to its share of a batch; the whole share
            if left out.
        checkpointing: blocks whose activations are computed again in the backward pass instead of kept, which saves
            memory: "none", those of the "flow" transformer, or "all".
        compile: whether the step runs under torch.compile.
        seed: seed of weights, data order and noise.
        log_every: steps from one row of metrics.jsonl to the next.
        sample_every: steps from one sample grid to the next; 0 for none.
        save_every: steps from one checkpoint to the next.
        save_minutes: minutes after the last checkpoint at which there is another, whatever the step; 0 for none.
        keep_checkpoints: number of the newest checkpoints that stay.
        nan_trace: whether a step whose gradients are not finite runs again, op by op, to end with the name of the
            module and op that went wrong first.
        export_dtype: dtype of the exported model's stored weights; loading gives float32 again.
        resume: whether to go on from the newest checkpoint in `output`, exactly as if the run had not been interrupted.
        device: device to train on; "auto" is the GPU if there is one.
    """

    optim: OptimConfig = field(default_factory=OptimConfig)
    precision: TrainPrecision = "auto"
    parallel: Parallel = "auto"
    micro_batch: Count | None = None
    checkpointing: Checkpointing = "none"
    compile: bool = False
    seed: Seed = 0
    log_every: Count = 20
    sample_every: Index = 1000
    save_every: Count = 500
    save_minutes: Annotated[float, Range(0, 1e6)] = 10.0
    keep_checkpoints: Count = 2
    nan_trace: bool = False
    export_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    resume: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        whole = self.parallel in ("auto", "ddp") or self.optim.optimizer != "muon"  # Muon needs whole matrices
        require("optimizer", f"adamw for parallel {self.parallel}", self.optim.optimizer, whole)


@dataclass
@checks_fields
class TrainConfig(RunConfig):
    """The configuration of a training run.

    Attributes:
        data: images to train on.
        output: run folder, which gets checkpoints, metrics.jsonl, TensorBoard events, sample grids, the exported model.
        model: architecture; channels and grid of its latents are those of the data. If all of it is left out, it is
            that of `finetune`, or else preset S, with the classes of the data.
        loss: times and weights of the loss.
        validation: images to hold out.
        balance_classes: whether an epoch has equally many images of every class; those of small classes then come
            repeatedly.
        finetune: trained model to start from, instead of fresh weights.
    """

    data: DataConfig
    output: Place
    model: FlowARConfig
    loss: LossConfig = field(default_factory=LossConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    balance_classes: bool = False
    finetune: FinetuneConfig | None = None
