"""What pages in Markdown say to type: the blocks of a page, run, or read by the parsers that they are meant for.

A block says by its title what becomes of it:
    none           it runs, in the order of the page: Python in one namespace, commands where the page's files are;
    "needs ..."    what it needs is not here: commands are read by the real parsers, Python is compiled;
    a path         it quotes that file of the repository, word for word.
"""

from __future__ import annotations

import argparse
import importlib
import re
import runpy
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from conftest import small_model

from flowar.cli import main, parse_options
from flowar.storage.published import published_buffers, published_names

ROOT = Path(__file__).parents[1]
FENCE = re.compile(r"^```(?P<language>\w*)(?: title=\"(?P<title>[^\"]+)\")?$")
NEEDS = "needs "


@dataclass(frozen=True)
class Block:
    """A fenced block: its place, its language, its title or "", its text."""

    place: str
    language: str
    title: str
    text: str

    @property
    def lines(self) -> list[list[str]]:
        """The words of its command lines, continued ones joined, without comments."""
        joined = self.text.replace("\\\n", " ").splitlines()
        return [words for words in (shlex.split(line, comments=True) for line in joined) if words]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page.

    Raises:
        AssertionError: for one that has no language, does not end, or is indented.
    """
    found, opened, text = [], None, [""]
    directive = False  # of mkdocstrings, whose options are indented
    for number, line in enumerate(page.read_text().splitlines(), 1):
        place = f"{page.name}:{number}"
        if opened is None:
            directive = line.startswith(":::") or (directive and line.startswith("    "))
            assert directive or not line.startswith("    "), f"{place}: expected a fenced block, got an indented line"
            if not line.startswith("```"):
                continue
            opened, text = FENCE.match(line), []
            assert opened, f'{place}: expected ```language or ```language title="...", got {line}'
            assert opened["language"], f"{place}: expected a language"
        elif line == "```":
            found.append(Block(place, opened["language"], opened["title"] or "", "\n".join(text) + "\n"))
            opened = None
        else:
            text.append(line)
    assert opened is None, f"{page.name}: expected an end of the last block"
    return found


def run_page(page: Path) -> None:
    """Do with every block of a page what its title says, in the current folder."""
    names: dict[str, Any] = {}
    for block in blocks(page):
        if block.title and not block.title.startswith(NEEDS):
            quoted = (ROOT / block.title).read_text()
            assert block.text in quoted, f"{block.place}: expected words of {block.title}, got others"
            continue
        try:
            HANDLERS[block.language](block, not block.title, names)
        except Exception as error:
            raise AssertionError(f"{block.place}: {error!r}") from error


def handle_python(block: Block, run: bool, names: dict[str, Any]) -> None:
    code = compile(block.text, block.place, "exec")
    if run:
        exec(code, names)


def handle_shell(block: Block, run: bool, names: dict[str, Any]) -> None:
    for words in block.lines:
        if not run:
            check_command(words)
        elif words[0] == "flowar":
            run_command(words)
        elif words[:2] == ["python", "-m"]:
            with mock.patch.object(sys, "argv", words[2:]):
                runpy.run_module(words[2], run_name="__main__")
        else:
            raise AssertionError(f"expected flowar or python -m, got {words[0]}")


def run_command(words: list[str]) -> None:
    try:
        main(words[1:])
    except SystemExit as end:
        if end.code:  # --help ends with 0
            raise AssertionError(f"{' '.join(words)}: exit code {end.code}") from end


def handle_yaml(block: Block, run: bool, names: dict[str, Any]) -> None:
    """A file for `flowar train --config`, written under the name in its first line."""
    path = block.text.splitlines()[0].removeprefix("# ")
    Path(path).write_text(block.text)
    check_command(["flowar", "train", "--config", path])


def handle_text(block: Block, run: bool, names: dict[str, Any]) -> None:
    """Formulas, and what commands print."""


HANDLERS = {"python": handle_python, "sh": handle_shell, "yaml": handle_yaml, "text": handle_text}


def check_command(words: list[str]) -> None:
    """Check that the program is there and takes all of its options, without running it.

    Raises:
        AssertionError: for a program that no page should name.
        ValueError, SystemExit: for options that it does not take.
    """
    program, *rest = words
    if program == "flowar":
        name, *arguments = rest
        options = importlib.import_module(f"flowar.commands.{name.replace('-', '_')}").Options
        assert isinstance(parse_options(name, options, arguments), options)
    elif program == "torchrun":
        from torch.distributed.run import get_args_parser

        launched = get_args_parser().parse_args(rest)
        assert launched.module, f"expected -m MODULE for torchrun, got {rest}"
        check_command([launched.training_script, *launched.training_script_args])
    elif program == "python":
        check_program(rest)
    elif program == "make":
        targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert {*rest} <= {*targets}, f"expected targets of the Makefile, got {rest}"
    elif program == "pip":
        project = (ROOT / "pyproject.toml").read_text()
        wanted = [extra for word in rest for group in re.findall(r"\[([\w,]+)\]", word) for extra in group.split(",")]
        assert all(re.search(rf"^{extra} = \[", project, re.MULTILINE) for extra in wanted), wanted
    else:
        assert program in ("cp", "pytest", "cmake", "ctest"), f"expected a known program, got {program}"


def write_published(path: Path) -> None:
    """A small checkpoint in the authors' format, with ImageNet's number of classes."""
    model = small_model(latent_channels=16, num_classes=1000, num_inference_steps=2, ar_width=64, ar_heads=1)
    state = {name: torch.zeros(shape) for name, shape in published_buffers(model.config).items()}
    for name, parameter in model.named_parameters():
        names = published_names(name, model.config)
        state |= {key: part.clone() for key, part in zip(names, parameter.detach().chunk(len(names)), strict=True)}
    torch.save({"model_ema": state}, path)


class _ParsedError(Exception):
    """The arguments were read; the program should go no further."""


def check_program(arguments: list[str]) -> None:
    """Let the program of `python ARGUMENTS` read its options, and stop it there."""
    parse = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser: argparse.ArgumentParser, *given: Any, **named: Any) -> None:
        parse(parser, *given, **named)
        raise _ParsedError

    module = arguments[0] == "-m"
    name, argv = arguments[module], arguments[module:]
    if name == "setup.py":
        return
    with mock.patch.object(argparse.ArgumentParser, "parse_args", parse_and_stop), mock.patch.object(sys, "argv", argv):
        try:
            if module:
                runpy.run_module(name, run_name="__main__")
            else:
                runpy.run_path(str(ROOT / name), run_name="__main__")
        except _ParsedError:
            return
    raise AssertionError(f"{name}: expected a program that parses its arguments")
