"""The tokenizer that a training configuration names."""

from __future__ import annotations

from flowar.data.image_source import ImageSource
from flowar.errors import DataError
from flowar.tokenizers.base import Tokenizer
from flowar.tokenizers.loading import load_tokenizer
from flowar.tokenizers.pixel import PixelTokenizer
from flowar.training.calibration import calibrate

CALIBRATION_BATCH = 256


def tokenizer_for_training(name: str, source: ImageSource, skip_bad: bool = False) -> Tokenizer:
    """The tokenizer called `name`: "pixel:STRIDE", calibrated on `source`, or whatever `load_tokenizer` knows.

    Raises:
        DataError: for a stride that is not a positive integer, and an unreadable image unless those are skipped.
        ValueError: for a folder or Hub id without a tokenizer.
    """
    if not name.startswith("pixel:"):
        return load_tokenizer(name)
    stride = name.removeprefix("pixel:")
    if not stride.isdecimal() or int(stride) < 1:
        raise DataError(f"tokenizer: expected pixel:STRIDE with a positive stride, got {name}")
    tokenizer = PixelTokenizer(source.channels, int(stride))
    calibrate(tokenizer, source.batches(CALIBRATION_BATCH, [] if skip_bad else None))
    return tokenizer
