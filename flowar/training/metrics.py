"""Where numbers go: `metrics.jsonl` always, TensorBoard where it is installed."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


class MetricsWriter:
    """Appends one JSON object a call, and mirrors it to TensorBoard."""

    def __init__(self, folder: Path, step: int) -> None:
        """Rows after `step`, left by an interrupted run that is being resumed, are dropped."""
        self.path = folder / "metrics.jsonl"
        rows = self.path.read_text().splitlines() if self.path.exists() else []
        kept = [row for row in rows if json.loads(row)["step"] <= step] if step else []
        self.file = self.path.open("w")
        self.file.writelines(f"{row}\n" for row in kept)
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


def open_board(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        log.info("TensorBoard is not installed (pip install flowar[train]); metrics go to metrics.jsonl alone")
        return None
    return SummaryWriter(str(folder), purge_step=step + 1 if step else None)
