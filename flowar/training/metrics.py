"""Where numbers go: `metrics.jsonl` always, TensorBoard where it is installed."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path
from typing import Any

from flowar.files import write_aside

log = logging.getLogger(__name__)


class MetricsWriter:
    """Appends one JSON object a call, and mirrors it to TensorBoard."""

    def __init__(self, folder: Path, step: int) -> None:
        """Rows after `step`, left by an interrupted run that is being resumed, are dropped."""
        path = folder / "metrics.jsonl"
        rows = [f"{row}\n" for row in path.read_text().splitlines()] if step and path.exists() else []
        kept = [row for row in rows if logged_step(row) <= step]
        write_aside(path, lambda aside: aside.write_text("".join(kept)))
        self.file = path.open("a")
        self.board = open_board(folder / "tensorboard", step)

    def write(self, step: int, values: dict[str, Any]) -> None:
        """values: numbers, or lists of numbers (one per scale)."""
        self.file.write(json.dumps({"step": step} | values) + "\n")
        self.file.flush()
        if self.board is None:
            return
        for name, value in values.items():
            for index, number in enumerate(value) if isinstance(value, list) else ((None, value),):
                self.board.add_scalar(name if index is None else f"{name}/{index}", number, step)

    def image(self, step: int, name: str, path: Path) -> None:
        """Show the picture at `path` in TensorBoard."""
        if self.board is not None:
            import numpy as np
            from PIL import Image

            self.board.add_image(name, np.asarray(Image.open(path).convert("RGB")), step, dataformats="HWC")

    def close(self) -> None:
        self.file.close()
        if self.board is not None:
            self.board.close()


def logged_step(row: str) -> float:
    """The step of a row; infinite for the row that a killed run did not finish."""
    try:
        return float(json.loads(row)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def open_board(folder: Path, step: int) -> Any:
    """A TensorBoard writer that goes on after `step`, or None where TensorBoard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.info("TensorBoard is not installed (pip install flowar[train]); metrics go to metrics.jsonl alone")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
