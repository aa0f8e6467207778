"""A small pipeline with classes that have names, for the tests of its habits."""

from __future__ import annotations

from typing import Any

from conftest import small_model

from flowar import FlowARPipeline
from flowar.tokenizers.pixel import PixelTokenizer

NAMES = ("T-shirt/top", "tench, Tinca tinca", "crane", "crane, bird", "Bag")


def small_pipeline(image_channels: int = 1, **fields: Any) -> FlowARPipeline:
    """Pictures of 8 x 8, of five classes."""
    tokenizer = PixelTokenizer(image_channels, 2, std=[0.5] * 4 * image_channels)
    fields = {"class_names": NAMES, "num_inference_steps": 3, "guidance_scale": 2.0} | fields
    return FlowARPipeline(
        small_model(latent_channels=tokenizer.channels, tokenizer=tokenizer.record(), **fields), tokenizer
    )
