"""A few kills of the drill, which `python tests/kill_drill.py` makes by the dozen."""

from __future__ import annotations

import pytest
from kill_drill import run

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    "name", ["train", "train-tokenizer", "encode", "evaluate", "reference", "convert", "save_pretrained", "sigterm"]
)
def test_kills(name: str) -> None:
    assert run([name], kills=4, seed=1, fresh=False) == []
