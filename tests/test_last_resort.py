"""How `flowar` ends: errors that nobody foresaw, signals, terminals of any encoding, readers that leave."""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from flowar.cli import COMMANDS, PrintableFormatter, main
from flowar.commands import classes as classes_command
from flowar.commands import say
from flowar.errors import DataError, escaped, first_line, sentence

FLOWAR = [sys.executable, "-m", "flowar"]


def ended(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> tuple[object, str]:
    """The exit code of a command, and what it says on stderr."""
    with pytest.raises(SystemExit) as exit_:
        main(arguments)
    return exit_.value.code, capsys.readouterr().err


def failing(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    """Have `flowar classes` raise `error`."""

    def run(options: object) -> None:
        raise error

    monkeypatch.setattr(classes_command, "run", run)


class TestUnforeseen:
    @pytest.fixture(autouse=True)
    def temporary(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path))

    def test_one_line_that_names_the_file_of_the_traceback(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        failing(monkeypatch, RuntimeError("mat1 and\nmat2"))
        code, said = ended(capsys, ["classes"])
        (file,) = tmp_path.iterdir()
        assert (code, said) == (70, f"flowar: unexpected RuntimeError: mat1 and (traceback in {file})\n")
        text = file.read_text()
        assert "Traceback (most recent call last)" in text
        assert text.endswith("RuntimeError: mat1 and\nmat2\n")

    @pytest.mark.parametrize(("error", "code"), [(RuntimeError("a"), 70), (ValueError("a"), 2)])
    def test_traceback_on_the_screen(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        tmp_path: Path,
        error: Exception,
        code: int,
    ) -> None:
        failing(monkeypatch, error)
        found, said = ended(capsys, ["classes", "--traceback"])
        assert found == code
        assert said.startswith("Traceback (most recent call last)")
        assert re.fullmatch(r"flowar: (unexpected RuntimeError: )?a", said.splitlines()[-1])
        assert not [*tmp_path.iterdir()]

    def test_thread_of_a_library(
        self, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A word, no traceback: what cannot go on without the thread says so itself."""
        monkeypatch.setattr("threading.excepthook", threading.excepthook)

        def work() -> None:
            raise OSError(errno.EFBIG, "File too large")

        def run(options: object) -> None:
            thread = threading.Thread(target=work, name="writer")
            thread.start()
            thread.join()

        monkeypatch.setattr("flowar.commands.classes.run", run)
        main(["classes"])
        assert caplog.messages == ["writer ended: File too large"]
        assert "Traceback" not in capsys.readouterr().err

    def test_nowhere_to_write_it(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        failing(monkeypatch, MemoryError())
        monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
        code, said = ended(capsys, ["classes"])
        assert (code, said.splitlines()[0]) == (70, "Traceback (most recent call last):")
        assert said.splitlines()[-1] == "flowar: unexpected MemoryError: MemoryError"

    @pytest.mark.parametrize(
        ("error", "code", "line"),
        [
            (ValueError("two\n  lines"), 2, "two lines"),
            (DataError("a\nb: expected a picture"), 2, r"a\nb: expected a picture"),
            (FileNotFoundError(2, "No such file or directory", "x\x1b[2J"), 2, r"x\x1b[2J: No such file or directory"),
            (OSError(28, "No space left on device"), 2, "No space left on device"),
            (ImportError("no module"), 2, "no module"),
            (KeyboardInterrupt(), 130, "interrupted"),
        ],
    )
    def test_foreseen(
        self,
        capsys: pytest.CaptureFixture[str],
        monkeypatch: pytest.MonkeyPatch,
        error: BaseException,
        code: int,
        line: str,
    ) -> None:
        failing(monkeypatch, error)
        assert ended(capsys, ["classes"]) == (code, f"flowar: {line}\n")

    def test_every_command_knows_the_option(self, capsys: pytest.CaptureFixture[str]) -> None:
        for name in COMMANDS:
            with pytest.raises(SystemExit):
                main([name, "--help"])
            assert "show where an error came from" in capsys.readouterr().out


class TestReasons:
    @pytest.mark.parametrize(
        ("error", "line"),
        [
            (FileNotFoundError(2, "No such file or directory", "x"), "No such file or directory"),
            (ValueError("Error while saving: I/O error: No space left on device (os error 28)"), None),
            (RuntimeError("first\nsecond"), "first"),
            (RuntimeError(""), "RuntimeError"),
            (RuntimeError("a\tb"), r"a\tb"),
        ],
    )
    def test_first_line(self, error: Exception, line: str | None) -> None:
        assert first_line(error) == (line or "Error while saving: I/O error: No space left on device")

    @pytest.mark.parametrize(
        ("content", "reason"),
        [(b"garbage", "Unsupported operand 103"), (b"\x80\x02\x95.", None), (b"\x80\x05\x95", None)],
    )
    def test_torch_gives_no_advice(self, tmp_path: Path, content: bytes, reason: str | None) -> None:
        (tmp_path / "a.pth").write_bytes(content)
        with pytest.raises(Exception) as raised:  # noqa: PT011 - of whatever kind
            torch.load(tmp_path / "a.pth", weights_only=True)
        line = first_line(raised.value)
        assert "weights_only" not in line
        assert "trusted" not in line
        assert reason is None or reason in line

    def test_archives_of_torchscript(self) -> None:
        error = RuntimeError("Cannot use ``weights_only=True`` with archives. To load it set weights_only to False.")
        assert first_line(error) == "it holds more than tensors and plain containers"


class TestNames:
    @pytest.mark.parametrize(
        ("text", "shown"),
        [
            ("a\nb\tc\r", r"a\nb\tc\r"),
            ("\x1b[31mred\x07", r"\x1b[31mred\x07"),
            ("txt.\u202eexe", r"txt.\u202eexe"),
            ("\udcff.png", r"\udcff.png"),
            ("été 猫 👩‍💻", "été 猫 👩‍💻"),
        ],
    )
    def test_printable(self, text: str, shown: str) -> None:
        assert escaped(text) == shown
        assert sentence(DataError(text)) == shown

    def test_log(self) -> None:
        formatter, message = PrintableFormatter("%(message)s"), "skipped a\x1bb\nc"
        for name, shown in (("flowar.data", r"skipped a\x1bb\nc"), ("filelock", "skipped a\\x1bb\nc")):
            record = logging.LogRecord(name, logging.INFO, "", 0, message, None, None)
            assert formatter.format(record) == shown


@pytest.fixture
def small_config() -> dict[str, Any]:
    from conftest import SMALL

    return SMALL.to_dict()


@pytest.mark.slow  # each imports torch
class TestTerminals:
    @pytest.mark.parametrize(
        "locale",
        [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}],
    )
    def test_other_encodings(self, tmp_path: Path, small_config: dict[str, Any], locale: dict[str, str]) -> None:
        (tmp_path / "config.json").write_text(json.dumps(small_config | {"class_names": [*"äbcde"]}))
        done = subprocess.run(
            [*FLOWAR, "classes", "--model", str(tmp_path)], env=os.environ | locale, capture_output=True, check=True
        )
        assert done.stdout.splitlines()[0] == rb"0  \xe4"
        assert done.stderr == b""
        done = subprocess.run([*FLOWAR, "evaluate", "--help"], env=os.environ | locale, capture_output=True, check=True)
        assert rb"Fr\xe9chet" in done.stdout

    @pytest.mark.parametrize(
        "words", [["classes", "--model", "imagenet"], ["evaluate", "--help"], ["--help"], ["info"]]
    )
    def test_reader_that_leaves(self, words: list[str]) -> None:
        """The pipe is closed from the beginning, so that every write fails."""
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run([*FLOWAR, *words], stdout=writing, stderr=subprocess.PIPE, check=False)
        os.close(writing)
        assert done.returncode in (0, 141)
        assert done.stderr == b""

    def test_full_disk(self) -> None:
        with Path("/dev/full").open("w") as full:
            done = subprocess.run([*FLOWAR, "--help"], stdout=full, stderr=subprocess.PIPE, check=False)
        # By whether Python keeps what is printed until the end, or writes it at once (PYTHONUNBUFFERED).
        assert (done.returncode, done.stderr.replace(b"stdout: ", b"")) == (2, b"flowar: No space left on device\n")

    @pytest.mark.parametrize(
        ("signum", "code", "said"), [(signal.SIGTERM, 143, ""), (signal.SIGINT, 130, "interrupted")]
    )
    def test_signals(self, tmp_path: Path, signum: int, code: int, said: str) -> None:
        """In the middle of a film that takes long; nothing is left half-written."""
        words = ["sample", "--num_inference_steps", "2000", "--output", str(tmp_path / "a.png")]
        arguments = [sys.executable, "-c", IN_LOOP, *words]
        with subprocess.Popen(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
            try:
                assert process.stdout
                assert process.stdout.readline() == "sampling\n"
                process.send_signal(signum)
                _, err = process.communicate(timeout=60)
            finally:
                process.kill()
        assert (process.returncode, err.strip().removeprefix("flowar: ")) == (code, said)
        assert not [*tmp_path.iterdir()]


# Says when sampling has begun.
IN_LOOP = """
from flowar import FlowAR, cli
sample = FlowAR.sample
def told(*arguments, **options):
    print("sampling", flush=True)
    return sample(*arguments, **options)
FlowAR.sample = told
cli.main()
"""


def test_say(capsys: pytest.CaptureFixture[str]) -> None:
    say("a\nb", "c")
    assert capsys.readouterr().out == "a\\nb\nc\n"
