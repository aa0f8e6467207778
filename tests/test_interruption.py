"""Trainings that a signal ends, or that save by the clock: they go on as if nothing had happened."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from test_data import pictures, write_idx
from torch import Tensor
from training_runs import MODEL, rows, run_config

from flowar.system.ranks import Ranks
from flowar.system.signals import TORCHRUN, StopRequest
from flowar.training import sample_grids
from flowar.training.checkpoints import checkpoints
from flowar.training.config import TrainConfig, ValidationConfig
from flowar.training.data_config import DataConfig
from flowar.training.encoding import Encoder, encode_shards
from flowar.training.interruption import Interruption
from flowar.training.step import TrainingStep
from flowar.training.tokenizer_config import TokenizerTrainingConfig
from flowar.training.tokenizer_state import TokenizerState
from flowar.training.tokenizer_training import train_tokenizer
from flowar.training.tokenizer_watch import WatchOptions
from flowar.training.trainer import train

pytestmark = pytest.mark.usefixtures("without_tensorboard")

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def handlers_stay() -> Iterator[None]:
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before


def signalled(step: int, signum: int) -> Callable[..., Any]:
    """`TrainingStep.__call__`, in which a signal comes in step number `step`."""
    call = TrainingStep.__call__

    def make(self: TrainingStep, *arguments: Any) -> Any:
        if self.state.step == step - 1:
            os.kill(os.getpid(), signum)
        return call(self, *arguments)

    return make


def state(run: Path) -> dict[str, Tensor]:
    """The tensors of the newest checkpoint of a run."""
    (file,) = checkpoints(run / "checkpoints")[-1].glob("*.safetensors")
    return load_file(file)


def assert_equal(one: Path, other: Path) -> None:
    """That two runs have the same rows, files and tensors."""
    assert rows(one) == rows(other)
    files = [sorted(path.name for path in run.rglob("*.*") if "checkpoints" not in path.parts) for run in (one, other)]
    assert files[0] == files[1]
    expected, got = state(one), state(other)
    assert expected.keys() == got.keys()
    assert all(torch.equal(value, got[name]) for name, value in expected.items())


HELD_OUT = ValidationConfig(share=0.2, every=4)
EVERY = {"log_every": 3, "save_every": 4, "sample_every": 4}


def stops(monkeypatch: pytest.MonkeyPatch, config: TrainConfig, step: int, signum: int = signal.SIGTERM) -> object:
    """Train until a signal comes in step number `step`; what ended the run."""
    with monkeypatch.context() as patch:
        patch.setattr(TrainingStep, "__call__", signalled(step, signum))
        with pytest.raises((KeyboardInterrupt, SystemExit)) as raised:
            train(config)
    return raised.value


@pytest.fixture(scope="module")
def idx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_idx(tmp_path_factory.mktemp("idx"), *pictures(40))


@pytest.fixture(scope="module")
def whole(idx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch.utils.tensorboard", None)
        train(config(idx, folder))
    return folder


@pytest.fixture
def run(idx: Path, tmp_path: Path) -> TrainConfig:
    return config(idx, tmp_path)


def config(idx: Path, folder: Path) -> TrainConfig:
    """Rows at 3, 4, 6 and 8 that are averages over several steps, pictures and a held-out loss at 4 and 8."""
    changes: dict[str, Any] = {"model": replace(MODEL, dropout=0.3), "validation": HELD_OUT, "precision": "float32"}
    return run_config(idx, folder, **EVERY, **changes, optim={"steps": 8})


class TestTraining:
    @pytest.mark.parametrize("at", [1, 4, 7, 8])
    def test_goes_on_bit_for_bit(
        self, whole: Path, run: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
    ) -> None:
        ended = stops(monkeypatch, run, at)
        assert isinstance(ended, SystemExit)
        assert ended.code == 143
        assert checkpoints(tmp_path / "checkpoints")[-1].name == f"step_{at:08d}"
        train(replace(run, resume=True))
        assert_equal(whole, tmp_path)

    def test_ctrl_c(self, whole: Path, run: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        assert isinstance(stops(monkeypatch, run, 5, signal.SIGINT), KeyboardInterrupt)
        train(replace(run, resume=True))
        assert_equal(whole, tmp_path)

    def test_stopped_twice_at_one_step(
        self, whole: Path, run: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The second time before the row and the picture of that step, which the first stop left to be done."""
        stops(monkeypatch, run, 4)
        ask = Interruption.ask

        def asked(self: Interruption) -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            ask(self)

        with monkeypatch.context() as patch:
            patch.setattr(Interruption, "ask", asked)
            with pytest.raises(SystemExit):
                train(replace(run, resume=True))
        assert [row["step"] for row in rows(tmp_path)] == [3]
        train(replace(run, resume=True))
        assert_equal(whole, tmp_path)

    def test_killed_in_a_report_that_was_left_to_be_done(
        self, whole: Path, run: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """After its row was written: there are not two of them."""
        stops(monkeypatch, run, 4)

        def killed(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(sample_grids, "write_aside", killed)
            with pytest.raises(KeyboardInterrupt):
                train(replace(run, resume=True))
        assert [row["step"] for row in rows(tmp_path)] == [3, 4]
        train(replace(run, resume=True))
        assert_equal(whole, tmp_path)

    def test_by_the_clock(self, whole: Path, run: TrainConfig, tmp_path: Path) -> None:
        """A checkpoint at every step changes neither rows nor numbers, and a run goes on from any of them."""
        often = replace(run, save_minutes=1e-9, keep_checkpoints=99)
        train(often)
        saved = checkpoints(tmp_path / "checkpoints")
        assert [path.name for path in saved] == [f"step_{step:08d}" for step in range(1, 9)]
        assert_equal(whole, tmp_path)
        for path in saved[5:]:
            shutil.rmtree(path)
        train(replace(often, resume=True))
        assert_equal(whole, tmp_path)

    def test_checkpoints_of_before_have_no_interval(self, idx_folder: Path, tmp_path: Path) -> None:
        config = run_config(idx_folder, tmp_path)
        train(replace(config, optim=replace(config.optim, steps=3)))
        path = tmp_path / "checkpoints" / "step_00000003" / "checkpoint.json"
        record = json.loads(path.read_text())
        del record["interval"], record["reported"], record["checksum"]
        path.write_text(json.dumps(record))
        train(replace(config, resume=True))
        assert [row["step"] for row in rows(tmp_path)] == [1, 2, 3, 4, 5, 6]

    def test_outside_of_the_main_thread(self, idx_folder: Path, tmp_path: Path) -> None:
        thread = threading.Thread(target=train, args=(run_config(idx_folder, tmp_path),))
        thread.start()
        thread.join()
        assert (tmp_path / "model").is_dir()

    @pytest.mark.parametrize("minutes", [-1, float("nan"), "soon", None])
    def test_minutes(self, idx_folder: Path, tmp_path: Path, minutes: Any) -> None:
        with pytest.raises(ValueError, match=r"save_minutes: expected a number in \[0, 1e\+06\], got"):
            run_config(idx_folder, tmp_path, save_minutes=minutes)


class TestTokenizer:
    @pytest.fixture
    def images(self) -> Tensor:
        return torch.randint(0, 256, (12, 1, 8, 8), dtype=torch.uint8)

    @pytest.mark.parametrize("at", [1, 4, 5, 6, 8])
    def test_goes_on_bit_for_bit(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: Tensor, at: int
    ) -> None:
        """Rows at 2, 4, 5 (where the robust steps begin), 6 and 8."""
        config = TokenizerTrainingConfig(widths=[8, 16], steps=5, robust_steps=3, batch_size=4, interval=2)
        whole, stopped = (WatchOptions(tmp_path / name, images[:2]) for name in ("whole", "stopped"))
        train_tokenizer(images, config, watched=whole)
        update = TokenizerState.update

        def signalled(self: TokenizerState, loss: Tensor) -> None:
            if self.step == at - 1:
                os.kill(os.getpid(), signal.SIGTERM)
            update(self, loss)

        with monkeypatch.context() as patch:
            patch.setattr(TokenizerState, "update", signalled)
            with pytest.raises(SystemExit) as raised:
                train_tokenizer(images, config, watched=stopped)
        assert raised.value.code == 143
        train_tokenizer(images, config, watched=replace(stopped, resume=True))
        assert_equal(tmp_path / "whole", tmp_path / "stopped")

    def test_by_the_clock(self, tmp_path: Path, images: Tensor) -> None:
        config = TokenizerTrainingConfig(widths=[8, 16], steps=3, robust_steps=1, interval=99, save_minutes=1e-9)
        saved: list[int] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Interruption, "saved", lambda self: saved.append(1) or setattr(self, "_saved", 0.0))
            train_tokenizer(images, config, watched=WatchOptions(tmp_path, images[:2]))
        assert len(saved) == 1 + 4  # when the training begins, and at every step


class TestSignals:
    def test_a_second_signal_ends_at_once(self) -> None:
        child = os.fork()
        if child == 0:
            with StopRequest() as request:
                os.kill(os.getpid(), signal.SIGTERM)
                assert request.signum == signal.SIGTERM
                os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGTERM

    def test_under_torchrun_it_may_be_an_echo(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv(TORCHRUN, "none")
        child = os.fork()
        if child == 0:
            with StopRequest() as request:
                os.kill(os.getpid(), signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)
                assert request.signum == signal.SIGTERM
                request._came -= 3
                os.kill(os.getpid(), signal.SIGTERM)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 143

    @pytest.mark.parametrize("own", [signal.SIG_IGN, lambda signum, frame: None])
    def test_what_the_program_handles_itself_is_left_alone(self, own: Any) -> None:
        before = signal.signal(signal.SIGTERM, own)
        try:
            with StopRequest() as request:
                os.kill(os.getpid(), signal.SIGTERM)
            assert request.signum is None
        finally:
            signal.signal(signal.SIGTERM, before)

    def test_all_ranks_get_the_answers_of_any(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.distributed.new_group", lambda backend: backend)
        with StopRequest() as request:
            asked = Interruption(request, 1e-9, Ranks(CPU, rank=1, world_size=2))

            def other_rank(answers: Tensor, operation: object, group: object) -> None:
                assert group == "gloo"
                assert answers.tolist() == [0, 0]  # the main rank's clock counts
                answers.copy_(torch.tensor([signal.SIGTERM, 1]))

            monkeypatch.setattr("torch.distributed.all_reduce", other_rank)
            asked.ask()
        assert (asked.signum, asked.overdue) == (signal.SIGTERM, True)


class SlowEncoder(Encoder):
    """Never ends with a shard; says that it has begun."""

    def write(self, number: int) -> list[str]:
        (self.folder / f"begun_{number}").touch()
        time.sleep(600)
        return []


@pytest.mark.slow
def test_workers_do_not_end_their_shards_first(tmp_path: Path) -> None:
    config = DataConfig(str(tmp_path), "pixel:2", workers=2)
    shards = encode_shards(SlowEncoder(tmp_path, None, config, {}), [0, 1])  # type: ignore[arg-type]

    def interrupt(*_: object) -> None:
        if len([*tmp_path.glob("begun_*")]) == 2:
            signal.setitimer(signal.ITIMER_REAL, 0)  # one interrupt: a second one would end what the first one began
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        with pytest.raises(KeyboardInterrupt):
            next(shards)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not multiprocessing.active_children()


def test_config_is_not_resumed_with_minutes(idx_folder: Path, tmp_path: Path) -> None:
    """Another number of minutes makes no other run."""
    config: TrainConfig = run_config(idx_folder, tmp_path)
    train(replace(config, optim=replace(config.optim, steps=3)))
    train(replace(config, resume=True, save_minutes=0.0))
    assert len(rows(tmp_path)) == 6
