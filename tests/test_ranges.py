"""Every number of every option and configuration has its range, wherever it comes from."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, get_origin

import numpy as np
import pytest
import torch

from flowar import FlowARConfig
from flowar.cli import COMMANDS, parse_options
from flowar.evaluation.run import EvaluationConfig
from flowar.system.fields import declarations
from flowar.training.config import FinetuneConfig, OptimConfig, TrainConfig
from flowar.training.data_config import DataConfig
from flowar.training.distillation_config import DistillConfig

OPTIONS = {name: importlib.import_module(f"flowar.commands.{name.replace('-', '_')}").Options for name in COMMANDS}

# What a class cannot be made without, and a command not be called without.
NEEDED: dict[Any, dict[str, Any]] = {
    DataConfig: {"latents": "store"},
    EvaluationConfig: {"reference": "images", "output": Path("out"), "extractor": "fashion"},
    FinetuneConfig: {"checkpoint": "old"},
    DistillConfig: {"model": "teacher", "output": "run"},
    TrainConfig: {"data": DataConfig(latents="store"), "output": "run", "model": FlowARConfig()},
    OPTIONS["calibrate-tokenizer"]: {"tokenizer": "pixel:2", "data": "images", "output": Path("out")},
    OPTIONS["convert"]: {"checkpoint": Path("old.pth"), "output": Path("out")},
    OPTIONS["edit"]: {"kind": "vary", "classes": "0"},
    OPTIONS["push"]: {"folder": "model", "repo": "user/model"},
    OPTIONS["reference"]: {"images": "images", "output": Path("out")},
    OPTIONS["show"]: {"kind": "path"},
    OPTIONS["sweep"]: {"reference": "images"},
    OPTIONS["train-tokenizer"]: {"data": "images", "output": Path("out")},
    OPTIONS["tune"]: {"target_ms": 5.0},
}

NEGATIVE = {"seed", "to_seed", "classes"}  # where -1 makes sense
ZERO = {  # where 0 does
    *NEGATIVE,
    *(
        "bootstrap",
        "box",
        "keep_scales",
        "query",
        "samples",
        "scale",
        "sample_every",
        "save_minutes",
        "crops",
        "FlowARConfig.jumps",
    ),
    *("dropout", "class_dropout", "guidance_scale", "guidance_scales", "guidance_interval", "interval_highs"),
    *("context_noise", "scale_exponent", "final_lr", "betas", "weight_decay", "ema_decays", "robust_steps"),
    *("edge_weight", "perceptual_weight", "kl_weight", "latent_noise", "robust_noise"),
    *("ValidationConfig.share", "OptimConfig.warmup_steps"),
}
BAD = (math.nan, math.inf, -math.inf, 1e300, -1e300, 2**64, -(2**63) - 1, 10**5000, "x", "1", b"1", True, {}, [[1]])


class Number(NamedTuple):
    """A numeric field, or one of several numbers, of a class."""

    kind: Any
    name: str
    hint: Any

    def __str__(self) -> str:
        return f"{self.kind.__module__.split('.')[-1]}.{self.kind.__name__}.{self.name}"

    def allowed(self, names: set[str]) -> bool:
        return bool(names & {self.name, f"{self.kind.__name__}.{self.name}"})

    def make(self, value: Any) -> Any:
        """Make the class with this value in the field."""
        kinds = [get_origin(part) for part in parts(self.hint)]
        length = next((len(get_args(part)) for part in parts(self.hint) if get_origin(part) is tuple), 1)
        several = tuple in kinds or list in kinds or (Sequence in kinds and int not in parts(self.hint))
        return self.kind(**NEEDED.get(self.kind, {}) | {self.name: (value,) * length if several else value})


def parts(hint: Any) -> list[Any]:
    """A type and all that it is made of."""
    inner = get_args(hint)[:1] if get_origin(hint) is Annotated else get_args(hint)
    return [hint, *(each for part in inner for each in parts(part))]


def classes(kind: Any) -> Iterator[Any]:
    """A dataclass and those in its fields."""
    yield kind
    for hint in declarations(kind).values():
        for part in filter(dataclasses.is_dataclass, parts(hint)):
            yield from classes(part)


def numbers(kinds: Sequence[Any]) -> list[Number]:
    """The numeric fields of classes, and of the classes in their fields."""
    every = dict.fromkeys(each for kind in kinds for each in classes(kind))
    fields = [Number(kind, *field) for kind in every for field in declarations(kind).items()]
    return [field for field in fields if int in parts(field.hint) or float in parts(field.hint)]


ALL = numbers([*OPTIONS.values(), EvaluationConfig])


def test_there_are_many() -> None:
    assert len(ALL) > 100
    assert {each.kind for each in ALL} > {FlowARConfig, OptimConfig, DataConfig, FinetuneConfig, OPTIONS["tune"]}


@pytest.mark.parametrize("number", ALL, ids=str)
def test_what_no_field_takes(number: Number) -> None:
    values = [*BAD, np.float64("nan"), torch.tensor(math.inf)]
    values += [] if number.allowed(NEGATIVE) else [-1, 2**63]
    values += [] if number.allowed(ZERO) else [0, 0.0]
    for value in values:
        with pytest.raises(ValueError, match=rf"^{number.name}\b.*: expected .*, got ") as raised:
            number.make(value)
        assert len(str(raised.value)) <= 300, value
        assert str(raised.value).isprintable(), value


@pytest.mark.parametrize("number", [each for each in ALL if each.allowed(ZERO)], ids=str)
def test_zero_where_it_makes_sense(number: Number) -> None:
    if number.name not in ("ema_decays", "keep_scales"):
        assert number.make(0)


@pytest.mark.parametrize("name", COMMANDS)
def test_options_on_the_command_line(name: str) -> None:
    options = OPTIONS[name]
    given = [f"--{field}={value}" for field, value in NEEDED.get(options, {}).items() if isinstance(value, (str, Path))]
    given += ["--data.latents=store", "--finetune.checkpoint=old"] if name == "train" else []
    for number, value in zip(numbers([options]), itertools.cycle(["1e300", "nan", "x"])):
        groups = [field for field, hint in declarations(options).items() if number.kind in parts(hint)]
        option = ".".join([*groups, number.name])
        with pytest.raises(ValueError, match=rf"^(\w+\.)?{number.name}\b.*: expected .*, got .*{value[-3:]}"):
            parse_options(name, options, [*given, f"--{option}={value}"])
