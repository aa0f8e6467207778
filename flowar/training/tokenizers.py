"""The tokenizer that a training configuration names."""

from __future__ import annotations

from flowar.errors import DataError
from flowar.tokenizer import PixelTokenizer, Tokenizer
from flowar.tokenizer_loading import load_tokenizer
from flowar.training.data import ImageSource
from flowar.training.tokenizer_training import calibrate

CALIBRATION_BATCH = 256


def tokenizer_for_training(name: str, source: ImageSource) -> Tokenizer:
    """The tokenizer called `name`: "pixel:STRIDE", calibrated on `source`, or whatever `load_tokenizer` knows.

    Raises:
        DataError: for a stride that is not a positive integer.
        ValueError: for a folder or Hub id without a tokenizer.
    """
    if not name.startswith("pixel:"):
        return load_tokenizer(name)
    stride = name.removeprefix("pixel:")
    if not stride.isdecimal() or int(stride) < 1:
        raise DataError(f"tokenizer: expected pixel:STRIDE with a positive stride, got {name}")
    channels = next(source.batches(1)).shape[1]
    tokenizer = PixelTokenizer(channels, int(stride))
    calibrate(tokenizer, source.batches(CALIBRATION_BATCH))
    return tokenizer
