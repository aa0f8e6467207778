"""Files that are being written: what dead processes left goes, several files come together, a folder has one writer."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, small_model
from torch import Tensor

from flowar import FlowAR, FlowARPipeline
from flowar.errors import FlowARError
from flowar.system import parts
from flowar.system.files import write_aside, write_json
from flowar.system.lock import LOCK_FILE, locked
from flowar.system.parts import machine, remove_left_parts
from flowar.system.together import SAVED, finish_saving, write_together
from flowar.tokenizers.conv import ConvTokenizer
from flowar.tokenizers.loading import load_tokenizer
from flowar.tokenizers.pixel import PixelTokenizer


@pytest.fixture(scope="module")
def dead() -> int:
    """The number of a process that has ended."""
    return int(subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], stdout=subprocess.PIPE).stdout)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


class TestLeftParts:
    def test_those_of_dead_processes_go(self, tmp_path: Path, dead: int) -> None:
        living, elsewhere = os.getpid(), "00c0ffee"
        kept = [f".a.json.{living}.part", f".a.{machine()}.{living}-3.part", f".a.{elsewhere}.{dead}-0.part", "x.part"]
        left = [f".a.json.{dead}.part", f".b.c.{machine()}.{dead}-12.part", f".{2**70}.part.{2**70}.part"]
        for name in (*kept, *left):
            (tmp_path / name).write_text("half")
        (tmp_path / f".saved.{machine()}.{dead}-0.part").mkdir()
        (tmp_path / f".saved.{machine()}.{dead}-0.part" / "model").write_text("half")
        remove_left_parts(tmp_path)
        assert names(tmp_path) == sorted(kept)

    def test_after_a_day_all_go(self, tmp_path: Path, dead: int) -> None:
        part = tmp_path / f".a.00c0ffee.{dead}-0.part"
        part.touch()
        os.utime(part, (0, 0))
        remove_left_parts(tmp_path)
        assert not names(tmp_path)

    def test_below(self, tmp_path: Path, dead: int) -> None:
        (tmp_path / "samples").mkdir()
        left = tmp_path / "samples" / f".a.png.{dead}.part"
        left.touch()
        remove_left_parts(tmp_path)
        assert left.exists()
        remove_left_parts(tmp_path, below=True)
        assert not left.exists()

    def test_the_next_write_removes_them(self, tmp_path: Path, dead: int) -> None:
        (tmp_path / f".other.{machine()}.{dead}-0.part").touch()
        write_json(tmp_path / "a.json", {})
        assert names(tmp_path) == ["a.json"]

    def test_a_folder_is_not_looked_through_at_every_write(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        looked: list[Path] = []
        monkeypatch.setattr(parts, "remove_left_parts", looked.append)
        monkeypatch.setattr(parts, "AGAIN", 1e9)
        for number in range(9):
            write_json(tmp_path / f"{number}.json", {})
        assert looked == [tmp_path]

    def test_errors_name_the_file(self, tmp_path: Path, request: pytest.FixtureRequest) -> None:
        request.getfixturevalue("full_disk")
        with pytest.raises(OSError, match="File too large") as raised:
            write_aside(tmp_path / "a.bin", lambda aside: aside.write_bytes(bytes(1000)))
        assert raised.value.filename == str(tmp_path / "a.bin")
        with pytest.raises(OSError, match=f"{tmp_path}/model/model.safetensors: writing failed"):
            FlowAR(SMALL).save_pretrained(tmp_path / "model")
        assert names(tmp_path) == []


def dies_saving(pipeline: FlowARPipeline, folder: Path, at: int) -> bool:
    """Save in a process that dies when the operation number `at` is about to change the disk; whether it died."""
    count = itertools.count(1)

    def dying(operation: Callable[..., object]) -> Callable[..., object]:
        def counted(*arguments: object) -> object:
            if next(count) == at:
                os._exit(9)
            return operation(*arguments)

        return counted

    child = os.fork()
    if child == 0:
        for name in ("rename", "replace", "rmdir", "unlink", "touch"):
            setattr(Path, name, dying(getattr(Path, name)))
        pipeline.save_pretrained(folder)
        os._exit(0)
    return os.waitpid(child, 0)[1] != 0


def pipeline(**fields: Any) -> FlowARPipeline:
    torch.manual_seed(0)
    tokenizer = ConvTokenizer(image_channels=1, channels=4, widths=(8, 16))
    return FlowARPipeline(small_model(tokenizer=tokenizer.record(), **fields), tokenizer)


def weights(folder: Path) -> dict[str, Tensor]:
    found = FlowARPipeline.from_pretrained(folder)
    return dict(found.model.state_dict()) | dict(found.tokenizer.state_dict())


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def interrupted_after(write: Callable[[], None]) -> None:
    write()
    raise KeyboardInterrupt


class TestTogether:
    def test_files_come_at_the_end(self, tmp_path: Path) -> None:
        write_json(tmp_path / "b.json", {"old": 1})
        with write_together(tmp_path) as aside:
            write_json(aside / "a.json", {})
            write_json(aside / "b.json", {"new": 1})
            assert not (tmp_path / "a.json").exists()
        assert names(tmp_path) == ["a.json", "b.json"]
        assert json.loads((tmp_path / "b.json").read_text()) == {"new": 1}

    def test_an_error_leaves_all_as_it_was(self, tmp_path: Path) -> None:
        write_json(tmp_path / "b.json", {"old": 1})
        with pytest.raises(KeyboardInterrupt), write_together(tmp_path) as aside:
            interrupted_after(lambda: write_json(aside / "b.json", {}))
        assert names(tmp_path) == ["b.json"]
        assert json.loads((tmp_path / "b.json").read_text()) == {"old": 1}

    def test_a_reader_finishes_it(self, tmp_path: Path) -> None:
        """Killed between the moment that counts and the end, with one file of four at its place."""
        pipeline().save_pretrained(tmp_path / "new")
        pipeline(num_classes=3, ar_width=64).save_pretrained(tmp_path / "old")
        (tmp_path / "old" / SAVED).mkdir()
        for number, path in enumerate(sorted((tmp_path / "new").iterdir())):
            target = tmp_path / "old" if number == 0 else tmp_path / "old" / SAVED
            (target / path.name).write_bytes(path.read_bytes())
        assert same(weights(tmp_path / "old"), weights(tmp_path / "new"))
        assert names(tmp_path / "old") == names(tmp_path / "new")

    def test_the_next_save_finishes_it_first(self, tmp_path: Path) -> None:
        (tmp_path / SAVED).mkdir()
        (tmp_path / SAVED / "a.json").write_text("{}")
        with write_together(tmp_path) as aside:
            write_json(aside / "b.json", {})
        assert names(tmp_path) == ["a.json", "b.json"]

    def test_two_finish_it(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The other one is faster by a file."""
        (tmp_path / SAVED).mkdir()
        for name in "ab":
            (tmp_path / SAVED / name).touch()
        replace_, first = Path.replace, [True]

        def other_first(path: Path, target: Path) -> Path:
            if first.pop() if first else False:
                replace_(path, target)
            return replace_(path, target)

        monkeypatch.setattr(Path, "replace", other_first)
        finish_saving(tmp_path)
        assert names(tmp_path) == ["a", "b"]

    def test_tokenizers(self, tmp_path: Path) -> None:
        ConvTokenizer(image_channels=1, channels=4, widths=(8, 16)).save_pretrained(tmp_path)
        PixelTokenizer(image_channels=1, stride=2).save_pretrained(tmp_path)
        assert load_tokenizer(tmp_path).kind == "pixel"

    @pytest.mark.slow
    def test_death_at_every_step(self, tmp_path: Path) -> None:
        saved, over = pipeline(), pipeline(num_classes=3, ar_width=64)
        saved.save_pretrained(tmp_path / "new")
        over.save_pretrained(tmp_path / "old")
        new, old = weights(tmp_path / "new"), weights(tmp_path / "old")
        outcomes = []
        for at in range(1, 99):
            folder = tmp_path / str(at)
            shutil.copytree(tmp_path / "old", folder)
            died = dies_saving(saved, folder, at)
            found = weights(folder)
            assert same(found, old) or same(found, new)
            outcomes.append(same(found, new))
            saved.save_pretrained(folder)
            assert names(folder) == names(tmp_path / "new")
            if not died:
                break
        assert not died
        assert outcomes == sorted(outcomes)
        assert outcomes.count(False) > 10
        assert outcomes.count(True) > 4  # some deaths come after the moment that counts


class TestLock:
    def test_a_second_one_is_refused(self, tmp_path: Path) -> None:
        with locked(tmp_path):
            with pytest.raises(FlowARError, match=f"no other process writes to, got that of process {os.getpid()} on"):
                locked(tmp_path).__enter__()
            (tmp_path / "a").touch()
        assert names(tmp_path) == ["a"]
        with locked(tmp_path):
            pass

    def test_a_killed_process_holds_nobody_up(self, tmp_path: Path, dead: int) -> None:
        (tmp_path / LOCK_FILE).write_text(f"process {dead}")
        (tmp_path / f".a.{dead}.part").touch()
        with locked(tmp_path):
            assert names(tmp_path) == [LOCK_FILE]
        assert not names(tmp_path)

    def test_a_new_folder_goes_again_if_it_stays_empty(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="x"), locked(tmp_path / "run"):
            raise ValueError("x")
        with locked(tmp_path / "other"):
            (tmp_path / "other" / "a").touch()
        assert names(tmp_path) == ["other"]

    def test_another_process(self, tmp_path: Path) -> None:
        code = f"""if True:
            from pathlib import Path
            from flowar.system.lock import locked
            with locked(Path({str(tmp_path)!r})):
                print(flush=True)
                input()
        """
        process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert process.stdin
        assert process.stdout
        process.stdout.readline()
        with pytest.raises(FlowARError, match=f"got that of process {process.pid} on"), locked(tmp_path):
            pass
        process.kill()
        process.wait()
        with locked(tmp_path):
            pass

    def test_a_disk_without_locks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        def unsupported(*_: object) -> None:
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr("fcntl.flock", unsupported)
        with locked(tmp_path):
            pass
        assert caplog.messages == [f"{tmp_path}: no lock keeps other processes out (Operation not supported)"]


def test_commands_refuse_a_folder_in_use(idx_folder: Path, tmp_path: Path) -> None:
    from evaluation_runs import run
    from training_runs import run_config

    from flowar.training.load_data import load_data
    from flowar.training.tokenizer_config import TokenizerTrainingConfig
    from flowar.training.tokenizer_training import train_tokenizer
    from flowar.training.tokenizer_watch import WatchOptions
    from flowar.training.trainer import train

    config, folder = run_config(idx_folder, tmp_path / "run"), tmp_path / "run"
    images = torch.zeros(4, 1, 8, 8, dtype=torch.uint8)
    small = TokenizerTrainingConfig(widths=[8, 16], steps=1)
    evaluation = {"reference": str(idx_folder), "output": folder, "extractor": "fashion", "model": "flowar-fashion"}
    with locked(folder):
        for write in (
            lambda: train(config),
            lambda: train(replace(config, resume=True)),
            lambda: load_data(replace(config.data, latents=str(folder)), tmp_path),
            lambda: train_tokenizer(images, small, watched=WatchOptions(folder, images)),
            lambda: run(evaluation),
        ):
            with pytest.raises(FlowARError, match="no other process writes to"):
                write()
    assert not folder.exists()
