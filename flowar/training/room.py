"""Estimates of the memory, the disk and the time that a training takes at the very least, before any of it is taken."""

from __future__ import annotations

import math
import shutil
from pathlib import Path

from flowar.config import FlowARConfig
from flowar.data.image_source import ImageSource
from flowar.errors import FlowARError
from flowar.networks.flops import training_flops
from flowar.system.hardware import PEAK_TFLOPS
from flowar.system.memory import check_memory, size
from flowar.system.precision import parse_dtype
from flowar.system.progress import duration
from flowar.system.ranks import Ranks
from flowar.tokenizers.base import Tokenizer
from flowar.training.config import TrainConfig
from flowar.training.data_config import DataConfig

LONGEST = 3650 * 86400  # seconds that a training may take on the fastest device that is known
MOMENTS, GRADIENTS = 2, 1  # copies of the weights that AdamW and a step need


def check_encoding(folder: Path, source: ImageSource, tokenizer: Tokenizer, config: DataConfig, variants: int) -> None:
    """Check that the latents of all images fit onto the disk, and what is in memory at once into the memory.

    Args:
        folder: the folder of the store.
        source: the images.
        tokenizer: the tokenizer, whose posterior may take twice what is counted here.
        config: how many images are encoded, and stored, together.
        variants: the number of encodings of every image.

    Raises:
        FlowARError: naming the option, with the estimate.
    """
    pixels = source.channels * math.prod(source.image_size)
    dtype = parse_dtype(config.dtype)
    assert dtype is not None
    latents = tokenizer.channels * math.prod(source.image_size) // tokenizer.stride**2 * dtype.itemsize
    at_once = min(max(1, config.encode_batch // variants), len(source))
    kinds = f"{variants} encodings of each image"
    check_memory("encode_batch and crops", f"{at_once} images with {kinds}", 4 * at_once * variants * pixels)
    shard = min(config.shard_size, len(source))
    check_memory("shard_size", f"{shard} images with {kinds}", shard * variants * latents)
    needed, free = len(source) * variants * latents, free_disk(folder)
    stored = sum(file.stat().st_size for file in folder.glob("shard_*.safetensors"))
    if needed > free + stored:
        got = f"{len(source)} images with {kinds}: {size(needed)}"
        raise FlowARError(f"{folder}: expected latents that fit into {size(free)} of free disk, got {got}")


def free_disk(folder: Path) -> int:
    """The free bytes of the disk that a folder is on, or will be."""
    existing = next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
    return shutil.disk_usage(existing).free


def check_model(model: FlowARConfig, config: TrainConfig, ranks: Ranks) -> None:
    """Check that a model, and what its training keeps for every weight, fits into the memory of the host.

    It is made there, whatever it is trained on.

    Raises:
        FlowARError: if it does not, with the estimate.
    """
    kept = MOMENTS + GRADIENTS + len(config.optim.ema_decays) if ranks.device.type == "cpu" else 0
    shares = ranks.world_size if config.parallel in ("fsdp", "hybrid") else 1
    sizes = f"ar_width {model.ar_width}, ar_depth {model.ar_depth}, flow_width {model.flow_width}"
    what = f"{1 + kept} times {size(model.nbytes)} ({sizes}, flow_depth {model.flow_depth})"
    check_memory("model", what, model.nbytes * (1 + kept / shares))


def check_time(model: FlowARConfig, config: TrainConfig, steps: int, ranks: Ranks) -> None:
    """Check that a training can end within ten years, on devices like the fastest one that is known.

    Raises:
        FlowARError: if it cannot, with the estimate.
    """
    fastest = 1e12 * max(rate for rates in PEAK_TFLOPS.values() for rate in rates)
    flops = training_flops(model, config.optim.batch_size)
    seconds = steps * flops / fastest / ranks.world_size
    if seconds > LONGEST:
        got = f"{steps} steps of {flops / 1e12:.3g} TFLOP, which take {duration(seconds)} or more"
        raise FlowARError(f"steps: expected what ends within {duration(LONGEST)}, got {got}")
