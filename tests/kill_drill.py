"""A drill: commands are killed at random moments and started again. Is anything lost, half written or left behind?

    python tests/kill_drill.py [--kills 50] [--seed 0] [--fresh] [DRILL ...]

Every drill first lets its command run in peace. Then it is killed (kill -9; `sigterm` sends SIGTERM) at a random moment
of that time, started again, and so on, until a run ends: its files have to be those of the first run, byte for byte,
and no others. Between the kills, models have to load, and checkpoints that were there have to be there. Processes are
forked from this one, which has torch imported, or are `python -m flowar` (`--fresh`), which takes longer.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from conftest import recording, small_model
from evaluation_runs import write_material
from safetensors.torch import load_file
from test_data import pictures, write_idx
from training_runs import rows

from flowar import FlowAR, FlowARPipeline
from flowar.cli import main
from flowar.storage.checksums import SEAL
from flowar.storage.published import published_buffers
from flowar.storage.weights import safetensors_metadata
from flowar.tokenizers.conv import ConvTokenizer
from flowar.training.checkpoints import checkpoints

TERMINATED = 143
PATIENCE = 300.0  # seconds that no command of the drill takes
MODEL = (
    *("--model.ar_width", "32", "--model.ar_depth", "2", "--model.ar_heads", "2", "--model.flow_width", "64"),
    *("--model.flow_depth", "1", "--model.num_inference_steps", "2", "--model.dropout", "0.3"),
)
TRAINING = (
    *("--data.tokenizer", "pixel:2", "--optim.batch_size", "8", "--optim.steps", "30", "--precision", "float32"),
    *("--log_every", "3", "--sample_every", "8", "--save_every", "4", "--validation.share", "0.2"),
    *("--validation.every", "10", "--data.shard_size", "8", "--device", "cpu", *MODEL),
)
TOKENIZER = (
    *("--image_size", "8", "--image_channels", "1", "--training.widths", "[8, 16]", "--training.steps", "20"),
    *("--training.robust_steps", "6", "--training.batch_size", "8", "--training.interval", "4", "--device", "cpu"),
)


@dataclass
class Drill:
    """What a drill does, and what it found.

    Attributes:
        work: a command of flowar in a folder, or a function of the folder.
        between: checks a folder after a kill.
        signum: the signal that ends processes.
        whole: whether the files of a finished run have to be those of one in peace; else `between` says enough.
        kills, runs: how many there were, and how many runs were finished.
        slowest: the most seconds from a signal to the end.
        found: what was wrong, a line each.
    """

    work: Callable[[Path], list[str] | Callable[[], None]]
    between: Callable[[Path], None] = lambda folder: None
    signum: int = signal.SIGKILL
    whole: bool = True
    kills: int = 0
    runs: int = 0
    slowest: float = 0.0
    found: list[str] = field(default_factory=list)

    def run(self, folder: Path, kills: int, moments: random.Random, fresh: bool) -> None:
        """Kill so many times, then let the last run end."""
        peaceful, started = folder / "in_peace", time.monotonic()
        self.finish(peaceful, fresh)
        duration = time.monotonic() - started
        broken = folder / "broken"
        while self.kills < kills:
            process = Process(self.work(broken), fresh)
            if process.ended_within(moments.uniform(0, duration)):
                self.note(process.succeeded, f"run {self.runs} failed: {process.said}")
                self.compare(broken, peaceful)
                continue
            seconds = process.kill(self.signum)
            self.kills, self.slowest = self.kills + 1, max(self.slowest, seconds)
            right = self.signum == signal.SIGKILL or (process.code in (TERMINATED, 0) and seconds < 30)
            self.note(right, f"kill {self.kills}: exit code {process.code} after {seconds:.1f} s; {process.said}")
            self.check(broken)
        self.finish(broken, fresh)
        self.compare(broken, peaceful)

    def finish(self, folder: Path, fresh: bool) -> None:
        process = Process(self.work(folder), fresh)
        self.note(process.ended_within(PATIENCE) and process.succeeded, f"a run in peace failed: {process.said}")

    def check(self, folder: Path) -> None:
        try:
            self.between(folder)
        except Exception:
            self.found.append(f"after kill {self.kills}: {traceback.format_exc()}")

    def compare(self, broken: Path, peaceful: Path) -> None:
        """Compare the files of a run that ended with those of the run in peace, and make room for the next one."""
        self.runs += 1
        self.check(broken)
        expected, got = contents(peaceful), contents(broken)
        self.note(expected.keys() == got.keys(), f"run {self.runs}: other files {sorted(expected.keys() ^ got.keys())}")
        if self.whole:
            different = [name for name, content in expected.items() if got.get(name, content) != content]
            self.note(not different, f"run {self.runs}: other contents of {different}")
            shutil.rmtree(broken)
            self.check(broken)  # that a new run begins

    def note(self, right: bool, words: str) -> None:
        if not right:
            self.found.append(words)


class Process:
    """A command or a function in a process of its own, whose output goes to a file."""

    def __init__(self, work: list[str] | Callable[[], None], fresh: bool) -> None:
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - the child writes to it
        self.code: int | None = None
        if fresh and isinstance(work, list):
            command = [sys.executable, "-m", "flowar", *work]
            self.pid = subprocess.Popen(command, stdout=self.log, stderr=self.log).pid
            return
        self.pid = os.fork()
        if self.pid == 0:
            os._exit(self.forked(work))

    def forked(self, work: list[str] | Callable[[], None]) -> int:
        """Do the work, in a child; its exit code."""
        try:
            with redirect_stdout(self.log), redirect_stderr(self.log):
                if isinstance(work, list):
                    sys.argv = ["flowar", *work]
                    main()
                else:
                    work()
        except SystemExit as end:
            return int(end.code or 0)
        except BaseException:
            traceback.print_exc(file=self.log)
            return 1
        finally:
            self.log.flush()
        return 0

    def ended_within(self, seconds: float) -> bool:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                code = os.waitstatus_to_exitcode(status)
                self.code = code if code >= 0 else 128 - code  # as shells have it
                return True
            time.sleep(0.001)
        return False

    def kill(self, signum: int) -> float:
        """Send a signal, and wait for the end; how many seconds it took."""
        started = time.monotonic()
        os.kill(self.pid, signum)
        if not self.ended_within(PATIENCE):
            os.kill(self.pid, signal.SIGKILL)
            self.ended_within(PATIENCE)
        return time.monotonic() - started

    @property
    def succeeded(self) -> bool:
        return self.code == 0

    @property
    def said(self) -> str:
        self.log.seek(0)
        return self.log.read()[-2000:]


def contents(folder: Path) -> dict[str, object]:
    """All files of a folder, hidden ones too, with what has to be equal of them; of checkpoints the newest one's."""
    found: dict[str, object] = {}
    older = checkpoints(folder / "checkpoints")[:-1]
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir() or "tensorboard" in path.parts or path.parent in older:
            continue
        if path.name == "metrics.jsonl":
            found[name] = rows(path.parent)
        elif path.suffix == ".json":
            found[name] = json.loads(path.read_text().replace(str(folder), "FOLDER"), object_hook=without_times)
        elif path.suffix == ".safetensors":
            found[name] = tensors(path)
        elif path.name == "card.md":  # which says what card.json does
            found[name] = None
        else:
            found[name] = path.read_bytes()
    return found


def without_times(values: dict[str, Any]) -> dict[str, Any]:
    """JSON without what depends on clock, checkout or interruptions, and the checksums of files with it."""
    times = ("seconds", "waited", "resume", "files", "interval", "reported", "commit", SEAL)
    return {name: value for name, value in values.items() if name not in times}


def tensors(path: Path) -> dict[str, object]:
    """All tensors of a file and its metadata, whose order changes from one file to the next."""
    values: dict[str, object] = {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}
    return values | {f"metadata {name}": text for name, text in safetensors_metadata(path).items()}


def resumed(command: list[str]) -> Callable[[Path], list[str]]:
    """The command in a folder, resumed if it has checkpoints."""

    def work(folder: Path) -> list[str]:
        again = ["--resume"] if checkpoints(folder / "checkpoints") else []
        return [*command, "--output", str(folder), *again]

    return work


def nothing_lost() -> Callable[[Path], None]:
    """A check that the newest checkpoint of a run is never older than before, and the run no step behind its rows."""
    newest = {"step": 0}

    def check(folder: Path) -> None:
        steps = [int(path.name.split("_")[1]) for path in checkpoints(folder / "checkpoints")]
        last = max(steps, default=0)
        assert not (folder / "model").exists() or FlowARPipeline.from_pretrained(folder / "model")
        assert last >= newest["step"] or not folder.exists(), f"step {last} after {newest['step']}"
        newest["step"] = last

    return check


def no_step_lost(folder: Path) -> None:
    """Check that the newest checkpoint of a run that was stopped is that of its last row, or later."""
    steps = [int(path.name.split("_")[1]) for path in checkpoints(folder / "checkpoints")]
    if (folder / "metrics.jsonl").exists():
        last = [row["step"] for row in rows(folder)][-1:] or [0]
        assert max(steps, default=0) >= last[0], f"checkpoints {steps}, rows up to {last[0]}"


def state_of(folder: Path) -> dict[str, bytes]:
    """What loads from a folder with a model, and perhaps its tokenizer."""
    if (folder / "tokenizer.json").exists():
        pipeline = FlowARPipeline.from_pretrained(folder)
        model, weights = pipeline.model, {**pipeline.model.state_dict(), **pipeline.tokenizer.state_dict()}
    else:
        model = FlowAR.from_pretrained(folder)
        weights = model.state_dict()
    return {name: value.numpy().tobytes() for name, value in weights.items()} | {"config": repr(model.config).encode()}


def one_of(*folders: Path) -> Callable[[Path], None]:
    """A check that a folder, if it is there, holds exactly what one of these does."""
    known = [state_of(folder) for folder in folders]

    def check(folder: Path) -> None:
        if folder.exists() and any(folder.iterdir()) and not only_hidden(folder):
            assert state_of(folder) in known

    return check


def only_hidden(folder: Path) -> bool:
    """Whether a first save was killed before anything came to its place."""
    return not (folder / ".saved").exists() and all(path.name.startswith(".") for path in folder.iterdir())


def pipelines() -> tuple[FlowARPipeline, FlowARPipeline]:
    """Two pipelines whose configurations and files differ."""
    torch.manual_seed(0)
    made = []
    for classes, width in ((5, 32), (3, 64)):
        tokenizer = ConvTokenizer(image_channels=1, channels=4, widths=(8, 16))
        model = small_model(num_classes=classes, ar_width=width, tokenizer=tokenizer.record())
        made.append(FlowARPipeline(model, tokenizer))
    return made[0], made[1]


def drills(folder: Path) -> dict[str, Callable[[], Drill]]:
    """All drills by name; `folder` gets what they work on."""
    idx = write_idx(folder / "idx", *pictures(60))
    train = ["train", "--data.folder", str(idx), *TRAINING]
    tokenizer = ["train-tokenizer", "--data", str(idx), *TOKENIZER]

    def evaluate() -> Drill:
        material = write_material(folder / "material")
        given = {name: str(material[name]) for name in ("model", "reference", "extractor", "classifier", "dtype")}
        options = given | {"num_images": "40", "batch_size": "5", "bootstrap": "4", "device": "cpu"}
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        return Drill(lambda output: ["evaluate", *words, "--save_images", "--output", str(output)])

    def reference() -> Drill:
        classifier = str(write_material(folder / "material")["classifier"])
        words = ["--images", str(folder / "material" / "idx"), "--batch_size", "5", "--device", "cpu"]
        command = ["reference", *words, "--extractor", "fashion", "--classifier", classifier]
        return Drill(lambda output: [*command, "--output", str(output / "reference.safetensors")])

    def convert() -> Drill:
        sources = []
        for name in ("tiny_attn_mlp", "tiny_attn_cross_mlp"):
            sources.append(folder / f"{name}.pth")
            torch.save(published(name), sources[-1])
            FlowAR.from_published(sources[-1]).save_pretrained(folder / name)
        source = itertools.cycle(map(str, sources))
        either = one_of(*(folder / source.stem for source in sources))
        return Drill(
            lambda output: ["convert", "--checkpoint", next(source), "--output", str(output)], either, whole=False
        )

    def save_pretrained() -> Drill:
        both = pipelines()
        for number, pipeline in enumerate(both):
            pipeline.save_pretrained(folder / f"pipeline-{number}")

        def work(output: Path) -> Callable[[], None]:
            def save() -> None:
                for _ in range(5):
                    for pipeline in both:
                        pipeline.save_pretrained(output)

            return save

        return Drill(work, one_of(folder / "pipeline-0", folder / "pipeline-1"), whole=False)

    return {
        "train": lambda: Drill(resumed(train), nothing_lost()),
        "train-tokenizer": lambda: Drill(resumed(tokenizer), nothing_lost()),
        "encode": lambda: Drill(encode_command(idx)),
        "evaluate": evaluate,
        "reference": reference,
        "convert": convert,
        "save_pretrained": save_pretrained,
        "sigterm": lambda: Drill(resumed([*train, "--log_every", "1"]), no_step_lost, signal.SIGTERM),
    }


def encode_command(idx: Path) -> Callable[[Path], list[str]]:
    words = ["--folder", str(idx), "--tokenizer", "pixel:2", "--shard_size", "4", "--crops", "1", "--device", "cpu"]
    return lambda output: ["encode", *words, "--latents", str(output)]


def published(name: str) -> dict[str, torch.Tensor]:
    """The state dict of a recorded model as the authors' files have it, with the tables of their modules."""
    recorded = recording(name)
    tables = {key: torch.zeros(shape) for key, shape in published_buffers(recorded.config()).items()}
    return recorded.state_dict() | tables


def run(names: list[str], kills: int, seed: int, fresh: bool) -> list[str]:
    """Run drills, print a line for each, and return what they found wrong."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        available = drills(Path(name))
        for drill_name in names or available:
            drill, started = available[drill_name](), time.monotonic()
            drill.run(Path(name) / f"drill-{drill_name}", kills, random.Random(f"{seed} {drill_name}"), fresh)
            seconds = time.monotonic() - started
            counts = f"{drill.kills} kills, {drill.runs} runs to the end, {len(drill.found)} faults"
            print(f"{drill_name:<16} {counts}, at most {drill.slowest:.1f} s to end ({seconds:.0f} s)", flush=True)
            found += [f"{drill_name}: {words}" for words in drill.found]
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("drills", nargs="*")
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fresh", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    faults = run(chosen.drills, chosen.kills, chosen.seed, chosen.fresh)
    print("\n".join(faults))
    sys.exit(bool(faults))
