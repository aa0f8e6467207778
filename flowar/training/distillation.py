"""Distillation: a student that jumps along its teacher's guided ODE, in one evaluation a jump."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from flowar.config import FlowARConfig, require
from flowar.errors import DataError, FlowARError
from flowar.model import FlowAR
from flowar.pipeline import FlowARPipeline
from flowar.system.arguments import check_type
from flowar.system.lock import locked_by_main
from flowar.system.ranks import Ranks, joined
from flowar.tokenizers.base import Tokenizer
from flowar.tokenizers.loading import check_tokenizer
from flowar.training.distillation_config import DistillConfig
from flowar.training.distillation_step import DistillationStep, JumpLoss
from flowar.training.jump_targets import Teacher
from flowar.training.load_data import load_data
from flowar.training.parallel import replicate
from flowar.training.pool import Pool
from flowar.training.teacher_latents import teacher_latents
from flowar.training.trainer import Run


def distill(config: DistillConfig, ranks: Ranks | None = None) -> Path:
    """Distill a model into one that needs one to four evaluations a scale and no unconditional half, or resume that.

    Args:
        config: all that the run depends on.
        ranks: this process among others; if left out, those of `join_ranks`.

    Returns:
        The folder of the exported student: averaged weights and tokenizer.

    Raises:
        ValueError: for a configuration, a teacher, data or a checkpoint that does not fit, and for a run folder that
            another process writes to.
        TrainingError: for a run that does not converge.
        OSError: if writing fails; checkpoints that were there stay.

    Example:
        ```python
        folder = distill(DistillConfig("flowar-fashion", output="runs/student"))
        images = FlowARPipeline.from_pretrained(folder)([3, 5], schedule="2-step").images
        ```
    """
    check_type("config", config, DistillConfig, "a DistillConfig")
    with joined(ranks, config.device) as together, locked_by_main(Path(config.output), together):
        return DistillationRun(config, together).to_the_end()


class DistillationRun(Run):
    """A run that distills a teacher."""

    config: DistillConfig

    def __init__(self, config: DistillConfig, ranks: Ranks) -> None:
        self.teacher = load_teacher(config, ranks.device)
        super().__init__(config, Path(config.output), ranks)

    def _open_data(self) -> None:
        config, teacher = self.config, self.teacher
        if config.data == "self":
            folder = self.output / "latents"
            drawn = teacher_latents(folder, teacher.pipeline, teacher.schedule, config.images, config.seed, self.ranks)
            self.pool, self.tokenizer = Pool.whole(drawn), teacher.pipeline.tokenizer
            return
        of = teacher.model.config
        with self.ranks.main_first():
            data, self.tokenizer = load_data(config.data, self.output, of.num_classes, of.class_names)
        check_data(data.grid, self.tokenizer, of)
        self.pool = Pool.whole(data)

    def _new_model(self) -> FlowAR:
        return new_student(self.teacher.model, self.config.jumps)

    def _distribute(self, model: FlowAR) -> nn.Module:
        return replicate(JumpLoss(model), self.ranks)

    def _new_step(self, distributed: nn.Module) -> DistillationStep:
        return DistillationStep(self.state, self.config, self.ranks, distributed, self.teacher)


def load_teacher(config: DistillConfig, device: torch.device) -> Teacher:
    """Load the teacher with the guidance that its students get.

    Raises:
        CheckpointError: if it cannot be loaded.
        ValueError: for a model of jumps, or a schedule that it cannot have.
    """
    pipeline = FlowARPipeline.from_pretrained(config.model).to(device)
    pipeline.model.eval().requires_grad_(False)
    jumps = pipeline.model.config.jumps
    require("model", "a model of velocities, which knows no jumps yet", f"one distilled for {jumps}", jumps == 0)
    schedule = pipeline.model.schedule(guidance_scale=config.guidance_scale, base=config.schedule)
    return Teacher(pipeline, schedule)


def student_config(teacher: FlowARConfig, jumps: int) -> FlowARConfig:
    """The configuration of a student of so many jumps; it draws with two of them unless told otherwise."""
    own = {"schedule": "2-step", "num_inference_steps": 2, "guidance_scale": 1.0, "guidance_interval": (0.0, 1.0)}
    return replace(teacher, jumps=jumps, **own)  # type: ignore[arg-type]


def new_student(teacher: FlowAR, jumps: int) -> FlowAR:
    """A student with the weights of its teacher, whose AR transformer stays as it is.

    Until it has learned something, all its jumps go where the teacher's unguided velocity points.
    """
    student = FlowAR(student_config(teacher.config, jumps))
    weights = {f"flow_transformer.jump_embed.{name}": each for name, each in jump_embedding(student).items()}
    student.load_state_dict(weights | teacher.state_dict())
    student.ar_transformer.requires_grad_(False)
    return student


def jump_embedding(student: FlowAR) -> dict[str, Tensor]:
    """The weights of the only part that a student has and its teacher has not."""
    assert student.flow_transformer.jump_embed is not None
    return student.flow_transformer.jump_embed.state_dict()


def check_data(grid: tuple[int, int], tokenizer: Tokenizer, teacher: FlowARConfig) -> None:
    """Check that latents of this grid and tokenizer are such as the teacher knows.

    Raises:
        DataError: naming the first difference and both sides.
    """
    if grid != teacher.grid:
        raise DataError(f"data: expected latents of {teacher.grid}, as the teacher's, got {grid}")
    try:
        check_tokenizer(teacher.tokenizer or {}, tokenizer)
    except FlowARError as error:
        raise DataError(f"data: expected latents of the teacher's tokenizer; {error}") from error
