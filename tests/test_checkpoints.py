"""Checkpoints of runs: written aside in the background, checked on loading, never lost."""

from __future__ import annotations

import json
import logging
import os
import zlib
from pathlib import Path

import pytest
import torch
from conftest import small_model
from test_training_step import ONE, batch, new_step

from flowar.errors import DataError
from flowar.training.checkpoints import CheckpointWriter, checkpoints, load_checkpoint
from flowar.training.step import TrainingStep


def save_steps(folder: Path, steps: int, keep: int = 2) -> TrainingStep:
    step, writer = new_step(), CheckpointWriter(folder, keep, ONE)
    for _ in range(steps):
        step(batch(), 1e-3)
        writer.save(step.state)
    writer.close()
    return step


def test_round_trip(tmp_path: Path) -> None:
    saved, fresh = save_steps(tmp_path, 3).state, new_step(small_model(seed=1, dropout=0.0)).state
    assert load_checkpoint(fresh, tmp_path, ONE)[0].name == "step_00000003"
    assert fresh.progress() == saved.progress() == {"step": 3, "updates": 3, "skipped_in_a_row": 0}
    expected = saved.tensors()
    assert {name.split(".")[0] for name in expected} == {"model", "exp_avg", "exp_avg_sq", "average_0"}
    assert all(torch.equal(tensor, expected[name]) for name, tensor in fresh.tensors().items())
    assert all(state["step"] == 3 for state in fresh.optimizers[0].state.values())


def test_the_record(tmp_path: Path) -> None:
    """What is in it is a format that later versions have to read."""
    state = save_steps(tmp_path, 1).state
    folder = tmp_path / "step_00000001"
    record = json.loads((folder / "checkpoint.json").read_text())
    assert record.pop("config") == json.loads(json.dumps(state.identity()))
    ((name, file),) = record.pop("files").items()
    content = (folder / name).read_bytes()
    assert file == {"bytes": len(content), "crc32": f"{zlib.crc32(content):08x}"}
    assert len(record.pop("checksum")) == 8
    assert record == {"format": 1, "step": 1, "updates": 1, "skipped_in_a_row": 0}


def test_the_state_of_the_moment_is_saved(tmp_path: Path) -> None:
    step, writer = new_step(), CheckpointWriter(tmp_path, 1, ONE)
    step(batch(), 1e-3)
    expected = {name: tensor.clone() for name, tensor in step.state.tensors().items()}
    writer.save(step.state)
    for tensor in step.state.tensors().values():
        tensor.zero_()  # while it may still be writing
    writer.close()
    load_checkpoint(step.state, tmp_path, ONE)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in step.state.tensors().items())


def test_a_step_that_is_saved_again(tmp_path: Path) -> None:
    """As by a run that went back to an older checkpoint."""
    state, writer = save_steps(tmp_path, 1).state, CheckpointWriter(tmp_path, 2, ONE)
    for tensor in state.tensors().values():
        tensor.zero_()
    writer.save(state)
    writer.close()
    fresh = new_step().state
    assert load_checkpoint(fresh, tmp_path, ONE)[0].name == "step_00000001"
    assert not any(tensor.any() for tensor in fresh.tensors().values())


def test_the_newest_stay(tmp_path: Path) -> None:
    save_steps(tmp_path, 4, keep=3)
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000002", "step_00000003", "step_00000004"]
    assert len([*tmp_path.iterdir()]) == 3


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    save_steps(tmp_path, 1)
    (tmp_path / ".step_00000002").mkdir()
    (tmp_path / ".step_00000002" / "shard.safetensors").write_bytes(b"half")
    assert [path.name for path in checkpoints(tmp_path)] == ["step_00000001"]
    CheckpointWriter(tmp_path, 2, ONE)
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]


def test_a_damaged_checkpoint_is_passed_over(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    step = save_steps(tmp_path, 2)
    (file,) = (tmp_path / "step_00000002").glob("*.safetensors")
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with caplog.at_level(logging.WARNING):
        assert load_checkpoint(step.state, tmp_path, ONE)[0].name == "step_00000001"
    assert "expected {'bytes'" in caplog.text
    assert "crc32" in caplog.text
    (tmp_path / "step_00000001" / "checkpoint.json").write_text("{")
    with pytest.raises(DataError, match=r"expected a checkpoint that is whole in .*, got 2 damaged ones"):
        load_checkpoint(step.state, tmp_path, ONE)


def test_missing_and_truncated_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    step = save_steps(tmp_path, 2)
    for name, damage in (("step_00000002", Path.unlink), ("step_00000001", lambda file: file.write_bytes(b"short"))):
        (file,) = (tmp_path / name).glob("*.safetensors")
        damage(file)
    with pytest.raises(DataError, match="got 2 damaged ones"):
        load_checkpoint(step.state, tmp_path, ONE)
    assert "No such file" in caplog.text
    assert "'bytes': 5" in caplog.text


def test_file_that_has_grown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """By a terabyte that takes no space, and that nobody reads."""
    step = save_steps(tmp_path, 1)
    (file,) = (tmp_path / "step_00000001").glob("*.safetensors")
    os.truncate(file, 2**40)
    with pytest.raises(DataError, match="got 1 damaged ones"):
        load_checkpoint(step.state, tmp_path, ONE)
    assert f"'bytes': {2**40}" in caplog.text


def test_record_without_what_it_needs(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    step = save_steps(tmp_path, 1)
    path = tmp_path / "step_00000001" / "checkpoint.json"
    record = json.loads(path.read_text())
    path.write_text(path.read_text().replace('"updates": 1', '"updates": 3'))
    with pytest.raises(DataError, match="got 1 damaged ones"):
        load_checkpoint(step.state, tmp_path, ONE)
    assert "checkpoint.json: damaged: expected checksum" in caplog.text
    del record["updates"], record["checksum"]  # which no older one has
    path.write_text(json.dumps(record))
    with pytest.raises(DataError, match="got 1 damaged ones"):
        load_checkpoint(step.state, tmp_path, ONE)
    assert "checkpoint.json: updates: expected an integer >= 0, got None" in caplog.text


def test_full_disk(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    save_steps(tmp_path, 1)
    step, writer = new_step(), CheckpointWriter(tmp_path, 2, ONE)
    step.state.step = 9
    request.getfixturevalue("full_disk")
    writer.save(step.state)
    with pytest.raises(OSError, match="step_00000009: writing failed"):
        writer.close()
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
