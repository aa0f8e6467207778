"""The configuration of a distillation, which the run folder keeps as `config.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from flowar.config import require
from flowar.system.fields import checks_fields
from flowar.system.rules import Count, Guidance, Noise, Place, Range
from flowar.training.config import OptimConfig, RunConfig
from flowar.training.data_config import DataConfig


def distillation_optim() -> OptimConfig:
    """Settings for a student, which begins with the teacher's weights."""
    return OptimConfig(lr=1e-4, epochs=20, warmup_steps=200, ema_decays=(0.999,))


@dataclass
@checks_fields
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

    model: Place
    output: Place
    data: DataConfig | Literal["self"] = "self"
    images: Count = 50_000
    schedule: str | None = None
    guidance_scale: Guidance | None = None
    jumps: Annotated[int, Range(2, 1024)] = 32
    teacher_share: Annotated[float, Range(0, 1, "()")] = 0.25
    context_noise: Noise = 0.0
    scale_exponent: Annotated[float, Range(0, 10)] = 1.0
    optim: OptimConfig = field(default_factory=distillation_optim, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        require("jumps", "a power of two from 2 on", self.jumps, self.jumps.bit_count() == 1)
        replicas = self.parallel in ("auto", "ddp")
        require("parallel", "ddp for a distillation", self.parallel, replicas)  # targets need whole averages
