"""Latents of a whole data set, computed once and kept in one safetensors file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from flowar.errors import DataError, first_line
from flowar.progress import step_progress
from flowar.tokenizer import Tokenizer
from flowar.training.data import ImageSource, to_unit_range
from flowar.training.draws import Draws, Stream
from flowar.weights import save_tensors

ENCODE_BATCH = 256


@dataclass
class LatentDataset:
    """Normalised posterior of every image: mean and std [N, c, h, w] float32, labels [N] int64."""

    mean: Tensor
    std: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def batch(self, indices: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
        """Latents [B, c, h, w], drawn afresh from the posterior, and labels [B]."""
        mean = self.mean[indices]
        noise = draws.normal(Stream.POSTERIOR, mean.shape[1:])
        return mean + self.std[indices] * noise, self.labels[indices]


def cached_latents(path: Path, source: ImageSource, description: str, tokenizer: Tokenizer) -> LatentDataset:
    """The latents of `source` under `tokenizer`, read from `path` if they are there, else encoded and written.

    Raises:
        DataError: if `path` holds something else: another data set, another tokenizer, or no latents at all.
    """
    key = json.dumps({"images": description, "count": len(source.labels), "tokenizer": tokenizer.record()})
    if not path.exists():
        encode(path, source, key, tokenizer)
    try:
        with safe_open(path, "pt") as file:
            found = (file.metadata() or {}).get("latents")
            if found != key:
                raise DataError(f"{path}: expected latents of {key}, got {found}; remove the file or name another")
            return LatentDataset(*(file.get_tensor(name) for name in ("mean", "std", "labels")))
    except (SafetensorError, OSError) as error:
        raise DataError(f"{path}: expected a safetensors file of latents ({first_line(error)})") from error


def encode(path: Path, source: ImageSource, key: str, tokenizer: Tokenizer) -> None:
    """Write the posterior of every image of `source`."""
    moments: list[tuple[Tensor, Tensor]] = []
    batches = -(-len(source.labels) // ENCODE_BATCH)
    with step_progress(batches, None, "encoding images") as advance:
        for images in source.batches(ENCODE_BATCH):
            moments.append(tokenizer.posterior(to_unit_range(images)))
            advance()
    mean, std = (torch.cat(parts) for parts in zip(*moments, strict=True))
    tensors = {"mean": mean, "std": std, "labels": source.labels}
    save_tensors(path, tensors, {"latents": key})
