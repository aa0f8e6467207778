"""Everything a training run depends on, as one dataclass: the run folder keeps it as `config.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from flowar.config import FlowARConfig, is_count, is_number, require
from flowar.training.data_config import DataConfig


@dataclass
class OptimConfig:
    """AdamW with linear warm-up and cosine decay (paper, section 4; lr scales with the batch).

    Raises:
        ValueError: for a value that no run can have, naming the field, what was expected and what came.

    Attributes:
        batch_size: images of an optimizer step.
        steps: optimizer steps in all.
        epochs: passes over the data, where `steps` is left out.
        lr: the highest learning rate.
        final_lr: the learning rate of the last step.
        warmup_steps: of linear growth.
        betas: AdamW's.
        weight_decay: AdamW's; biases and norms are not decayed.
        max_grad_norm: gradients are clipped to this norm.
        ema_decay: of the exponential moving average of the weights, which is what gets published.
    """

    batch_size: int = 256
    steps: int | None = None
    epochs: float | None = 400
    lr: float = 2e-4
    final_lr: float = 1e-5
    warmup_steps: int = 1000
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = 0.02
    max_grad_norm: float = 1.0
    ema_decay: float = 0.9999

    def __post_init__(self) -> None:
        require("batch_size", "a positive integer", self.batch_size, is_count(self.batch_size))
        require("steps", "a positive integer", self.steps, self.steps is None or is_count(self.steps))
        require("optim", "steps or epochs", "neither", self.steps is not None or self.epochs is not None)
        for name in ("epochs", "lr", "max_grad_norm"):
            value = getattr(self, name)
            require(name, "a positive number", value, value is None or (is_number(value) and value > 0))
        require("ema_decay", "a number in [0, 1)", self.ema_decay, 0 <= self.ema_decay < 1)


@dataclass
class TrainConfig:
    """One training run.

    Attributes:
        data: what to train on.
        output: the run folder: checkpoints, metrics.jsonl, TensorBoard events, sample grids, the exported model.
        model: the model; channels and grid of its latents are those of the data.
        optim: AdamW with linear warm-up and cosine decay.
        precision: "bf16" autocast, "float32", or "auto": bf16 where the hardware multiplies it natively.
        seed: of weights, data order and noise.
        log_every: steps from one row of metrics.jsonl to the next.
        sample_every: steps from one sample grid to the next; 0 for none.
        save_every: steps from one checkpoint to the next.
        export_dtype: of the exported model's stored weights; loading gives float32 again.
        resume: go on from the newest checkpoint in `output`, exactly as if the run had not been interrupted.
        device: "auto" is the GPU if there is one.
    """

    data: DataConfig
    output: str
    model: FlowARConfig
    optim: OptimConfig = field(default_factory=OptimConfig)
    precision: Literal["auto", "bf16", "float32"] = "auto"
    seed: int = 0
    log_every: int = 20
    sample_every: int = 1000
    save_every: int = 500
    export_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    resume: bool = False
    device: str = "auto"

    def __post_init__(self) -> None:
        for name in ("log_every", "save_every"):
            require(name, "a positive integer", getattr(self, name), is_count(getattr(self, name)))
        require("sample_every", "an integer >= 0", self.sample_every, self.sample_every >= 0)
