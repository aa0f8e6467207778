"""Checksums of files of tensors, in their metadata, and of JSON: a bit that flips on a disk is found on loading.

Every tensor has one of its bytes, a CRC-32 of their sums over short runs, which the copy that loading makes anyway
takes on its way (`flowar.ops.checked_copy`). One more is of the rest: names, shapes and all other metadata. Files
without checksums, older ones and those of other programs, are read as they are.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from torch import Tensor

from flowar.errors import CheckpointError
from flowar.ops import checked_copy
from flowar.system.files import write_json
from flowar.system.structured import parse_json, read_json

KEY, SEAL = "checksums", "checksum"
CHUNK = 2**24  # bytes read at once
BEGINNING = '{"header": "'  # of what stands under it, by which it is known even where the key is damaged


def with_checksums(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> dict[str, str]:
    """`metadata` of a file with the checksums of the `tensors` that it is to hold."""
    checksums = {name: checksum(sums_of(tensor).numpy()) for name, tensor in tensors.items()}
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    record = {"header": header_checksum(shapes, metadata, checksums), "tensors": checksums}
    return {**metadata, KEY: json.dumps(record)}


def read_checksums(path: Path, shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str]) -> dict[str, str]:
    """The checksums of the tensors in a file by name, for `check_tensor`; none if the file has none.

    Raises:
        CheckpointError: if names, shapes or metadata are not as they were written.
    """
    written = [text for key, text in metadata.items() if key == KEY or text.startswith(BEGINNING)]
    if not written:
        return {}
    others = {key: text for key, text in metadata.items() if key != KEY}
    try:
        record = parse_json(written[0])
        checksums: dict[str, str] = record["tensors"]
        expected, found = record["header"], header_checksum(shapes, others, checksums)
    except (ValueError, KeyError, TypeError):
        expected, found = "one", "something else"
    if expected != found:
        raise CheckpointError(f"{path}: damaged: expected checksum {expected} of names and metadata, got {found}")
    return checksums


def check_tensor(where: str | Path, name: str, sums: Tensor, expected: str | None) -> None:
    """Check what `checked_copy` returned for a tensor of a file against its checksum, if that has one.

    Raises:
        CheckpointError: if they differ, and for a tensor that is not finite.
    """
    numbers = sums.numpy()
    if expected is not None and expected != (found := checksum(numbers)):
        raise CheckpointError(f"{where}: damaged: tensor {name}: expected checksum {expected}, got {found}")
    if numbers[-1]:
        raise CheckpointError(f"{where}: tensor {name}: expected finite numbers, got NaN or infinity among them")


def sums_of(tensor: Tensor) -> Tensor:
    """What `checked_copy` returns for a tensor, whose copy is not needed; on the CPU."""
    return checked_copy(torch.empty_like(tensor), tensor).cpu()


def checksum(sums: np.ndarray[Any, Any]) -> str:
    """Eight hex digits from what `checked_copy` returned."""
    return f"{zlib.crc32(sums[:-1].data):08x}"


def header_checksum(
    shapes: Mapping[str, Sequence[int]], metadata: Mapping[str, str], checksums: Mapping[str, str]
) -> str:
    """Eight hex digits of all that a file holds beside the bytes of its tensors."""
    about = [[name, list(shape), checksums[name]] for name, shape in sorted(shapes.items())]
    return text_checksum([about, dict(metadata)])


def text_checksum(values: Any) -> str:
    """Eight hex digits of plain data, whatever the order of its keys."""
    return f"{zlib.crc32(json.dumps(values, sort_keys=True).encode()):08x}"


def crc32_of(file: BinaryIO, size: int = sys.maxsize) -> int:
    """The CRC-32 of the next `size` bytes of a file, or of all that are left if they are fewer."""
    crc = 0
    while chunk := file.read(min(size, CHUNK)):
        crc, size = zlib.crc32(chunk, crc), size - len(chunk)
    return crc


def write_sealed(path: Path, values: Mapping[str, Any]) -> None:
    """Write a JSON object with a checksum of its own, aside first."""
    plain = json.loads(json.dumps(values))  # as it will be read, where all keys are strings
    write_json(path, plain | {SEAL: text_checksum(plain)})


def read_sealed(path: Path) -> dict[str, Any]:
    """The JSON object of a file, without its checksum, which older files do not have.

    Raises:
        CheckpointError: if the file is missing, damaged, or holds something else.
    """
    values = read_json(path, dict)
    expected, found = values.pop(SEAL, None), text_checksum(values)
    if expected not in (None, found):
        raise CheckpointError(f"{path}: damaged: expected checksum {expected}, got {found}")
    return values
