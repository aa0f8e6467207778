"""Wrong options: values that none takes, missing ones, doubled or unknown ones, and some that do not go together."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Iterator
from typing import Any, get_args, get_type_hints

from campaign.case import Case, Ground, unread
from campaign.commands import Command
from campaign.option_values import LONG, NO_FILE, ODD, refused_values
from campaign.verdict import Expected, shown

# Options beside those of a command, by its title, that together make no sense.
TOGETHER: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("sample", ("--preview_steps",)),
    ("sample", ("--npz=a.npz", "--zoom=2")),
    ("sample", ("--num_images=2", "--per_class=1")),
    ("sample", ("--output={label}.png", "--num_images=30")),
    ("sample", ("--animate=film.txt",)),
    ("sample", ("--schedule=fast", "--num_inference_steps=3")),
    ("sample", ("--naive", "--dtype=fp8")),
    ("sample", ("--attention=flash-3",)),
    ("edit inpaint", ("--classes=0,1",)),
    ("edit inpaint", ("--mask=small.png",)),
    ("edit vary", ("--keep_scales=3",)),
    ("edit vary", ("--keep_scales=100",)),
    ("edit interpolate", ("--count=1",)),
    ("edit interpolate", ("--classes=1",)),
    ("show path", ("--scale=9",)),
    ("show attention", ("--query=[9,9]",)),
    ("show neighbours", ("--neighbours=1000",)),
    ("evaluate a model", ("--num_images=9",)),
    ("evaluate a model", ("--bootstrap=1",)),
    ("evaluate a model", ("--reference=model",)),
    ("evaluate an npz", ("--extractor=efficientnet-lite0",)),
    ("evaluate --compare", ('--compare=["evaluation"]',)),
    ("evaluate --compare", ('--compare=["evaluation","missing"]',)),
    ("reference", ("--output=reference.npz",)),
    ("train on folders", ("--validation.share=0.5", "--validation.folder=folders")),
    ("train on folders", ("--optim.steps=null", "--optim.epochs=null")),
    ("train on folders", ("--model.num_classes=2",)),
    ("train on folders", ('--model.class_names=["a","b","c"]',)),
    ("train on folders", ("--data.image_size=30",)),
    ("train on folders", ("--optim.batch_size=7", "--micro_batch=4")),
    ("train on folders", ("--optim.optimizer=muon", "--parallel=fsdp")),
    ("train on folders", ("--resume",)),
    ("train on folders", ("--model.ar_width=33",)),
    ("train on folders", ("--model.ar_depth=3",)),
    ("train on a store", ("--data.tokenizer=tokenizer",)),
    ("train --resume", ("--model.ar_width=64",)),
    ("train --resume", ("--resume=false",)),
    ("train-tokenizer", ("--training.widths=[8,16,32,64,128]",)),
    ("train-tokenizer --resume", ("--training.widths=[8,8]",)),
    ("evaluate again", ("--seed=5",)),
    ("sweep again", ("--seed=5",)),
    ("encode the rest", ("--flips=false",)),
    ("train-tokenizer", ("--resume",)),
    ("encode", ("--tokenizer=pixel:5",)),
    ("calibrate-tokenizer", ("--image_channels=3",)),
    ("convert", ("--tokenizer=tokenizer",)),
    ("push", ("--license=apache-2.0", "--samples=-1")),
)


def wrong_value(ground: Ground) -> Case:
    """One option with a value that it does not take."""
    command, rng = ground.command(), ground.random
    name = rng.choice([each for each in option_names(command) if refused_values(command.name, each)])
    value = rng.choice(refused_values(command.name, name))
    return with_value(command, name, value, Expected.EITHER if unread(command, name) else Expected.REFUSED)


def odd_value(ground: Ground) -> Case:
    """One option with a value that it may take or not."""
    command = ground.command()
    return with_value(command, ground.random.choice(option_names(command)), ground.random.choice(ODD), Expected.EITHER)


def with_value(command: Command, name: str, value: str, expected: Expected) -> Case:
    """A command with one option changed, which may be one that its words stand for."""
    positional = getattr(options_of(command), "positional", ())
    words = dict(zip((positional,) if isinstance(positional, str) else positional, command.words, strict=False))
    arguments = [*command.arguments, f"--{name}={value}"]
    if name in words:
        others = [f"--{other}={word}" for other, word in words.items() if other != name]
        arguments = [command.name, *others, *arguments[1 + len(command.words) :]]
    may_write = command.may_write if expected is Expected.EITHER else ()
    return Case(command, arguments, f"{name} {shown(value, 40)!r}", expected, may_write=may_write)


def wrong_line(ground: Ground) -> Case:
    """A command line that is not one."""
    command, rng = ground.command(), ground.random
    arguments = command.arguments
    place = rng.randrange(1 + len(command.words), len(arguments) + 1)
    required = [f"--{name}={value}" for name, value in command.options.items() if name in needed(command)]
    lines: list[tuple[str, list[str], Expected]] = [
        ("an unknown option", [*arguments, f"--{rng.choice(UNKNOWN)}=1"], Expected.REFUSED),
        ("an option of no part", [*arguments, "--model.bogus.deeper=1", "--nothing.at=2"], Expected.REFUSED),
        ("a value missing", [*arguments, f"--{rng.choice(option_names(command))}"], Expected.EITHER),
        ("a word too many", [*arguments[:place], rng.choice(WORDS), *arguments[place:]], Expected.EITHER),
        ("an option doubled", [*arguments, rng.choice(arguments[1 + len(command.words) :])], Expected.EITHER),
        ("an unknown command", [rng.choice(WORDS), *arguments[1:]], Expected.REFUSED),
        ("no --config", [*arguments, f"--config={rng.choice(NO_FILE)}"], Expected.REFUSED),
    ]
    if required:
        gone = rng.choice(required)
        lines.append(("an option missing", [each for each in arguments if each != gone], Expected.REFUSED))
    fault, line, expected = rng.choice(lines)
    may_write = command.may_write if expected is Expected.EITHER else ()
    return Case(command, line, f"{fault}: {shown(' '.join(line[1:])[-60:])}", expected, may_write=may_write)


def not_together(ground: Ground) -> Case:
    """Options each of which is right, but not beside the others."""
    title, more = ground.random.choice(TOGETHER)
    command = ground.command(lambda each: str(each) == title)
    return Case(command, [*command.arguments, *more], " ".join(more), Expected.REFUSED)


UNKNOWN = ("bogus", "Model", "out-put", "seed.x", "a\x1b[31m", "é", "u" * LONG, "config.x", "print_config", "")
WORDS = ("bogus", "", "-", "--", "-x", "\x1b[31m", "a\nb", "w" * LONG, "--=", "---", "=", "@file", "\udcff")


def options_of(command: Command) -> Any:
    """The dataclass of a command's options."""
    return importlib.import_module(f"flowar.commands.{command.name.replace('-', '_')}").Options


def option_names(command: Command) -> list[str]:
    """The names of all options of a command, nested ones with dots."""
    return list(names_of(options_of(command)))


def names_of(options: type[Any], prefix: str = "") -> Iterator[str]:
    hints = get_type_hints(options)
    for each in dataclasses.fields(options):
        parts = [part for part in (hints[each.name], *get_args(hints[each.name])) if dataclasses.is_dataclass(part)]
        if parts:
            yield from names_of(parts[0], f"{prefix}{each.name}.")  # type: ignore[arg-type]
        else:
            yield prefix + each.name


def needed(command: Command) -> set[str]:
    """The names of the options without a default."""
    return {
        each.name
        for each in dataclasses.fields(options_of(command))
        if each.default is dataclasses.MISSING and each.default_factory is dataclasses.MISSING
    }
