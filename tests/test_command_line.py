"""How options are written and shown, and what reading them costs."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys

import pytest

import flowar
from flowar.cli import COMMANDS, main, parse_options
from flowar.commands import edit, sample
from flowar.training.config import TrainConfig

INTERNALS = r"<class|Optional|Union|Literal|NoneType|\bnull\b(?! class)|SUPPRESS|--[\w.]+\+|typing|Sequence|Path'"


def shown(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a command prints."""
    with contextlib.suppress(SystemExit):  # which is how help ends
        main(arguments)
    return capsys.readouterr().out


class TestStart:
    def test_reading_options_needs_no_torch(self) -> None:
        """Neither help nor what is wrong with options waits for it; each command is read as its own process would."""
        code = """if True:
            import contextlib, io, json, sys
            from unittest import mock
            from flowar.cli import COMMANDS, main
            loaded = []
            wrong = [[name, "--no_such_option"] for name in COMMANDS]
            wrong += [["sample", "--per_class", "0"], ["train", "--optim.lr", "x"], ["draw"]]
            for words in [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS), *wrong]:
                quiet = contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO())
                with quiet[0], quiet[1], mock.patch.object(sys, "argv", ["flowar", *words]):
                    with contextlib.suppress(SystemExit):
                        main()
                if "torch" in sys.modules:
                    loaded.append(words)
                    break
            print(json.dumps(loaded))
        """
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert json.loads(done.stdout) == []

    @pytest.mark.parametrize("word", ["--version", "-V"])
    def test_version(self, capsys: pytest.CaptureFixture[str], word: str) -> None:
        assert shown(capsys, word) == f"flowar {flowar.__version__}\n"


class TestSpelling:
    def test_dashes_and_underscores(self) -> None:
        words = ["--per-class", "2", "--guidance-scale=3", "--output", "a-b.png", "--preview-steps"]
        found = parse_options("sample", sample.Options, words)
        assert (found.per_class, found.guidance_scale, found.output) == (2, 3.0, "a-b.png")
        assert found.preview_steps
        found = parse_options("edit", edit.Options, ["super-resolve", "--classes", "a-b", "c_d"])
        assert (found.kind, found.classes) == ("super-resolve", ["a-b", "c_d"])
        words = ["--data.image-size", "32", "--data.latents", "a", "--output=b", "--optim.batch-size=3"]
        found = parse_options("train", TrainConfig, words)
        assert (found.data.image_size, found.optim.batch_size) == (32, 3)

    def test_names_of_commands(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert shown(capsys, "train_tokenizer", "--help") == shown(capsys, "train-tokenizer", "--help")

    @pytest.mark.parametrize("name", COMMANDS)
    def test_one_seed_everywhere(self, capsys: pytest.CaptureFixture[str], name: str) -> None:
        assert "--seeds" not in shown(capsys, name, "--help")


class TestHelp:
    @pytest.mark.parametrize("name", COMMANDS)
    def test_no_internals(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
        monkeypatch.setenv("COLUMNS", "300")
        text = shown(capsys, name, "--help")
        assert re.findall(INTERNALS, text) == []
        for line in re.findall(r"^ +(--.*?)(?:  |$)", text, re.MULTILINE):
            _, _, value = line.partition(" ")
            assert not value or re.fullmatch(r"(\[?[A-Z{][\w,.:|{}\[\]() -]*)", value), line

    @pytest.mark.parametrize(
        ("name", "line"),
        [
            ("sample", "--per_class INTEGER"),
            ("sample", "--guidance_scale NUMBER"),
            ("sample", "--guidance_interval [NUMBER,NUMBER]"),
            ("sample", "--naive [{true,false}]"),
            ("sample", "--classes TEXT"),
            ("edit", "--box [INTEGER,INTEGER,INTEGER,INTEGER]"),
            ("edit", "--image PATH"),
            ("sweep", "--solvers [TEXT,...]"),
            ("train", "--data.flips {true,false}"),
            ("train", "--model.scales [INTEGER|[INTEGER,...],...]"),
            ("train", "--optim FILE"),
            ("train", "--finetune.classes [INTEGER,...]"),
        ],
    )
    def test_values(
        self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str, line: str
    ) -> None:
        monkeypatch.setenv("COLUMNS", "300")
        assert re.search(rf"^  {re.escape(line)}(  |$)", shown(capsys, name, "--help"), re.MULTILINE)

    def test_defaults(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("COLUMNS", "300")
        text = shown(capsys, "train", "--help") + shown(capsys, "sweep", "--help")
        for default in ("0.0002", "[0.9, 0.95]", "[0.0, 0.9]", "false", "attn_mlp"):
            assert f"(default: {default})" in text
