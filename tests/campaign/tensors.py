"""Wrong files of tensors: safetensors, and the pickles of PyTorch."""

from __future__ import annotations

import json
import random
import struct
import subprocess
from pathlib import Path
from typing import Any

import torch

from campaign.case import Case, Fault, Ground
from campaign.documents import DEEP, NAMES, changed_tree
from campaign.verdict import Expected, shown

REFUSED, EITHER = Expected.REFUSED, Expected.EITHER
LENGTH = 8  # bytes of the length of the header


def wrong_safetensors(ground: Ground) -> Case:
    """A safetensors file with one thing wrong."""
    command, path = ground.reader("*.safetensors")
    return ground.spoil(command, path, wrong_tensors(ground.random, path.read_bytes()))


def wrong_tensors(rng: random.Random, content: bytes) -> Fault:
    (length,) = struct.unpack("<Q", content[:LENGTH])
    header, data = json.loads(content[LENGTH : LENGTH + length]), content[LENGTH + length :]
    name = rng.choice([each for each in header if each != "__metadata__"])
    break_it = rng.choice((wrong_length, wrong_header, wrong_header, wrong_values, wrong_values, wrong_metadata))
    return break_it(rng, header, name, data)


def packed(header: Any, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def wrong_length(rng: random.Random, header: dict[str, Any], name: str, data: bytes) -> Fault:
    """A header that does not have the length that it says, or is no JSON object."""
    text = json.dumps(header).encode()
    faults: list[Fault] = [
        (f"a header of {length} bytes", struct.pack("<Q", length) + text + data, REFUSED)
        for length in (0, 1, len(text) - 1, len(text) + 1, 2**31, 2**62, 2**64 - 1)
    ]
    faults += [(f"a header like {shown(wrong.decode(), 20)!r}", packed(wrong, data), REFUSED) for wrong in NO_HEADERS]
    return rng.choice(faults)


NO_HEADERS = (b"{}", b"[]", b"null", b"{", b'{"a": 1}', b"[" * DEEP, b'{"a":' * DEEP + b"1" + b"}" * DEEP)


def wrong_header(rng: random.Random, header: dict[str, Any], name: str, data: bytes) -> Fault:
    """A header in which one tensor is not as it was written."""
    about = header[name]
    begin, end = about["data_offsets"]
    changes: list[tuple[str, Any, Expected]] = [
        ("of bogus numbers", about | {"dtype": "BOGUS"}, REFUSED),
        ("of integers", about | {"dtype": "I32"}, REFUSED),
        ("of complex numbers", about | {"dtype": "C64"}, REFUSED),
        ("of another shape", about | {"shape": [*about["shape"], 2]}, REFUSED),
        ("of a shape below 0", about | {"shape": [-1, *about["shape"][1:]]}, REFUSED),
        ("of a shape without end", about | {"shape": [2**40, 2**40]}, REFUSED),
        ("of a nested shape", about | {"shape": [[1]]}, REFUSED),
        ("beyond the end", about | {"data_offsets": [begin, end + 2**40]}, REFUSED),
        ("that ends before it begins", about | {"data_offsets": [end, begin]}, REFUSED),
        ("at places below 0", about | {"data_offsets": [-8, -4]}, REFUSED),
        ("without a place", {"dtype": about["dtype"], "shape": about["shape"]}, REFUSED),
        ("that is a list", [1, 2], REFUSED),
    ]
    others: list[tuple[str, Any]] = [
        (f"without {name}", {each: value for each, value in header.items() if each != name}),
        (f"{name} renamed", {each + "x" * (each == name): value for each, value in header.items()}),
        (f"another {name}", header | {name + "x": about}),
        (
            f"{name} called {shown(rng.choice(NAMES), 20)!r}",
            {rng.choice(NAMES) if each == name else each: value for each, value in header.items()},
        ),
    ]
    if rng.random() < 0.3:
        fault, changed = rng.choice(others)
        return fault, packed(changed, data), REFUSED
    fault, changed, expected = rng.choice(changes)
    return f"{name} {fault}", packed(header | {name: changed}, data), expected


def wrong_values(rng: random.Random, header: dict[str, Any], name: str, data: bytes) -> Fault:
    """Values that have changed, or are none."""
    begin, end = header[name]["data_offsets"]
    place, whole = rng.randrange(len(data)), packed(header, data)
    value = begin + 4 * rng.randrange((end - begin) // 4) if end - begin >= 4 else begin
    faults: list[Fault] = [
        (
            "a bit flipped",
            packed(header, data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]),
            REFUSED,
        ),
        (
            "a page of zeros",
            packed(
                header,
                data[: place & ~4095] + bytes(min(4096, len(data) - (place & ~4095))) + data[(place & ~4095) + 4096 :],
            ),
            EITHER,
        ),
        ("bytes missing", packed(header, data[:-3]), REFUSED),
        ("bytes behind it", packed(header, data + b"more"), REFUSED),
        (
            "a bit flipped in the header",
            whole[: LENGTH + 3] + bytes([whole[LENGTH + 3] ^ 1]) + whole[LENGTH + 4 :],
            EITHER,
        ),
        *(
            (
                f"{word} in {name}",
                packed(header, data[:value] + struct.pack("<f", float(word)) + data[value + 4 :]),
                REFUSED,
            )
            for word in ("nan", "inf", "-inf", "1e38")
            if header[name]["dtype"] == "F32"
        ),
    ]
    return rng.choice(faults)


def wrong_metadata(rng: random.Random, header: dict[str, Any], name: str, data: bytes) -> Fault:
    """Metadata that is none, or whose JSON has one thing wrong."""
    metadata = header.get("__metadata__", {})
    records = [key for key, value in metadata.items() if value[:1] in "{["]
    if records and rng.random() < 0.7:
        key = rng.choice(records)
        fault, tree, expected = changed_tree(rng, f"{key}.json", json.loads(metadata[key]))
        return f"{key}: {fault}", packed(header | {"__metadata__": metadata | {key: json.dumps(tree)}}, data), expected
    faults: list[tuple[str, Any, Expected]] = [
        ("metadata of numbers", {"format": 5}, REFUSED),
        ("metadata in a list", ["pt"], REFUSED),
        ("no metadata", {}, EITHER),
        ("more metadata", metadata | {"a\x1b[31m": "b\nc"}, EITHER),
        *((f"{key} no JSON", metadata | {key: "{"}, REFUSED) for key in records),
        *((f"{key} deep", metadata | {key: "[" * DEEP}, REFUSED) for key in records),
    ]
    fault, changed, expected = rng.choice(faults)
    return fault, packed(header | {"__metadata__": changed}, data), expected


class Runs:
    """What runs a program when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return subprocess.call, (["touch", "RAN"],)


def wrong_pickle(ground: Ground) -> Case:
    """A checkpoint as PyTorch writes them with one thing wrong."""
    command, path = ground.reader("*.pth")
    fault, expected = wrong_state(ground.random, path)
    return ground.of_file(command, path, fault, expected)


def wrong_state(rng: random.Random, path: Path) -> tuple[str, Expected]:
    content = path.read_bytes()
    weights = torch.load(path, weights_only=True)
    name = rng.choice([each for each in weights if each.endswith("weight")])
    place = rng.randrange(len(content))
    spoiled = weights[name].clone().flatten()
    spoiled[rng.randrange(len(spoiled))] = rng.choice((float("nan"), float("inf")))
    states: list[tuple[str, Any, Expected]] = [
        ("a call", weights | {name: Runs()}, REFUSED),
        ("a call alone", Runs(), REFUSED),
        ("a whole module", torch.nn.Linear(2, 2), REFUSED),
        (f"without {name}", {each: value for each, value in weights.items() if each != name}, REFUSED),
        (f"{name} renamed", {each + "x" * (each == name): value for each, value in weights.items()}, REFUSED),
        (f"{name} of another shape", weights | {name: weights[name][None, None]}, REFUSED),
        (f"{name} of integers", weights | {name: weights[name].to(torch.int8)}, REFUSED),
        (f"{name} of complex numbers", weights | {name: weights[name].to(torch.complex64)}, REFUSED),
        (f"{name} sparse", weights | {name: weights[name].flatten().to_sparse()}, REFUSED),
        (f"{name} not finite", weights | {name: spoiled.view_as(weights[name])}, REFUSED),
        (f"{name} nothing", weights | {name: None}, REFUSED),
        (f"{name} without memory", weights | {name: torch.zeros(1).expand(2**40)}, REFUSED),
        ("names that are numbers", dict(enumerate(weights.values())), REFUSED),
        ("names of control characters", {rng.choice(NAMES[:-1]): value for value in weights.values()}, REFUSED),
        ("a list", list(weights.values()), REFUSED),
        ("a tensor", weights[name], REFUSED),
        ("nothing", None, REFUSED),
        ("an empty state", {}, REFUSED),
        ("a number under model", {"model": 5}, REFUSED),
        ("itself in itself", circle(), REFUSED),
        ("a deep list", deep(), REFUSED),
    ]
    contents: list[Fault] = [
        (
            "a bit flipped",
            content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :],
            EITHER,
        ),
        ("cut off", content[:place], REFUSED),
        ("a pickle of the shell", b"cposix\nsystem\n(S'touch RAN'\ntR.", REFUSED),
        ("a pickle that ends in the middle", b"\x80\x02}q\x00(X\x05", REFUSED),
        ("a pickle of long memory", b"\x80\x04\x8e" + struct.pack("<Q", 2**50), REFUSED),
    ]
    if rng.random() < 0.3:
        fault, changed, expected = rng.choice(contents)
        path.write_bytes(changed)
        return fault, expected
    fault, state, expected = rng.choice(states)
    torch.save(state, path)
    return fault, expected


def circle() -> dict[str, Any]:
    state: dict[str, Any] = {}
    state["model"] = state
    return state


def deep() -> list[Any]:
    state: list[Any] = []
    for _ in range(200):
        state = [state]
    return state
