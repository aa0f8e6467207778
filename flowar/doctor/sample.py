"""The check that a picture can be drawn, in a process of its own, whose end the doctor survives."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from flowar.doctor.finding import Finding, ok, wrong

PACKAGE_PARENT = Path(__file__).parents[2]
TIMEOUT = 900  # seconds


def sample(model: str) -> Finding:
    """Check that `flowar sample` draws a picture of `model`, and report its time."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, "sample.png")
        options = ["--model", model, "--classes", "0", "--per_class", "1", "--output", str(output)]
        paths = (str(PACKAGE_PARENT), os.environ.get("PYTHONPATH"))
        # This package, not another one that is installed as well.
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
        start = time.perf_counter()
        try:
            done = subprocess.run(
                [sys.executable, "-m", "flowar", "sample", *options],
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return wrong(f"no picture after {TIMEOUT} seconds", "choose a smaller model, or end other programs")
        seconds = time.perf_counter() - start
        if done.returncode == 0 and output.exists():
            return ok(f"one picture of {model} in {seconds:.1f} s, start-up included")
    return wrong(*failure(done))


def failure(done: subprocess.CompletedProcess[str]) -> tuple[str, str]:
    """The reason why the process ended, and the remedy."""
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        remedies = {
            "SIGKILL": "memory may have run out: end other programs, or choose a smaller model",
            "SIGILL": "the processor lacks an instruction: install flowar and torch again on this machine",
        }
        return f"flowar sample was ended by {name}", remedies.get(name, "report it with this line")
    said = (done.stderr.strip() or "it said nothing").splitlines()[-1].removeprefix("flowar: ")
    return f"flowar sample: {said}", "see the lines above, then what the message asks for"
