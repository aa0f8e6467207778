"""The configuration of a distillation, which the run folder keeps as `config.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from flowar.config import is_count, is_number, require
from flowar.training.config import OptimConfig, RunConfig
from flowar.training.data_config import DataConfig


def distillation_optim() -> OptimConfig:
    """Settings for a student, which begins with the teacher's weights."""
    return OptimConfig(lr=1e-4, epochs=20, warmup_steps=200, ema_decays=(0.999,))


@dataclass
class DistillConfig(RunConfig):
    """The configuration of a distillation.

    Raises:
        ValueError: for a value that no distillation can have, naming the field, what was expected and what came.

    Attributes:
        model: the teacher: folder of a model with its tokenizer, Hub id, or the name of one that ships.
        output: run folder, which gets checkpoints, metrics.jsonl, TensorBoard events, sample grids, the exported model.
        data: images to learn on, or their latents; "self" for latents that the teacher draws itself.
        images: number of the latents that the teacher draws for `data: self`.
        schedule: preset or file that the teacher draws with, and whose guidance the student gets; the teacher's own if
            left out.
        guidance_scale: the guidance that the student gets, instead of the schedule's.
        jumps: the most jumps a scale that the student learns, a power of two; the teacher teaches the shortest ones.
        teacher_share: share of the images whose targets are the teacher's; those of the others are the student's own.
        context_noise: greatest strength of the noise on the coarser latents that the AR transformer sees, as in the
            teacher's training.
        scale_exponent: scale k, of n_k tokens, counts as (n_k / n_last) ** scale_exponent; at 0 all scales count alike.
        optim: optimizer, learning rate, averages; the first average is what the student's own targets are made of.
    """

    model: str
    output: str
    data: DataConfig | Literal["self"] = "self"
    images: int = 50_000
    schedule: str | None = None
    guidance_scale: float | None = None
    jumps: int = 32
    teacher_share: float = 0.25
    context_noise: float = 0.0
    scale_exponent: float = 1.0
    optim: OptimConfig = field(default_factory=distillation_optim, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require("images", "a positive integer", self.images, is_count(self.images))
        power = is_count(self.jumps) and self.jumps >= 2 and self.jumps.bit_count() == 1
        require("jumps", "a power of two from 2 on", self.jumps, power)
        share = self.teacher_share
        require("teacher_share", "a number in (0, 1)", share, is_number(share) and 0 < share < 1)
        for name in ("context_noise", "scale_exponent"):
            value = getattr(self, name)
            require(name, "a number >= 0", value, is_number(value) and value >= 0)
        replicas = self.parallel in ("auto", "ddp")
        require("parallel", "ddp for a distillation", self.parallel, replicas)  # targets need whole averages
