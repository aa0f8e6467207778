"""The `flowar` command. Options of a subcommand are the fields of its dataclass, see `flowar/commands/`."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import logging
import re
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, get_args, get_type_hints

from flowar import __version__
from flowar.errors import FlowARError, escaped, first_line, sentence, shortened, shown
from flowar.system.argv import long_form
from flowar.system.process import take_over_process, take_over_terminal
from flowar.system.signals import exit_code
from flowar.system.streams import flushed_output
from flowar.system.yaml_text import check_yaml_file

EXIT_BAD_INPUT, EXIT_UNFORESEEN = 2, 70
EXIT_NO_READER = 141  # as of a process that SIGPIPE ends
TRACEBACK = "--traceback"
LONGEST_PATH = 4096

COMMANDS = {
    "sample": "class labels to images, a grid or a file each, by default from the model that ships with the package",
    "edit": "change a picture: inpaint, outpaint, vary, super-resolve, interpolate",
    "demo": "a page in the browser: classes to pictures while they form, and edits with a brush",
    "show": "draw what a model does: scales, ODE path, attention, guidance, steps, nearest training images",
    "evaluate": "images against a reference: FID and its like, with intervals, on a card; or compare two cards",
    "reference": "compute the features that images are evaluated against, once",
    "tune": "find the steps per scale that lose least quality in a given time, on this machine",
    "sweep": "quality against time per picture over guidance scales, intervals, steps and solvers",
    "train": "train a model on a folder of images, or resume a run",
    "distill": "teach a model to draw in one to four evaluations a scale, guidance inside",
    "encode": "encode images once, into a store of latents to train on",
    "train-tokenizer": "train a small tokenizer on a folder of images",
    "calibrate-tokenizer": "measure the statistics that normalise a tokenizer's latents",
    "convert": "convert the authors' checkpoint to safetensors",
    "push": "upload a model to the Hugging Face Hub, with a card",
    "plot": "draw the curves of a training run",
    "classes": "the classes of a model by number and name; those with a word in their names",
    "doctor": "check this machine and this installation: a line each, ok or what to do",
    "info": "what is installed, what the machine can do, what a model is made of",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one subcommand.

    Bad input ends with one line on stderr and exit code 2, an error that nobody foresaw with one that names the file of
    its traceback and 70, SIGINT and SIGTERM with 130 and 143. Without `arguments` they are the process's own, and so is
    the process: `take_over_terminal` and `take_over_process` set it up.
    """
    words = sys.argv[1:] if arguments is None else [*arguments]
    try:
        with flushed_output(), reported_errors(TRACEBACK in words):
            if arguments is None:
                take_over_terminal()
            run(words, own_process=arguments is None)
    except BrokenPipeError:
        sys.exit(EXIT_NO_READER)
    except OSError as error:
        fail(f"stdout: {first_line(error)}")


def run(arguments: Sequence[str], own_process: bool = False) -> None:
    """Run one subcommand with its options; its name and theirs may be written with dashes or underscores."""
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return
    if arguments[0] in ("-V", "--version"):
        print(f"flowar {__version__}")
        return
    name, rest = arguments[0].replace("_", "-"), arguments[1:]
    if name not in COMMANDS:
        raise FlowARError(f"command: expected one of {', '.join(COMMANDS)}, got {name}")
    log_to_stderr()
    command: Any = importlib.import_module(f"flowar.commands.{name.replace('-', '_')}")
    options = parse_options(name, command.Options, rest)
    if own_process and name != "doctor":  # which must start where torch does not, as wrong options must end at once
        take_over_process()
    command.run(options)


@contextmanager
def reported_errors(show_traceback: bool) -> Iterator[None]:
    """Turn the errors of this context into a line and an exit code; a missing reader of stdout goes further."""
    try:
        yield
    except BrokenPipeError:
        raise
    except Exception as error:
        report(error, show_traceback)
    except KeyboardInterrupt:
        fail("interrupted", exit_code(signal.SIGINT))


def log_to_stderr() -> None:
    """Show what FlowAR logs, and of other packages what is at least a warning: the Hub's client tells every request."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(PrintableFormatter("%(message)s"))
    logging.basicConfig(handlers=[handler])
    logging.getLogger("flowar").setLevel(logging.INFO)
    threading.excepthook = report_thread


def report_thread(failure: threading.ExceptHookArgs) -> None:
    """Say in a line that a library's thread has ended, as TensorBoard's does where the disk is full."""
    name = failure.thread.name if failure.thread else "a thread"
    logging.getLogger(__name__).warning("%s ended: %s", name, first_line(failure.exc_value or failure.exc_type()))


class PrintableFormatter(logging.Formatter):
    """Messages whose names move no cursor; FlowAR's own are one line each."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        message = super().formatMessage(record)
        return "\n".join(map(escaped, [message] if record.name.startswith("flowar") else message.split("\n")))


def report(error: Exception, show_traceback: bool) -> NoReturn:
    """End with what is to be said about an error: where it was foreseen, expected and got."""
    foreseen = isinstance(error, (ValueError, OSError, ImportError))
    file = None if foreseen or show_traceback else write_traceback(error)
    if show_traceback or not (foreseen or file):
        traceback.print_exception(error)
    if foreseen:
        fail(sentence(error))
    where = f" (traceback in {file})" if file else ""
    fail(f"unexpected {type(error).__name__}: {first_line(error)}{where}", EXIT_UNFORESEEN)


def write_traceback(error: Exception) -> str | None:
    """Write the traceback of an error to a file of its own that stays, and return its path; None where that fails."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="flowar-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as file:
            traceback.print_exception(error, file=file)
    except OSError:
        return None
    return file.name


def usage() -> str:
    """What `flowar --help` prints."""
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{summary}" for name, summary in COMMANDS.items()]
    last = "flowar COMMAND --help lists its options, flowar --version says which version this is."
    return "\n".join(["usage: flowar COMMAND [options]", "", *lines, "", last])


def parse_options(name: str, options: type[Any], arguments: Sequence[str]) -> Any:
    """The `options` dataclass from the command line and, with --config, a YAML file.

    Raises:
        FlowARError: for an unknown option, a missing one, or a value of the wrong type.
    """
    from jsonargparse import ArgumentError, ArgumentParser, Namespace

    from flowar.system.help_text import PlainHelp

    program = f"flowar {name}"
    parser = ArgumentParser(
        prog=program,
        usage=f"{program} [options]",
        description=COMMANDS[name],
        formatter_class=PlainHelp,
        exit_on_error=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with options; those on the command line win")
    parser.add_argument(TRACEBACK, action="store_true", help="show where an error came from")
    resolve_annotations(options)
    parser.add_class_arguments(options, None, as_group=False)
    arguments = long_form(options, arguments)
    for action in parser._actions:
        if getattr(action, "_typehint", None) is bool:  # `--naive` alone means `--naive true`
            action.nargs, action.const = "?", True
    groups = group_names(options)
    files = option_files(groups, arguments)
    for path in files:
        check_yaml_file(path)
    try:
        parsed = parser.parse_args(arguments)
        for group in groups:
            if not isinstance(parsed[group], Namespace):
                raise FlowARError(f"{group}: expected options of its own, got {shown(parsed[group])}")
        values = vars(parser.instantiate(parsed))
        return options(**{field.name: values[field.name] for field in dataclasses.fields(options)})
    except ArgumentError as error:
        message = " ".join(one_line(str(error)).split())
        raise FlowARError(f"{located(message, arguments, files)}; {program} --help lists the options") from error
    except ValueError as error:
        raise FlowARError(located(one_line(str(error)), arguments, files)) from error


def resolve_annotations(kind: Any) -> None:
    """Make types of the annotations of a dataclass and of those in its fields.

    The parser would run all that stands under `if TYPE_CHECKING` beside them, and with it import torch.
    """
    hints = get_type_hints(kind)
    kind.__init__.__annotations__ |= hints
    parts: list[Any] = [part for hint in hints.values() for part in (hint, *get_args(hint))]
    for part in filter(dataclasses.is_dataclass, parts):
        resolve_annotations(part)


def group_names(options: type[Any]) -> list[str]:
    """The options that are groups of some, which may not be left out."""
    return [name for name, hint in get_type_hints(options).items() if dataclasses.is_dataclass(hint)]


def option_files(groups: Sequence[str], arguments: Sequence[str]) -> list[Path]:
    """The YAML files among the arguments: of all options, or of a group of them."""
    names = ("config", *groups)
    files = []
    for argument, following in itertools.zip_longest(arguments, arguments[1:], fillvalue=""):
        name, equals, value = argument.removeprefix("--").partition("=")
        text = value if equals else following
        if argument.startswith("--") and name in names and len(text) < LONGEST_PATH and Path(text).exists():
            files.append(Path(text))
    return files


def located(message: str, arguments: Sequence[str], files: Sequence[Path]) -> str:
    """A message about an option, with the file in front that it is in, if it is in none of the arguments."""
    name = re.match(r"(?:Option ')?([\w.]+)[':\[]", message)
    given = [argument.partition("=")[0].removeprefix("--") for argument in arguments]
    unknown = name is None or any(f".{each}".endswith(f".{name[1]}") for each in given)
    return message if unknown or not files else f"{files[-1]}: {message}"


def one_line(message: str) -> str:
    """What jsonargparse says about a wrong value, without its indented lists: the option, its type, what came."""
    own = re.search(r"- ([\w.\[\]]+: expected .*)$", message, re.MULTILINE)
    if own:  # what a dataclass says that may be left out
        return own[1]
    _, nested, inner = message[1:].rpartition("Parser key")
    if nested:  # of which the innermost is meant, up to where its value stands
        message = nested + re.sub(r"((?:Got|Given) value: .*)[\s\S]*", r"\1", inner)
    key = re.match(r'Parser key "([^"]+)"', message)
    expected = re.search(r"Subtypes: \[(.*)\]$|Expected an? (.*)\. Got value", message, re.MULTILINE)
    value = re.search(r".*(?:Got|Given) value: (.*)\Z", message, re.DOTALL)
    if not (key and expected and value):
        return re.sub(r'Parser key "([^"]+)":', r"\1:", message)
    types = re.sub(r"<class '(?:[\w.]+\.)?(\w+)'>", r"\1", expected[1] or expected[2]).replace("NoneType", "nothing")
    types = re.sub(r"Literal\[(.*?)\]", lambda found: " or ".join(re.findall(r"[\w.-]+", found[1])), types)
    types = re.sub(r"\b(?:typing|collections\.abc)\.", "", types)
    return f"{key[1]}: expected {types.replace(', nothing', ' or nothing')}, got {value[1]}"


def fail(message: str, code: int = EXIT_BAD_INPUT) -> NoReturn:
    """End with `message` on stderr."""
    print(f"flowar: {shortened(escaped(message))}", file=sys.stderr)
    sys.exit(code)
