"""Runs of several processes, as torchrun starts them: the losses of one process, and resuming in every direction."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import small_model
from safetensors.torch import load_file
from training_runs import rows

from flowar import FlowAR, FlowARPipeline
from flowar.tokenizers.pixel import PixelTokenizer

pytestmark = pytest.mark.slow  # each starts processes that import torch

PROGRAM = Path(__file__).with_name("distributed_run.py")
CROSS = {"dropout": 0.0, "flow_block": "attn_cross_mlp", "qk_norm": True}
OPTIM = {"batch_size": 8, "steps": 6, "lr": 1e-3, "warmup_steps": 2}


def command(folder: Path, processes: int, **options: Any) -> list[str]:
    optim = OPTIM | options.pop("optim", {})
    fixed = {"data": str(folder / "idx"), "model": {"dropout": 0.0}, "precision": "float32"}  # on every processor
    values = fixed | {"optim": optim} | options
    path = folder / f"{Path(options['output']).name}.json"
    path.write_text(json.dumps(values))
    if processes > 1:
        return command_of_two(str(PROGRAM), str(path))
    return [sys.executable, str(PROGRAM), str(path)]


def command_of_two(*program: str) -> list[str]:
    """The command that starts two processes of a program."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *program]


def run(folder: Path, name: str, processes: int, **options: Any) -> Path:
    """A run in `folder / name`; its folder."""
    output = folder / name
    done = subprocess.run(
        command(folder, processes, output=str(output), **options), capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return output


def refused(folder: Path, name: str, **options: Any) -> str:
    """What a run of two processes says that ends with an error."""
    done = subprocess.run(
        command(folder, 2, output=str(folder / name), **options), capture_output=True, text=True, timeout=600
    )
    assert done.returncode != 0
    return done.stderr


def losses(run: Path) -> list[float]:
    return [row["loss"] for row in rows(run)]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from test_data import pictures, write_idx

    folder = tmp_path_factory.mktemp("distributed")
    write_idx(folder / "idx", *pictures(40))
    return folder


@pytest.fixture(scope="module")
def alone(folder: Path) -> Path:
    return run(folder, "alone", 1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("ddp", {"parallel": "ddp"}),
        ("ddp_parts", {"parallel": "ddp", "micro_batch": 2}),
        ("fsdp", {"parallel": "fsdp"}),
        ("fsdp_parts", {"parallel": "fsdp", "micro_batch": 2}),
        ("hybrid", {"parallel": "hybrid"}),
        ("held_out", {"parallel": "fsdp", "validation": {"share": 0.2, "every": 3}, "balance_classes": True}),
        ("muon", {"optim": {"optimizer": "muon"}}),
        ("cross", {"parallel": "fsdp", "checkpointing": "all", "model": CROSS}),
    ],
)
def test_two_processes_lose_what_one_does(folder: Path, alone: Path, name: str, options: dict[str, Any]) -> None:
    two = run(folder, name, 2, sample_every=6, **options)
    changed = {key: options[key] for key in ("model", "optim", "validation", "balance_classes") if key in options}
    one = run(folder, f"{name}_alone", 1, **changed) if changed else alone
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    held_out = [[row["held_out_loss"] for row in rows(each) if "held_out_loss" in row] for each in (two, one)]
    assert held_out[0] == pytest.approx(held_out[1], rel=1e-5)
    assert len(held_out[0]) == (2 if "validation" in options else 0)
    norms = ([row["grad_norm"] for row in rows(each)] for each in (two, one))
    assert next(norms) == pytest.approx(next(norms), rel=1e-4)
    assert FlowAR.from_pretrained(two / "model").sample([1]).isfinite().all()
    assert (two / "samples" / "step_00000006.png").is_file()
    if name == "muon":  # where a gradient is of low rank, its other directions are rounding, which Muon makes as large
        return
    expected = weights(one)
    for parameter, value in weights(two).items():
        torch.testing.assert_close(value, expected[parameter], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("first", "second"), [("fsdp", "alone"), ("alone", "fsdp"), ("ddp", "fsdp")])
def test_resuming_with_other_processes(folder: Path, alone: Path, first: str, second: str) -> None:
    """A run that was split one way goes on split another way, or not at all."""

    def part(kind: str, **options: Any) -> Path:
        parallel = {} if kind == "alone" else {"parallel": kind}
        return run(folder, f"{first}_{second}", 1 if kind == "alone" else 2, **parallel, **options)

    step = 3
    whole_course = {"optim": {"steps": 6}}
    started = subprocess.run(  # the run of six steps, stopped after the third: what it saved by then is what counts
        command(
            folder,
            1 if first == "alone" else 2,
            output=str(folder / f"{first}_{second}"),
            **({} if first == "alone" else {"parallel": first}),
            **whole_course,
            keep_checkpoints=5,
        ),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert started.returncode == 0, started.stderr[-4000:]
    remove_after(folder / f"{first}_{second}", step)
    resumed = part(second, resume=True)
    assert losses(resumed) == pytest.approx(losses(alone), rel=1e-5)


def remove_after(run: Path, step: int) -> None:
    """Leave what a run had left if it had been killed after `step`."""
    import shutil

    for path in (run / "checkpoints").iterdir():
        if int(path.name.split("_")[1]) > step:
            shutil.rmtree(path)
    shutil.rmtree(run / "model")


def test_errors_reach_all_processes(folder: Path) -> None:
    """None waits for another that is gone, and the main process says what happened."""
    nowhere = refused(folder, "lost", data=str(folder / "nowhere"))
    assert "DataError: data: expected a folder" in nowhere
    assert "batch_size: expected a multiple of the 2 processes, got 7" in refused(
        folder, "odd", optim={"batch_size": 7}
    )


@pytest.mark.parametrize("processes", [1, 2])
def test_kill_at_any_moment(folder: Path, alone: Path, processes: int) -> None:
    """kill -9 twice, at moments of the clock's choosing; the run ends as if nothing had happened."""
    name = f"killed_{processes}"
    options = {"save_every": 1, "optim": {"steps": 24}}
    whole = run(folder, f"whole_{processes}", processes, **options)
    arguments = command(folder, processes, output=str(folder / name), **options)
    for kill in range(3):
        last = kill == 2
        if kill:
            resumed = {**json.loads(Path(arguments[-1]).read_text()), "resume": True}
            Path(arguments[-1]).write_text(json.dumps(resumed))
        process = subprocess.Popen(
            arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        if last:
            assert process.wait(600) == 0
        else:
            wait_for_checkpoint(folder / name, 3 + 8 * kill, process)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert rows(folder / name) == rows(whole)
    expected = weights(whole)
    assert all(torch.equal(value, expected[parameter]) for parameter, value in weights(folder / name).items())
    assert not [path for path in (folder / name / "checkpoints").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("whom", ["torchrun", "everybody"])
def test_sigterm_stops_all_processes_after_one_step(folder: Path, whom: str) -> None:
    """Sent to torchrun, which passes it on, or, as a terminal and batch systems do, to all of them besides."""
    options = {"save_every": 99, "parallel": "fsdp", "optim": {"steps": 40}}
    whole = folder / "whole_of_two"
    if not whole.exists():
        run(folder, whole.name, 2, **options)
    stopped = folder / f"stopped_{whom}"
    arguments = command(folder, 2, output=str(stopped), **options)
    process = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    wait_for_rows(stopped, 3, process)
    started = time.monotonic()
    if whom == "torchrun":
        process.send_signal(signal.SIGTERM)
    else:
        os.killpg(process.pid, signal.SIGTERM)
    _, said = process.communicate(timeout=120)
    assert time.monotonic() - started < 30
    assert process.returncode != 0
    (checkpoint,) = (stopped / "checkpoints").iterdir()
    step = int(checkpoint.name.split("_")[1])
    assert rows(stopped)[-1]["step"] in (step - 1, step), said
    run(folder, stopped.name, 2, **options, resume=True)
    assert losses(stopped) == losses(whole)
    expected = weights(whole)
    assert all(torch.equal(value, expected[parameter]) for parameter, value in weights(stopped).items())


def wait_for_rows(run: Path, count: int, process: subprocess.Popen[bytes]) -> None:
    """Until metrics.jsonl has so many."""
    end = time.monotonic() + 600
    while time.monotonic() < end:
        assert process.poll() is None, "the run ended before it was stopped"
        if (run / "metrics.jsonl").exists() and len(rows(run)) >= count:
            return
        time.sleep(0.01)
    raise AssertionError(f"no {count} rows within ten minutes")


def in_a_group(folder: Path, name: str, timeout: float = 60, wait: float = 0, **options: Any) -> list[dict[str, Any]]:
    """A run by two processes that have a process group already; what they say."""
    arguments = command(folder, 1, output=str(folder / name), **options)
    program, config = str(PROGRAM.with_name("group_run.py")), arguments[-1]
    rest = ["2", str(folder / f"{name}.rendezvous"), str(timeout), str(wait)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([sys.executable, program, config, str(rank), *rest], **pipes) for rank in range(2)]
    said = [process.communicate(timeout=600) for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(error[-3000:] for _, error in said)
    return [json.loads(out.splitlines()[-1]) for out, _ in said]


def test_a_group_that_exists_is_used(folder: Path, alone: Path) -> None:
    """Though its collectives time out long before the main process has encoded."""
    said = in_a_group(folder, "group", timeout=6, wait=10)
    assert [each["together"] for each in said] == [2, 2]  # the group is there as before
    assert losses(folder / "group") == pytest.approx(losses(alone), rel=1e-5)
    assert [*(folder / "group" / "checkpoints").glob(".*")] == []
    assert FlowAR.from_pretrained(folder / "group" / "model").sample([1]).isfinite().all()


def test_two_processes_draw_for_a_student(tmp_path: Path) -> None:
    """Every shard once, however late one of them looks, and however long the other waits for it."""
    tokenizer = PixelTokenizer(1, 2)
    model = small_model(num_inference_steps=2, tokenizer=tokenizer.record())
    FlowARPipeline(model, tokenizer).save_pretrained(tmp_path / "teacher")
    program = [sys.executable, str(PROGRAM.with_name("distill_run.py")), str(tmp_path / "teacher")]
    subprocess.run([*program, str(tmp_path / "alone")], check=True, timeout=300)
    places = [[str(tmp_path / "two"), str(rank), str(tmp_path / "rendezvous")] for rank in range(2)]
    started = [subprocess.Popen([*program, *place], stderr=subprocess.PIPE, text=True) for place in places]
    said = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], "\n".join(each[-3000:] for each in said)
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "alone"), rel=1e-5)
    shards = sorted((tmp_path / "alone" / "latents").glob("shard_*.safetensors"))
    assert len(shards) == 5
    for shard in shards:
        tensors, expected = load_file(tmp_path / "two" / "latents" / shard.name), load_file(shard)
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_train_joins_what_torchrun_started(folder: Path, alone: Path) -> None:
    arguments = command(folder, 2, output=str(folder / "joined"))
    arguments[-2] = str(PROGRAM.with_name("group_run.py"))
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    assert losses(folder / "joined") == pytest.approx(losses(alone), rel=1e-5)


def test_the_main_process_chooses_the_checkpoint(folder: Path, alone: Path) -> None:
    in_a_group(folder, "chosen", keep_checkpoints=5)
    newest = folder / "chosen" / "checkpoints" / "step_00000006"
    damaged = next(newest.glob("*.safetensors"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    said = in_a_group(folder, "chosen", keep_checkpoints=5, resume=True)
    assert [each["checked"] for each in said] == [["step_00000006", "step_00000003"], []]
    assert losses(folder / "chosen") == pytest.approx(losses(alone), rel=1e-5)


def test_what_ranks_say_to_each_other(tmp_path: Path) -> None:
    arguments = command_of_two(str(PROGRAM.with_name("ranks_run.py")), str(tmp_path / "rendezvous"))
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]


def test_one_process_encodes(folder: Path, tmp_path: Path) -> None:
    arguments = command_of_two("-m", "flowar", "encode", "--folder", str(folder / "idx"), "--tokenizer", "pixel:2")
    done = subprocess.run(
        [*arguments, "--latents", str(tmp_path / "latents"), "--image_size", "8", "--device", "cpu"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert done.stdout.count("40 images") == 1


def wait_for_checkpoint(run: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    """Until one of `step` or later is there."""
    end = time.monotonic() + 600
    while time.monotonic() < end:
        assert process.poll() is None, "the run ended before it was killed"
        if any(int(path.name.split("_")[1]) >= step for path in (run / "checkpoints").glob("step_*")):
            return
        time.sleep(0.01)
    raise AssertionError(f"no checkpoint of step {step} within ten minutes")
