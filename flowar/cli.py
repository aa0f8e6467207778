"""The `flowar` command. Options of a subcommand are the fields of its dataclass, see `flowar/commands/`."""

from __future__ import annotations

import dataclasses
import importlib
import logging
import sys
from collections.abc import Sequence
from typing import Any

EXIT_BAD_INPUT = 2

COMMANDS = {
    "sample": "class labels to a grid of images, by default from the model that ships with the package",
    "train": "train a model on a folder of images, or resume a run",
    "train-tokenizer": "train the small convolutional tokenizer on a folder of images",
    "calibrate-tokenizer": "measure the statistics that normalise a tokenizer's latents",
    "convert": "convert the authors' checkpoint to safetensors",
    "info": "what is installed, what the machine can do, what a model is made of",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand. Bad input ends with one line on stderr and exit code 2."""
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    name, *rest = arguments
    if name not in COMMANDS:
        fail(f"command: expected one of {', '.join(COMMANDS)}, got {name}")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    try:
        command: Any = importlib.import_module(f"flowar.commands.{name.replace('-', '_')}")
        command.run(parse_options(name, command.Options, rest))
    except (ValueError, OSError, ImportError) as error:
        fail(" ".join(str(error).split()))
    except KeyboardInterrupt:
        fail("interrupted")


def usage() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{summary}" for name, summary in COMMANDS.items()]
    return "\n".join(["usage: flowar COMMAND [options]", "", *lines, "", "flowar COMMAND --help lists its options."])


def parse_options(name: str, options: type, arguments: Sequence[str]) -> Any:
    """The `options` dataclass from the command line and, with --config, a YAML file."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(prog=f"flowar {name}", description=COMMANDS[name])
    parser.add_argument("--config", action="config", help="YAML file with options; those on the command line win")
    parser.add_class_arguments(options, None)
    values = vars(parser.instantiate_classes(parser.parse_args(arguments)))
    return options(**{field.name: values[field.name] for field in dataclasses.fields(options)})


def fail(message: str) -> None:
    print(f"flowar: {message}", file=sys.stderr)
    sys.exit(EXIT_BAD_INPUT)
