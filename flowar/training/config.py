"""Everything a training run depends on, as one dataclass: the run folder keeps it as `config.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from flowar.config import FlowARConfig


@dataclass
class DataConfig:
    """What to train on.

    Attributes:
        folder: Fashion-MNIST's idx files, or one subfolder of images a class.
        split: of idx files, "train" or "t10k".
        tokenizer: folder of a saved tokenizer, "pixel:STRIDE", or a diffusers autoencoder (folder or Hub id).
        image_size, image_channels: images of a folder are scaled and cropped to a square of this side.
        latents: file that caches the latents; `latents.safetensors` in the run folder if left out.
    """

    folder: str
    tokenizer: str
    split: str = "train"
    image_size: int = 256
    image_channels: int = 3
    latents: str | None = None


@dataclass
class OptimConfig:
    """AdamW with linear warm-up and cosine decay (paper, section 4; lr scales with the batch).

    Attributes:
        steps: optimizer steps in all; `epochs` instead counts passes over the data.
        lr, final_lr: peak and last learning rate.
        warmup_steps: of linear growth.
        betas, weight_decay: AdamW's; biases and norms are not decayed.
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


@dataclass
class TrainConfig:
    """One training run.

    Attributes:
        output: the run folder: checkpoints, metrics.jsonl, TensorBoard events, sample grids, the exported model.
        precision: "bf16" autocast, "float32", or "auto": bf16 where the hardware multiplies it natively.
        seed: of weights, data order and noise.
        log_every, sample_every, save_every: in steps; 0 turns sample grids off.
        resume: go on from the newest checkpoint in `output`, exactly as if the run had not been interrupted.
        device: "auto" is the GPU if there is one.
    """

    data: DataConfig
    output: str
    model: FlowARConfig = field(default_factory=FlowARConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    precision: Literal["auto", "bf16", "float32"] = "auto"
    seed: int = 0
    log_every: int = 20
    sample_every: int = 1000
    save_every: int = 500
    resume: bool = False
    device: str = "auto"
