"""`flowar convert`: the authors' checkpoint, or one of a training with their code, to safetensors."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from flowar.commands import say
from flowar.system.fields import checks_fields
from flowar.system.rules import Count, Place


@dataclass
@checks_fields
class Options:
    """Convert the authors' checkpoint, or one of a training with their code, to a folder of config.json and
    model.safetensors.

    Attributes:
        checkpoint: the authors' .pth file, or a safetensors file with the same names.
        output: folder to write.
        tokenizer: folder of a tokenizer, or kl16.ckpt, to save beside the model.
        dtype: dtype to store the weights in: float32 (if left out), bfloat16 or float16.
        ar_heads: attention heads of the AR transformer, where neither the checkpoint nor its size tells them.
        flow_heads: those of the flow transformer, likewise.
    """

    checkpoint: Path
    output: Path
    tokenizer: Place | None = None
    dtype: str | None = None
    ar_heads: Count | None = None
    flow_heads: Count | None = None


def run(options: Options) -> None:
    """Convert the checkpoint, write the folder and print what it holds."""
    from flowar.model import FlowAR
    from flowar.pipeline import FlowARPipeline
    from flowar.system.precision import parse_dtype
    from flowar.tokenizers.loading import load_tokenizer

    dtype = parse_dtype(options.dtype)
    model = FlowAR.from_published(options.checkpoint, ar_heads=options.ar_heads, flow_heads=options.flow_heads)
    if options.tokenizer is None:
        model.save_pretrained(options.output, dtype)
    else:
        pipeline = FlowARPipeline(model, load_tokenizer(options.tokenizer))
        model.config = replace(model.config, tokenizer=pipeline.tokenizer.record())
        pipeline.save_pretrained(options.output, dtype)
    count = sum(parameter.numel() for parameter in model.parameters())
    say(f"{count / 1e6:.1f} M parameters in {options.output}")
