"""Tensors in safetensors files, and from there into a module."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from flowar.errors import CheckpointError, FlowARError, first_line
from flowar.ops import checked_copy
from flowar.storage.checksums import check_tensor, read_checksums, sums_of, with_checksums
from flowar.system.fields import checked
from flowar.system.files import open_regular, write_aside
from flowar.system.memory import check_memory
from flowar.system.structured import parse_json, parse_record

Shape = Sequence[int]
Record = TypeVar("Record")

MAPPED_SHARE = 0.05  # of a model's bytes that are copied before the file is mapped afresh,
MAPPED_MINIMUM = 2**26  # unless that is less than this: opening a file takes milliseconds
LENGTH_BYTES, MOST_HEADER_BYTES = 8, 10**8  # of a safetensors file, by its format


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file with checksums, aside first.

    Raises:
        OSError: if writing fails.
    """
    plain = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    described = with_checksums(plain, metadata or {})

    def write(aside: Path) -> None:
        try:
            save_file(plain, aside, described)
        except SafetensorError as error:  # how the library reports a full disk
            raise OSError(f"{path}: writing failed: {first_line(error)}") from error

    write_aside(path, write)


class Header(NamedTuple):
    """What a safetensors file says of its tensors."""

    shapes: dict[str, Shape]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file.

    Raises:
        CheckpointError: if the file is missing, truncated, or something else.
    """
    header = safetensors_header(path)
    try:
        metadata = checked(header.pop("__metadata__", None) or {}, Mapping[str, str], "metadata")
        return Header(
            {name: checked(each, Mapping[str, Any], name)["shape"] for name, each in header.items()}, metadata
        )
    except (FlowARError, KeyError) as error:
        raise unreadable(path, "a safetensors file", error) from error


def safetensors_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file.

    Raises:
        CheckpointError: as `read_header`.
    """
    return read_header(path).metadata


def metadata_record(path: Path, name: str, kind: type[Record], error: type[FlowARError] = CheckpointError) -> Record:
    """The JSON object called `name` in the metadata of a safetensors file; `kind` and `error` are as of `read_json`.

    Raises:
        CheckpointError: if the file cannot be read, and if names, shapes or metadata are not as they were written.
        FlowARError: of the class `error`, if there is no such object, or another.
    """
    header = read_header(path)
    read_checksums(path, *header)
    metadata = header.metadata
    if name not in metadata:
        raise error(f"{path}: expected {name} in the metadata, found {', '.join(metadata) or 'none'}")
    return parse_record(metadata[name], kind, f"{path}: metadata {name}", error)


def safetensors_header(path: Path) -> dict[str, Any]:
    """What the header of a safetensors file says: the tensors by name, and the metadata.

    Raises:
        CheckpointError: as `open_safetensors`, and for a name that is there twice.
    """
    try:
        with open_regular(path) as file:
            length = int.from_bytes(file.read(LENGTH_BYTES), "little")
            rest = os.fstat(file.fileno()).st_size - LENGTH_BYTES
            if not 0 < length <= min(rest, MOST_HEADER_BYTES):
                raise ValueError(f"a header of {length} bytes, of {max(0, rest)}")
            header = parse_json(file.read(length))
            if not isinstance(header, dict):
                raise ValueError(f"a header that is a {type(header).__name__}")
            return header
    except (OSError, ValueError) as error:
        raise unreadable(path, "a safetensors file", error) from error


def map_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, memory-mapped: a page is read when it is first touched.

    Raises:
        CheckpointError: as `read_header`.
    """
    safetensors_header(path)
    try:
        return load_file(path)
    except Exception as error:  # what the format allows, PyTorch may not
        raise unreadable(path, "a safetensors file", error) from error


def open_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, read through once: finite, and as they were written if it has checksums.

    Raises:
        CheckpointError: if the file is missing, damaged or something else, or a tensor is not finite.
    """
    checksums, tensors = read_checksums(path, *read_header(path)), map_safetensors(path)
    for name, tensor in tensors.items():
        check_tensor(path, name, sums_of(tensor), checksums.get(name))
    return tensors


def unreadable(path: Path, expected: str, error: Exception) -> CheckpointError:
    """The error for a file that another library could not read."""
    said = str(error)
    if forbidden := re.search(r"GLOBAL ([\w.]+)", said):
        remedy = "where it was made, torch.save(model.state_dict(), path) writes a copy of tensors alone"
        return CheckpointError(f"{path}: expected {expected}, but it asks to run {forbidden[1]}: refused; {remedy}")
    reason = re.search(r"WeightsUnpickler error:\s*(\S.*)", said)  # behind PyTorch's advice to run what files ask for
    what = reason[1] if reason else first_line(error)
    return CheckpointError(f"{path}: expected {expected}, but reading failed: {what}")


def check_finite(where: str | Path, tensors: Mapping[str, Tensor]) -> None:
    """Check that tensors which another library read from a file are finite.

    Raises:
        CheckpointError: naming the first one that is not.
    """
    for name, tensor in tensors.items():
        check_tensor(where, name, sums_of(tensor), None)


def check_shapes(
    found: Mapping[str, Shape], expected: Mapping[str, Shape], optional: Mapping[str, Shape] | None = None
) -> None:
    """Compare the tensors of a file with those that a model needs, strictly; `optional` ones may be missing.

    Raises:
        CheckpointError: naming the first missing, unexpected or misshapen tensor, and how many more there are.
    """
    known = {**(optional or {}), **expected}
    problems = [f"missing tensor {name}" for name in expected if name not in found]
    problems += [f"unexpected tensor {name}" for name in found if name not in known]
    problems += [
        f"tensor {name}: expected shape {list(shape)}, got {list(found[name])}"
        for name, shape in known.items()
        if name in found and list(found[name]) != list(shape)
    ]
    if problems:
        more = f" (and {len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise CheckpointError(f"checkpoint: {problems[0]}{more}")


def fingerprint(tensors: Mapping[str, Tensor]) -> str:
    """The first 16 hex digits of SHA-256 over names and values; whether these are float16 or float32 is the same."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def shapes_of(tensors: Mapping[str, Tensor]) -> dict[str, Shape]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def allocate(module: nn.Module) -> None:
    """Give the parameters of a module on the meta device memory on the CPU, for `copy_weights` to fill.

    What `to_empty` does, which imports sympy for it: most of a second.

    Raises:
        FlowARError: if there is less memory.
    """
    needed = sum(parameter.nbytes for parameter in module.parameters())
    check_memory("model", "its weights", needed)
    for part in module.modules():
        for name, parameter in [*part.named_parameters(recurse=False)]:
            memory = torch.empty(parameter.shape, dtype=parameter.dtype, device="cpu")
            setattr(part, name, nn.Parameter(memory, parameter.requires_grad))


@torch.no_grad()
def copy_weights(
    module: nn.Module,
    open_tensors: Callable[[], Mapping[str, Tensor]],
    sources: Callable[[str], Sequence[str]] = lambda name: (name,),
    where: str | Path = "checkpoint",
    checksums: Mapping[str, str] | None = None,
) -> None:
    """Fill the parameters of `module`; a parameter whose `sources` are several is their stack along dimension 0.

    `open_tensors` is called again for every twentieth of a large module: pages of a mapped file that were read stay
    resident until the mapping ends, and would double the memory that loading takes.

    Args:
        where: the file that they come from, for messages.
        checksums: those of tensors by name, of which some or all may be missing.

    Raises:
        CheckpointError: for a tensor that is not of floats, not finite, or not as its checksum says.
    """
    expected = checksums or {}
    for group in parameter_groups(module):
        tensors = open_tensors()
        for name, parameter in group:
            names = sources(name)
            for part, source in zip(parameter.chunk(len(names)), names, strict=True):
                require_floats(where, source, tensors[source])
                check_tensor(where, source, checked_copy(part, tensors[source]), expected.get(source))


def load_weights(module: nn.Module, path: Path) -> None:
    """Fill all tensors of a small module from a file that holds those and no others.

    Raises:
        CheckpointError: if the file is missing, unreadable, or holds something else.
    """
    tensors, needed = open_safetensors(path), module.state_dict()
    check_shapes(shapes_of(tensors), shapes_of(needed))
    for name, tensor in needed.items():
        if tensor.is_floating_point():
            require_floats(path, name, tensors[name])
    module.load_state_dict(tensors)


def require_floats(where: str | Path, name: str, tensor: Tensor) -> None:
    """Check the dtype of a tensor in a file. Raises CheckpointError for integers and the like."""
    if not tensor.is_floating_point():
        raise CheckpointError(f"{where}: tensor {name}: expected floats, got {tensor.dtype}")


def parameter_groups(module: nn.Module) -> Iterator[list[tuple[str, nn.Parameter]]]:
    """Consecutive named parameters, in groups of about `MAPPED_SHARE` of all bytes, or `MAPPED_MINIMUM`."""
    parameters = list(module.named_parameters())
    limit = max(MAPPED_MINIMUM, MAPPED_SHARE * sum(parameter.nbytes for _, parameter in parameters))
    group, size = [], 0
    for name, parameter in parameters:
        group.append((name, parameter))
        size += parameter.nbytes
        if size >= limit:
            yield group
            group, size = [], 0
    if group:
        yield group
