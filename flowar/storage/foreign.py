"""Weights in the checkpoints of other programs: which tensors are meant, and what they are called.

Training scripts keep averages of the weights beside the weights, both beside other things, and under names that begin
with what wraps the model. Averages come first, as they are what papers report.
"""

from __future__ import annotations

import argparse
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from flowar.errors import CheckpointError
from flowar.storage.weights import map_safetensors, unreadable
from flowar.system.arguments import check_path
from flowar.system.files import open_regular

# What averages are called, alone or in a longer name: model_ema, ema_state_dict, params_ema, shadow_params.
AVERAGE = re.compile(r"(^|[_.])(ema\d*|swa|averaged?|averages|shadow|polyak)([_.]|$)", re.IGNORECASE)
PLAIN = (
    *("model", "state_dict", "model_state_dict", "online_model", "module"),
    *("network", "net", "params", "weights"),
)
WRAPPERS = {"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"}  # DDP, torch.compile, FSDP
MOST_LEVELS = 8  # of containers in each other; a file may hold one that holds itself
COUNTERS = {"n_averaged", "num_updates", "initted", "step", "decay"}  # that averages keep among their tensors
TABLES = re.compile(r"(^|\.)(rope\.freqs|mask)$")  # which modules keep beside their parameters, and lists leave out


class Foreign(NamedTuple):
    """The named tensors of a checkpoint, and which they are: empty where it holds these alone."""

    tensors: dict[str, Tensor]
    taken: str = ""


def open_foreign(source: str | Path | Mapping[str, Any]) -> Foreign:
    """The weights in a file that `torch.save` wrote, or in a safetensors file, memory-mapped; or in what a file held.

    Nothing that a pickle asks for is run.

    Raises:
        CheckpointError: for a file that is missing, truncated, something else, or that holds more than plain data; and
            if there are no named tensors.
    """
    if isinstance(source, Mapping):
        return find_weights(source)
    path = check_path("source", source)
    content = map_safetensors(path) if path.suffix == ".safetensors" else load_torch_file(path)
    try:
        return find_weights(content)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error


def load_torch_file(path: Path) -> Any:
    """What `torch.save` wrote to a file, with its tensors memory-mapped."""
    try:
        open_regular(path).close()
        # Training scripts keep their arguments in the file; a Namespace is a bag of attributes and runs nothing.
        with warnings.catch_warnings(), torch.serialization.safe_globals([argparse.Namespace]):
            warnings.simplefilter("ignore")  # what torch says of a file's age helps nobody here
            return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # garbage makes the unpickler fail in any way whatever
        raise unreadable(path, "a PyTorch file of tensors", error) from error


def find_weights(content: Any) -> Foreign:
    """The named tensors of a state dict, or of a checkpoint that holds some: the first average, else the first others.

    Raises:
        CheckpointError: if there are none.
    """
    found = dict(candidates(content, (), set()))
    plain = next((each for key, each in found.items() if isinstance(each, dict) and not is_average(key)), {})
    for key, tensors in sorted(found.items(), key=lambda each: not is_average(each[0])):
        named = tensors if isinstance(tensors, dict) else match(tensors, plain, key)
        others = ", ".join(other for other in found if other != key)
        average = f"the averages in {key}" if is_average(key) else key
        return Foreign(named, f"{average} instead of {others}" if others else average if is_average(key) else "")
    raise CheckpointError(f"expected named dense tensors, got {summary(content)}")


def candidates(
    content: Any, keys: tuple[str, ...], seen: set[int]
) -> Iterator[tuple[str, dict[str, Tensor] | list[Tensor]]]:
    """All weights in a checkpoint by the `keys` that lead to them, joined by dots. What was `seen` is passed over."""
    key = ".".join(keys)
    if isinstance(content, list | tuple) and content and all(map(is_dense, content)):
        if is_average(key):
            yield key, list(content)
    elif isinstance(content, Mapping) and content and all(map(is_named, content, content.values())):
        for prefix, tensors in parts(content):
            yield ".".join(filter(None, (key, prefix))), tensors
    elif isinstance(content, Mapping) and len(keys) < MOST_LEVELS and id(content) not in seen:
        seen.add(id(content))
        for name in [*filter(is_average, content), *(name for name in PLAIN if name in content)]:
            yield from candidates(content[name], (*keys, name), seen)


def is_named(name: Any, value: Any) -> bool:
    return isinstance(name, str) and is_dense(value)


def is_dense(value: Any) -> bool:
    """Whether a value is a tensor that has all of its numbers in one array."""
    return isinstance(value, Tensor) and value.layout is torch.strided and not value.is_nested


def is_average(key: Any) -> bool:
    return isinstance(key, str) and AVERAGE.search(key) is not None


def parts(tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """The averages in a state dict that has weights and averages under prefixes, by their prefix; and the weights."""
    prefixes = {name.partition(".")[0] for name in tensors if "." in name}
    averages = {prefix: below(tensors, prefix) for prefix in sorted(filter(is_average, prefixes))}
    weights = clean({name: each for name, each in tensors.items() if name.partition(".")[0] not in averages})
    for prefix, average in averages.items():
        if not weights:
            yield prefix, average
        elif average.keys() <= weights.keys():  # of parameters alone, perhaps; others are called in a way of their own
            yield prefix, weights | average
    if weights:
        yield "", weights


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix` and a dot, under the rest of their names."""
    return clean({name[len(prefix) + 1 :]: each for name, each in tensors.items() if name.startswith(f"{prefix}.")})


def clean(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors under the names that they have in the model itself."""
    bare = {without_wrappers(name): each for name, each in tensors.items() if name not in COUNTERS}
    prefix = next(iter(bare), "").partition(".")[0]
    if prefix in PLAIN and all(name.startswith(f"{prefix}.") for name in bare):
        return below(bare, prefix)
    return bare


def without_wrappers(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def match(averages: Sequence[Tensor], weights: Mapping[str, Tensor], key: str) -> dict[str, Tensor]:
    """A plain list of averages, under the names of the weights that it belongs to.

    Raises:
        CheckpointError: if it is not a list of the parameters of `weights` in their order.
    """
    for names in ([*weights], [name for name in weights if not TABLES.search(name)]):
        if [each.shape for each in averages] == [weights[name].shape for name in names]:
            return {**weights, **dict(zip(names, averages, strict=True))}
    expected = f"the {len(weights)} weights beside it in their order" if weights else "weights with names beside it"
    raise CheckpointError(f"{key}: expected {expected}, got a list of {len(averages)} tensors")


def summary(content: Any) -> str:
    """What there is in the place of named tensors, in a few words."""
    if not isinstance(content, Mapping):
        return type(content).__name__
    for _ in range(MOST_LEVELS):
        content = next((content[key] for key in PLAIN if isinstance(content.get(key), Mapping)), content)
    others = (name for name, each in content.items() if not is_named(name, each))
    return next((f"{name!r:.60} among them" for name in others), "none")
