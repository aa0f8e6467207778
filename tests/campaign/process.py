"""The `flowar` command in a process of its own, forked from one that has imported everything; limited and watched.

What the system would do at the end of a program is done here, so that its last words are seen as well.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import importlib
import io
import locale
import logging
import os
import pkgutil
import resource
import select
import signal
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NoReturn

CPU_SECONDS = 30  # after which a process is ended
IDLE_SECONDS = 20  # without a tick of the processor, after which it is taken for one that waits for ever
ADDRESS_SPACE = 2**32  # bytes beyond what the parent has mapped: no harm to the machine, and to find what wants more
MOST_PRINTED = 2**20  # bytes
ALWAYS_IGNORED = (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning)  # as Python does
USED = ("huggingface_hub", "jsonargparse", "matplotlib.pyplot", "yaml", "diffusers", "efficientnet_lite_pytorch")
USED += ("gradio", "torch.utils.tensorboard", "torch.distributed.checkpoint", "PIL.PngImagePlugin")

Stdout = Literal["file", "closed", "full", "broken"]  # a full disk; a pipe that nobody reads


@dataclass(frozen=True)
class Surroundings:
    """What a process finds around it: stdout, the encoding of its terminal and locale, bytes that a file may have,
    environment variables."""

    stdout: Stdout = "file"
    encoding: str = "utf-8"
    largest_file: int | None = None
    variables: Mapping[str, str] = field(default_factory=dict)


USUAL = Surroundings()


@dataclass(frozen=True)
class Outcome:
    """How a process ended.

    Attributes:
        code: its exit code, or minus the signal that ended it.
        out, err: what it printed.
        seconds: of the processor.
        memory: bytes by which its resident memory grew.
        idle: whether it was ended because it did nothing.
        changed: the files that it made, changed or removed.
    """

    code: int
    out: bytes
    err: bytes
    seconds: float
    memory: int
    idle: bool
    changed: tuple[str, ...]


def import_everything() -> None:
    """Import what any command imports, so that the processes that are forked need not."""
    import flowar

    for module in pkgutil.walk_packages(flowar.__path__, "flowar."):
        if not module.name.startswith(("flowar._", "flowar.demo")):
            importlib.import_module(module.name)
    for name in USED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)


def run(arguments: Sequence[str], folder: Path, surroundings: Surroundings = USUAL) -> Outcome:
    """Run `flowar ARGUMENTS` in `folder`/work, with the home and the temporary files beside it."""
    for name in ("work", "home", "tmp"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    before, out, err = files(folder), Pipe(), Pipe()
    child = os.fork()
    if child == 0:
        be_the_command(arguments, folder, surroundings, out, err)
    idle = wait(child)
    _, status, used = os.wait4(child, 0)
    with contextlib.suppress(ProcessLookupError):  # its own children, if it left some
        os.killpg(child, signal.SIGKILL)
    after = files(folder)
    changed = sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
    start = int((folder / "memory").read_text())
    return Outcome(
        os.waitstatus_to_exitcode(status),
        out.read(),
        err.read(),
        used.ru_utime + used.ru_stime,
        max(0, used.ru_maxrss * 1024 - start),
        idle,
        tuple(changed),
    )


class Pipe:
    """What a process prints, which stays in the pipe until it has ended; no limit on files is about it."""

    def __init__(self) -> None:
        self.reading, self.writing = os.pipe()
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, MOST_PRINTED)

    def read(self) -> bytes:
        """All that was printed. It closes the pipe."""
        os.close(self.writing)
        with open(self.reading, "rb") as file:
            return file.read()


def files(folder: Path) -> dict[str, tuple[int, ...]]:
    """What tells whether a file below work and tmp has changed, by name; folders are not files, links are."""
    found = {}
    for part in ("work", "tmp"):
        for root, folders, names in os.walk(os.fsencode(folder / part)):
            links = [name for name in folders if os.path.islink(os.path.join(root, name))]
            for name in [*names, *links]:
                path = os.path.join(root, name)
                about = os.lstat(path)
                relative = os.fsdecode(os.path.relpath(path, os.fsencode(folder)))
                found[relative] = (about.st_mode, about.st_size, about.st_mtime_ns, about.st_ino)
    return found


def wait(child: int) -> bool:
    """Wait until a process has ended, or end it after `IDLE_SECONDS` in which it did nothing: whether that was so."""
    ended = os.pidfd_open(child)
    try:
        used, since = 0, time.monotonic()
        while not select.select([ended], [], [], 1.0)[0]:
            states, ticks = activity(child)
            if states & {"R", "D"} or ticks != used:  # it runs, or would if other processes let it
                used, since = ticks, time.monotonic()
            elif time.monotonic() - since > IDLE_SECONDS:
                os.killpg(child, signal.SIGKILL)
                return True
        return False
    finally:
        os.close(ended)


def activity(session: int) -> tuple[set[str], int]:
    """The states of the processes of a session, as `ps` names them, and the ticks of the processor they have had."""
    states, ticks = set(), 0
    for process in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # of one that has just ended
            words = process.read_text().rpartition(")")[2].split()
            if int(words[3]) == session:
                states.add(words[0])
                ticks += sum(map(int, words[11:15]))
    return states, ticks


def be_the_command(
    arguments: Sequence[str], folder: Path, surroundings: Surroundings, out: Pipe, err: Pipe
) -> NoReturn:
    """Turn this process, a forked one, into the command, and end it."""
    try:
        os.setsid()
        streams(surroundings, out.writing, err.writing)
        environment(folder, surroundings)
        (folder / "memory").write_text(str(resident_memory()))
        limits(surroundings)
        code = call_main(arguments)
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    os._exit(code & 0xFF)


def streams(surroundings: Surroundings, out: int, err: int) -> None:
    """Point stdin, stdout and stderr to where they are to go."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(err, 2)
    if surroundings.stdout == "full":
        out = os.open("/dev/full", os.O_WRONLY)
    if surroundings.stdout == "broken":
        reading, out = os.pipe()
        os.close(reading)
    os.dup2(out, 1)
    os.closerange(3, 1024)
    sys.stdin = os.fdopen(0, closefd=False)
    sys.stderr = os.fdopen(
        2, "w", encoding=surroundings.encoding, errors="backslashreplace", buffering=1, closefd=False
    )
    if surroundings.stdout == "closed":
        os.close(1)
        sys.stdout = None  # type: ignore[assignment]  # as Python has it
    else:
        sys.stdout = os.fdopen(1, "w", encoding=surroundings.encoding, closefd=False)
    sys.__stdin__, sys.__stdout__, sys.__stderr__ = sys.stdin, sys.stdout, sys.stderr  # type: ignore[misc]


def limits(surroundings: Surroundings) -> None:
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + ADDRESS_SPACE,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 5))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if surroundings.largest_file is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (surroundings.largest_file,) * 2)


def environment(folder: Path, surroundings: Surroundings) -> None:
    """Set variables, locale, signals, log and warnings as a program finds them when it begins."""
    os.chdir(folder / "work")
    os.environ.update({"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp"), "PWD": str(folder / "work")})
    os.environ.update(surroundings.variables)
    tempfile.tempdir = None
    locale.setlocale(locale.LC_ALL, "C" if surroundings.encoding == "ascii" else "C.UTF-8")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    logging.root.handlers.clear()
    for category in ALWAYS_IGNORED:
        warnings.simplefilter("ignore", category)
    atexit._clear()


def resident_memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def call_main(arguments: Sequence[str]) -> int:
    """Call what the program calls, and give the code that Python would exit with."""
    from flowar.cli import main

    sys.argv, code = ["flowar", *arguments], 0
    try:
        main()
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 0 if exit_.code is None else 1
    except BaseException as error:
        sys.excepthook(*sys.exc_info())
        code = 130 if isinstance(error, KeyboardInterrupt) else 1
    threading._shutdown()
    atexit._run_exitfuncs()
    if isinstance(sys.stdout, io.TextIOBase):
        try:
            sys.stdout.flush()
        except (OSError, ValueError) as error:
            print(f"Exception ignored in: <stdout>\n{type(error).__name__}: {error}", file=sys.stderr)
            code = 120
    return code
