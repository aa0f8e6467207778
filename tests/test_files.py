"""Files that are written aside: whole or as they were, and of the mode that the user asks for."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from flowar.errors import FlowARError
from flowar.system.fields import checked
from flowar.system.files import write_aside, write_json
from flowar.system.rules import OutputFile


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


def test_only_files_are_replaced(tmp_path: Path) -> None:
    """Not a pipe, nor a folder, nor a device, were it that of a superuser; a link counts as what it leads to."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "device").symlink_to(os.devnull)
    for name in ("pipe", "folder", "link", "device"):
        with pytest.raises(OSError, match="expected the place of a file, got a pipe, a device or a folder"):
            write_json(tmp_path / name, {})
        with pytest.raises(FlowARError, match=rf"output: expected the path of a file, got '.*{name}', where there is"):
            checked(tmp_path / name, OutputFile, "output")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["device", "folder", "link", "pipe"]
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)
    write_json(tmp_path / "new", {})
    assert checked(str(tmp_path / "new"), OutputFile) == tmp_path / "new"
