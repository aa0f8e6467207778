"""The state of a tokenizer's training."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from flowar.config import Grid
from flowar.tokenizers.base import Tokenizer
from flowar.training.config import OptimConfig
from flowar.training.optimizer import Optimizer, moments, new_optimizers, set_updates, update_weights
from flowar.training.small_autoencoders import new_tokenizer
from flowar.training.tokenizer_config import TokenizerTrainingConfig

BETAS, WEIGHT_DECAY = (0.9, 0.99), 0.01


@dataclass
class TokenizerState:
    """The state of a tokenizer's training, which its checkpoints hold.

    It has no random numbers, as they follow from seed and step.

    Attributes:
        tokenizer: the tokenizer, whose encoder does not change in the robust steps.
        optimizers: AdamW for all of its parameters.
        config: the configuration with nothing left out.
        size: height and width of the images.
        step: the number of batches seen in both stages together.
    """

    tokenizer: Tokenizer
    optimizers: list[Optimizer]
    config: TokenizerTrainingConfig
    size: Grid
    step: int = 0

    @staticmethod
    def new(config: TokenizerTrainingConfig, image_channels: int, size: Grid, device: torch.device) -> TokenizerState:
        """The state of a training that begins."""
        assert config.channels is not None
        torch.manual_seed(config.seed)
        tokenizer = new_tokenizer(config.kind, image_channels, config.channels, config.widths).to(device)
        tokenizer.requires_grad_(True)
        optim = OptimConfig(lr=config.lr, betas=BETAS, weight_decay=WEIGHT_DECAY)
        return TokenizerState(tokenizer, new_optimizers(tokenizer, optim), config, size)

    @property
    def steps(self) -> int:
        """The number of steps in which encoder and decoder learn."""
        assert self.config.steps is not None
        return self.config.steps

    @property
    def all_steps(self) -> int:
        """The number of steps of both stages."""
        assert self.config.robust_steps is not None
        return self.steps + self.config.robust_steps

    def identity(self) -> dict[str, Any]:
        """The shape of the images and the configuration, but for fields that may change on the way."""
        free = {"interval", "save_minutes"}
        fixed = {name: value for name, value in asdict(self.config).items() if name not in free}
        return fixed | {"image_channels": self.tokenizer.image_channels, "image_size": [*self.size]}

    def tensors(self) -> dict[str, Tensor]:
        weights = {f"model.{name}": tensor for name, tensor in self.tokenizer.state_dict().items()}
        normalization = {"mean": self.tokenizer.mean, "std": self.tokenizer.std}
        return weights | normalization | moments(self.tokenizer, self.optimizers)

    def progress(self) -> dict[str, int]:
        return {"step": self.step}

    def set_progress(self, progress: dict[str, Any]) -> None:
        self.step = progress["step"]
        set_updates(self.optimizers, self.step - self.steps if self.step > self.steps else self.step)

    def begin_robust_steps(self) -> None:
        """Reset the optimizer for the robust steps, in which the encoder does not change."""
        for moment in moments(self.tokenizer, self.optimizers).values():
            moment.zero_()
        set_updates(self.optimizers, 0)

    def update(self, loss: Tensor) -> None:
        """Make one optimizer step; parameters that `loss` does not reach stay as they are."""
        self.tokenizer.zero_grad(set_to_none=True)
        loss.backward()
        update_weights(self.optimizers, self.learning_rate())
        self.step += 1

    def learning_rate(self) -> float:
        """The learning rate of the next step: linear warm-up, then cosine to zero, in each of the two stages."""
        robust = self.step >= self.steps
        first, count = (self.steps, self.all_steps - self.steps) if robust else (0, self.steps)
        step, highest = self.step - first, self.config.lr / (2 if robust else 1)
        warmup = min(1.0, (step + 1) / self.config.warmup_steps)
        return highest * warmup * (0.5 + 0.5 * math.cos(math.pi * step / count))
