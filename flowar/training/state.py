"""What a run must remember to go on exactly where it was: weights, their average, the optimizer, generators."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from flowar.errors import DataError, first_line
from flowar.model import FlowAR
from flowar.weights import save_tensors

KEPT_CHECKPOINTS = 2


@dataclass
class TrainState:
    """The moving parts of a run. `ema` is a second model, whose weights average those of `model`."""

    model: FlowAR
    ema: FlowAR
    optimizer: torch.optim.AdamW
    step: int = 0

    def tensors(self) -> dict[str, Tensor]:
        """Everything as named tensors; generator states are bytes."""
        found = {"generator.cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            found["generator.cuda"] = torch.cuda.get_rng_state()
        for name, parameter in self.model.named_parameters():
            found[f"model.{name}"] = parameter.detach()
            moments = self.optimizer.state.get(parameter, {})
            found |= {f"{moment}.{name}": moments[moment] for moment in ("exp_avg", "exp_avg_sq") if moment in moments}
        found |= {f"ema.{name}": parameter.detach() for name, parameter in self.ema.named_parameters()}
        return found

    @torch.no_grad()
    def load(self, tensors: dict[str, Tensor], step: int) -> None:
        """Take over what `tensors` returned at `step`."""
        for name, parameter in self.model.named_parameters():
            parameter.copy_(tensors[f"model.{name}"])
            self.optimizer.state[parameter] = {
                "step": torch.tensor(float(step)),
                "exp_avg": tensors[f"exp_avg.{name}"].to(parameter.device),
                "exp_avg_sq": tensors[f"exp_avg_sq.{name}"].to(parameter.device),
            }
        for name, parameter in self.ema.named_parameters():
            parameter.copy_(tensors[f"ema.{name}"])
        torch.set_rng_state(tensors["generator.cpu"])
        if torch.cuda.is_available() and "generator.cuda" in tensors:
            torch.cuda.set_rng_state(tensors["generator.cuda"])
        self.step = step


def checkpoints(folder: Path) -> list[Path]:
    """Checkpoint files in `folder`, oldest first."""
    found = {int(m[1]): path for path in folder.glob("step_*.safetensors") if (m := re.search(r"_(\d+)\.", path.name))}
    return [found[step] for step in sorted(found)]


def save_checkpoint(state: TrainState, folder: Path) -> Path:
    """Write the state, then remove all but the newest checkpoints.

    Raises:
        OSError: if writing fails; older checkpoints stay as they were.
    """
    path = folder / f"step_{state.step:08d}.safetensors"
    metadata = {"step": str(state.step), "config": json.dumps(state.model.config.to_dict())}
    save_tensors(path, state.tensors(), metadata)
    for old in checkpoints(folder)[:-KEPT_CHECKPOINTS]:
        old.unlink()
    return path


def load_checkpoint(state: TrainState, folder: Path) -> Path:
    """Continue from the newest checkpoint in `folder`.

    Raises:
        DataError: if there is none, it cannot be read, or it belongs to another configuration.
    """
    found = checkpoints(folder)
    if not found:
        raise DataError(f"resume: expected checkpoints in {folder}, found none")
    try:
        with safe_open(found[-1], "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise DataError(f"{found[-1]}: expected a training checkpoint ({first_line(error)})") from error
    expected = json.dumps(state.model.config.to_dict())
    if metadata.get("config") != expected:
        raise DataError(f"{found[-1]}: expected a checkpoint of {expected}, got one of {metadata.get('config')}")
    state.load(tensors, int(metadata["step"]))
    return found[-1]
