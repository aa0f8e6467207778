"""What evaluations in tests share: a small model of 28x28 grey images, an untrained judge, a reference. A program too.

`python evaluation_runs.py CONFIG` evaluates the configuration in that JSON file: for torchrun.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch

from flowar.evaluation.fashion_classifier import FashionClassifier
from flowar.evaluation.run import EvaluationConfig, evaluate
from flowar.storage.weights import save_tensors
from flowar.system.ranks import join_ranks

PATHS = ("output", "classifier")


def write_material(folder: Path) -> dict[str, Any]:
    """Write model, judge and reference below `folder`; a configuration of 24 images in chunks of 5 that uses them."""
    from conftest import small_model
    from test_data import write_idx

    from flowar import FlowARPipeline
    from flowar.tokenizers.pixel import PixelTokenizer

    tokenizer = PixelTokenizer(image_channels=1, stride=7)
    model = small_model(latent_channels=49, num_classes=10, tokenizer=tokenizer.record(), num_inference_steps=2)
    FlowARPipeline(model, tokenizer).save_pretrained(folder / "model")
    torch.manual_seed(0)
    save_tensors(folder / "classifier.safetensors", FashionClassifier().state_dict())
    images = torch.randint(0, 256, (40, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    write_idx(folder / "idx", images, torch.arange(40, dtype=torch.uint8) % 10)
    return {
        "model": str(folder / "model"),
        "reference": str(folder / "idx"),
        "output": folder / "evaluation",
        "extractor": "fashion",
        "classifier": folder / "classifier.safetensors",
        "num_images": 24,
        "batch_size": 5,
        "bootstrap": 4,
        "dtype": "float32",
    }


def run(config: dict[str, Any]) -> dict[str, Any]:
    """The card of a configuration, evaluated on the CPU; that of the main rank."""
    with join_ranks("cpu") as ranks:
        return evaluate(EvaluationConfig(**config), ranks) or {}


if __name__ == "__main__":
    torch.set_num_threads(1)
    values = json.loads(Path(sys.argv[1]).read_text())
    run(values | {name: Path(values[name]) for name in PATHS})
