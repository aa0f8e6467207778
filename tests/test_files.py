"""Files that are written aside: whole or as they were, and of the mode that the user asks for."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flowar.system.files import write_aside, write_json


@pytest.fixture(params=[0o022, 0o027, 0o077], ids=oct)
def mode(request: pytest.FixtureRequest) -> Iterator[int]:
    """The mode of new files under an umask."""
    before = os.umask(request.param)
    yield 0o666 & ~request.param
    os.umask(before)


def test_files_have_the_mode_of_the_umask(tmp_path: Path, mode: int) -> None:
    """Whatever writes them: safetensors makes its files private."""
    write_json(tmp_path / "config.json", {})
    write_aside(tmp_path / "weights.safetensors", lambda aside: save_file({"x": torch.ones(1)}, aside))
    (tmp_path / "config.json").chmod(0o600)
    write_json(tmp_path / "config.json", {})  # anew
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {mode}


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    def fail(aside: Path) -> None:
        aside.write_text("half")
        raise OSError("disk full")

    path = tmp_path / "new" / "file"
    write_aside(path, lambda aside: aside.write_text("before"))
    with pytest.raises(OSError, match="disk full"):
        write_aside(path, fail)
    assert [each.read_text() for each in path.parent.iterdir()] == ["before"]
