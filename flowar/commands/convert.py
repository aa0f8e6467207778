"""`flowar convert`: the authors' checkpoint to safetensors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass
class Options:
    """Convert the authors' checkpoint to a folder of config.json and model.safetensors.

    Attributes:
        checkpoint: the authors' .pth file.
        output: folder to write.
        tokenizer: folder of a tokenizer, or kl16.ckpt, to save beside the model.
        dtype: to store the weights in; the checkpoint's own if left out.
    """

    checkpoint: Path
    output: Path
    tokenizer: str | None = None
    dtype: str | None = None


def run(options: Options) -> None:
    """Convert, write the folder and say what it holds."""
    from flowar.model import FlowAR
    from flowar.precision import parse_dtype
    from flowar.tokenizer_loading import load_tokenizer

    model = FlowAR.from_published(options.checkpoint)
    if options.tokenizer is not None:
        load_tokenizer(options.tokenizer).save_pretrained(options.output)
    model.save_pretrained(options.output, dtype=parse_dtype(options.dtype))
    count = sum(parameter.numel() for parameter in model.parameters())
    print(f"{count / 1e6:.1f} M parameters in {options.output}")
