"""What is read from files: text, JSON, YAML, and the records in them, guarded against what files may hold instead."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from flowar.errors import CheckpointError, DataError, FlowARError, shown
from flowar.evaluation.npz import read_npz
from flowar.storage.weights import metadata_record, open_safetensors, safetensors_metadata
from flowar.system.fields import checked
from flowar.system.rules import Count, FileName, Index, Measurement, Name, Place
from flowar.system.structured import MOST_BYTES, parse_json, read_json, read_rows
from flowar.system.yaml_text import check_yaml, check_yaml_file


class Part(TypedDict):
    size: Index
    crc32: str


class Record(TypedDict):
    name: Name
    parts: list[Part]
    files: Mapping[Annotated[str, FileName()], Part]


GOOD: dict[str, Any] = {
    "name": "a",
    "parts": [{"size": 1, "crc32": "ff"}],
    "files": {"a.txt": {"size": 0, "crc32": ""}},
}


def refusal(read: Callable[[], object]) -> str:
    """What a reader says about what it refuses: one line that can be shown, of at most 300 characters."""
    with pytest.raises(FlowARError) as raised:
        read()
    message = str(raised.value)
    assert message.isprintable()
    assert len(message) <= 300
    return message


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


NO_TEXT = {
    "empty": (b"", "got an empty file"),
    "blank": (b" \n\t", "got an empty file"),
    "binary": (bytes(range(128, 256)), "got something that is no text in UTF-8, from byte 0 on"),
    "latin": ("é: 1".encode("latin-1"), "got something that is no text in UTF-8, from byte 0 on"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "got text in UTF-16 or UTF-32, not in UTF-8"),
    "UTF-32": ('{"a": 1}'.encode("utf-32"), "got text in UTF-16 or UTF-32, not in UTF-8"),
}


class TestFiles:
    @pytest.mark.parametrize(("content", "got"), NO_TEXT.values(), ids=NO_TEXT)
    @pytest.mark.parametrize(
        "read", [lambda path: read_json(path, dict), lambda path: read_rows(path, dict), check_yaml_file]
    )
    def test_no_text(self, read: Callable[[Path], object], content: bytes, got: str, tmp_path: Path) -> None:
        message = refusal(lambda: read(write(tmp_path / "file", content)))
        assert message.startswith(f"{tmp_path / 'file'}: expected ")
        assert message.endswith(got)

    def test_what_is_no_file(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        for path, reason in (
            (tmp_path / "pipe", "expected a regular file, got a pipe"),
            (tmp_path, "a folder"),
            (tmp_path / "nowhere", "No such file or directory"),
            (Path("/dev/zero"), "a device"),
        ):
            assert reason in refusal(lambda path=path: read_json(path, dict))  # type: ignore[misc]
            assert reason in refusal(lambda path=path: check_yaml_file(path))  # type: ignore[misc]

    def test_huge_file(self, tmp_path: Path) -> None:
        """Of which nothing is read."""
        with (tmp_path / "huge.json").open("wb") as file:
            file.truncate(2**31)
        message = refusal(lambda: read_json(tmp_path / "huge.json", dict))
        assert message.endswith(f"got {2**31} bytes, where {MOST_BYTES} are the most")

    def test_byte_order_mark(self, tmp_path: Path) -> None:
        path = write(tmp_path / "file", b'\xef\xbb\xbf{"a": 1}')
        assert read_json(path, dict) == {"a": 1}
        check_yaml_file(path)

    def test_class_of_the_error(self, tmp_path: Path) -> None:
        with pytest.raises(CheckpointError):
            read_json(tmp_path / "none", dict)
        with pytest.raises(DataError):
            read_json(tmp_path / "none", dict, DataError)


class TestJSON:
    @pytest.mark.parametrize(
        ("text", "got"),
        [
            ("{", "something else: Expecting property name"),
            ('{"a": 1} {', "something else: Extra data"),
            ('{"a": "\n"}', "something else: Invalid control character"),
            ('{"a": 1, "b": {"c": 1, "c": 2}}', "'c' twice"),
            ("[" * 65 + "]" * 65, "values nested deeper than 64 times"),
            ('{"a":' * 100_000 + "1" + "}" * 100_000, "values nested deeper than 64 times"),
            ('{"a": NaN}', "NaN, where numbers are to be finite"),
            ('{"a": [-Infinity]}', "-Infinity, where numbers are to be finite"),
            ("1e999", "1e999, where numbers are to be finite"),
            ("18446744073709551616", "an integer of 20 digits, where 64 bits are the most"),
            ("-9223372036854775809", "an integer of 20 digits"),
            ("1" * 10_000, "an integer of 10000 digits"),
            (b"\xff\xfe1", "text in UTF-16"),
            ("", "something else: Expecting value"),
        ],
    )
    def test_what_is_refused(self, text: str | bytes, got: str) -> None:
        with pytest.raises(ValueError, match=f"^{got}"):
            parse_json(text)

    def test_what_is_read(self) -> None:
        deep = json.loads("[" * 64 + "]" * 64)
        assert parse_json(json.dumps(deep)) == deep
        for value in (2**64 - 1, -(2**63), 1e300, 0, "\x1b\n", {"a": [1, None, True]}):
            assert parse_json(json.dumps(value)) == value
        assert str(parse_json("[NaN, 1e999]", finite=False)) == "[nan, inf]"


class TestRecords:
    def test_good(self, tmp_path: Path) -> None:
        path = write(tmp_path / "record.json", json.dumps(GOOD | {"more": [None]}))
        assert read_json(path, Record) == GOOD | {"more": [None]}

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"name": 5}, "name: expected text without control characters, got 5"),
            ({"name": "a\nb\x1b[31m"}, r"name: expected text without control characters, got 'a\nb\x1b[31m'"),
            ({"parts": {}}, "parts: expected a list, got {}"),
            ({"parts": ["x" * 1000]}, "parts[0]: expected an object, got 'xxx"),
            ({"parts": [{"size": 1}]}, "parts[0]: expected crc32, found size"),
            ({"parts": [{"size": -1, "crc32": ""}]}, "parts[0].size: expected an integer >= 0, got -1"),
            ({"parts": [{"size": 1.0, "crc32": ""}]}, "parts[0].size: expected an integer >= 0, got 1.0"),
            ({"parts": [{"size": True, "crc32": ""}]}, "parts[0].size: expected an integer >= 0, got True"),
            ({"parts": [{"size": 2**63, "crc32": ""}]}, f"parts[0].size: expected an integer >= 0, got {2**63}"),
            ({"files": {"../../etc/passwd": GOOD["parts"][0]}}, "files: a name: expected the name of a file, without"),
            (
                {"files": {"a\rb": GOOD["parts"][0]}},
                r"files: a name: expected the name of a file, without a folder, got 'a\rb'",
            ),
        ],
    )
    def test_bad(self, changes: dict[str, Any], message: str, tmp_path: Path) -> None:
        path = write(tmp_path / "record.json", json.dumps(GOOD | changes))
        assert refusal(lambda: read_json(path, Record)).startswith(f"{path}: {message}")

    def test_missing_field(self, tmp_path: Path) -> None:
        path = write(tmp_path / "record.json", '{"name": "a", "files": {}}')
        assert refusal(lambda: read_json(path, Record)) == f"{path}: expected parts, found name, files"
        path = write(tmp_path / "record.json", "[1]")
        assert refusal(lambda: read_json(path, Record)) == f"{path}: expected a JSON object, got list"

    def test_rows(self, tmp_path: Path) -> None:
        path = write(tmp_path / "rows.jsonl", '{"size": 1, "crc32": ""}\n\n{"size": "1", "crc32": ""}\n')
        expected = f"{path}: line 3: size: expected an integer >= 0, got '1'"
        assert refusal(lambda: read_rows(path, Part)) == expected
        write(path, '{"size": 1, "crc32": "", "loss": [null, NaN, 2]}\r\n')
        assert str(read_rows(path, Part)) == "[{'size': 1, 'crc32': '', 'loss': [nan, nan, 2]}]"

    def test_other_types(self) -> None:
        """Numbers of numpy and torch are numbers; what is fixed in length becomes a tuple."""
        assert checked(np.int64(3), Count) == 3
        assert type(checked(torch.tensor(3), Count)) is int
        assert checked(np.float32(0.5), float) == 0.5
        assert checked(np.arange(2), list[int]) == [0, 1]
        assert checked([1, 2.5], tuple[int, float]) == (1, 2.5)
        assert checked(range(2), tuple[int, ...]) == (0, 1)
        assert checked("a", Literal["a", "b"] | None) == "a"
        assert checked(None, int | None) is None
        assert checked("file", Path) == Path("file")
        for value, hint, expected in (
            ([1], tuple[int, float], "a list of 2, got [1]"),
            ("a", list[str], "a list, got 'a'"),
            ("c", Literal["a", "b"] | None, "a or b, got 'c'"),
            (True, Literal[1, 3], "1 or 3, got True"),
            (b"x", str | list[str], "text or a list, got b'x'"),
            (3, Path, "a path, got 3"),
            (1, bool, "true or false, got 1"),
            (float("nan"), float, "a number, got nan"),
            (10**5000, int, "an integer, got a number of type int that is too long to show"),
            ({1: 2}, Mapping[str, int], "text without control characters, got 1"),
        ):
            with pytest.raises(FlowARError) as raised:
                checked(value, hint, "x")
            assert str(raised.value).endswith(f"expected {expected}")

    def test_measurements_may_be_missing(self) -> None:
        assert str(checked(float("nan"), Measurement)) == "nan"
        for value in (float("inf"), 1e300, "1"):
            with pytest.raises(FlowARError, match=r"expected a number in \[-1e\+100, 1e\+100\]"):
                checked(value, Measurement)

    def test_home(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HOME", "/home/me")
        assert checked("~/model", Place) == "/home/me/model"
        assert checked("~/a", Path) == Path("/home/me/a")
        assert checked("a~b", Place) == "a~b"
        with pytest.raises(FlowARError, match="~nobody-here/x: expected a user of this machine after ~"):
            checked("~nobody-here/x", Place)


def bomb() -> str:
    lists = ["a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lists += [
        f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]" for before, name in zip("abcdef", "bcdefg", strict=True)
    ]
    return "\n".join(lists)


class TestYAML:
    @pytest.mark.parametrize(
        ("text", "got"),
        [
            ("a: 1\na: 2\n", "'a' twice"),
            ("a:\n  b: 1\n  c: 2\n  b: 3\n", "'b' twice"),
            ("? [1, 2]\n: 3\n", "a key that is no name"),
            ("a: &x [1, *x]\n", r"\*x before the end of what it stands for"),
            ("a: *x\n", r"\*x before the end of what it stands for"),
            (bomb(), "more than 1000000 values, as aliases repeat them"),
            ("[" * 100, "values nested deeper than 64 times"),
            ("a: [\n", "something else: while parsing"),
            ("a: \x00", "something else: unacceptable character"),
            ("\t", "something else: while scanning"),
        ],
    )
    def test_what_is_refused(self, text: str, got: str) -> None:
        with pytest.raises(ValueError, match=f"^{got}") as raised:
            check_yaml(text)
        assert str(raised.value).isprintable()

    def test_what_is_read(self) -> None:
        check_yaml("a: &x {b: 1, c: [1, 2]}\nd: {<<: *x, e: *x}\nf: &y 3\ng: *y\n")


def tensors_file(
    path: Path, header: bytes | dict[str, Any], data: bytes = b"\0" * 4, length: int | None = None
) -> Path:
    """A safetensors file with this header, or what claims to be one."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return write(path, struct.pack("<Q", len(text) if length is None else length) + text + data)


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


class TestSafetensors:
    @pytest.mark.parametrize(
        ("header", "length"),
        [
            (b"", None),
            (b"{}", 2**63),
            (b"{}", 10**9),
            (b"[]", None),
            (b"\xff" * 8, None),
            (b'{"x": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", None),
            (b'{"x": {"dtype":"F32","shape":[1],"data_offsets":[0,4]}, "x": 1}', None),
            (b'{"__metadata__": {"a": "1", "a": "2"}}', None),
            ({"x": ONE | {"shape": [2**62, 2**62]}}, None),
            ({"x": ONE | {"shape": [0, 2**63, 2**62], "data_offsets": [0, 0]}}, None),
            ({"x": ONE | {"shape": [-1]}}, None),
            ({"x": ONE | {"dtype": "NONE"}}, None),
            ({"x": ONE | {"data_offsets": [0, 400]}}, None),
            ({"__metadata__": {"a": 1}, "x": ONE}, None),
        ],
    )
    def test_bad_headers(self, header: bytes | dict[str, Any], length: int | None, tmp_path: Path) -> None:
        path = tensors_file(tmp_path / "x.safetensors", header, length=length)
        assert refusal(lambda: open_safetensors(path)).startswith(f"{path}: expected a safetensors file, but ")

    def test_pipes_are_refused(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "pipe")
        assert "expected a regular file, got a pipe" in refusal(lambda: open_safetensors(tmp_path / "pipe"))
        assert "expected a regular file, got a pipe" in refusal(lambda: safetensors_metadata(tmp_path / "pipe"))

    def test_metadata(self, tmp_path: Path) -> None:
        path = tmp_path / "x.safetensors"
        save_file({"x": torch.zeros(1)}, path, {"good": json.dumps(GOOD), "bad": '{"name": 1}', "worse": "{"})
        assert metadata_record(path, "good", Record) == GOOD
        for name, message in (
            ("bad", "metadata bad: name: expected text without control characters, got 1"),
            ("worse", "metadata worse: expected a JSON object, got something else"),
            ("none", "expected none in the metadata, found good, bad, worse"),
        ):
            found = refusal(lambda name=name: metadata_record(path, name, Record, DataError))  # type: ignore[misc]
            assert found.replace("good, worse, bad", "good, bad, worse").startswith(f"{path}: {message}"[:60])


def npy(shape: tuple[int, ...], content: bytes, descr: str = "|u1") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode() + content


class TestNpz:
    def packed(self, path: Path, *members: tuple[str, bytes]) -> Path:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members:
                archive.writestr(name, content)
        return path

    @pytest.mark.filterwarnings("ignore:Duplicate name")
    @pytest.mark.parametrize(
        ("members", "reason"),
        [
            ([("a.npy", npy((4,), b"123"))], r"a: expected 4 bytes for uint8 \[4\], got 3"),
            ([("a.npy", npy((10**12,), b"123"))], "a: expected 1000000000000 bytes"),
            ([("a.npy", npy((-1, -3), b"123"))], "a: expected 3 bytes"),
            ([("a.npy", npy((1,), b"12345678", "|O"))], "a: expected numbers, got objects"),
            ([("a.npy", npy((1,), b"1")), ("a.npy", npy((1,), b"2"))], "expected every array once"),
            ([("a.npy", b"")], "EOF"),
            ([("a.npy", b"\x93NUMPY\x09\x00" + b"\0" * 99)], "a: expected an array of format 1.0 or 2.0, got 9.0"),
        ],
    )
    def test_bad_arrays(self, members: list[tuple[str, bytes]], reason: str, tmp_path: Path) -> None:
        path = self.packed(tmp_path / "bad.npz", *members)
        with pytest.raises(DataError, match=rf"bad\.npz: expected an npz of plain arrays, .*{reason}"):
            read_npz(path, ("a",))

    def test_bomb(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """16 MiB of zeros, packed to a few KiB, where 4 are free."""
        path = self.packed(tmp_path / "bomb.npz", ("a.npy", npy((2**24,), bytes(2**24))))
        assert read_npz(path, ("a",))["a"].shape == (2**24,)
        monkeypatch.setattr("flowar.system.memory.UNNOTICED", 2**20)
        monkeypatch.setattr("flowar.system.memory.free_on_host", lambda root: 2.0**22)
        monkeypatch.setattr("flowar.system.memory.swap", lambda root: 0.0)
        expected = r"fits into 4 MiB of free memory, got uint8 \[16777216\]: 16 MiB"
        with pytest.raises(DataError, match=rf"bomb\.npz: .*{expected}"):
            read_npz(path, ("a",))

    def test_good(self, tmp_path: Path) -> None:
        np.savez_compressed(
            tmp_path / "good.npz", a=np.zeros((2, 0, 3)), b=np.float16(2), c=np.asfortranarray(np.eye(3))
        )
        found = read_npz(tmp_path / "good.npz", ("a", "b", "c", "d"))
        assert {name: array.shape for name, array in found.items()} == {"a": (2, 0, 3), "b": (), "c": (3, 3)}


def test_messages_show_anything() -> None:
    for value in ("x" * 10_000, [[[[1]]]] * 1000, {"a": b"\xff" * 500}, 10**5000, "\x1b[2J\n\u202e\udcff"):
        assert len(shown(value)) <= 80
        assert shown(value).isprintable()
    error = FlowARError(f"\x1b[31m{'a' * 200}\n{'b' * 500}")
    assert str(error).startswith(r"\x1b[31maaa")
    assert str(error).endswith("bbb")
    assert len(str(error)) == 300
    assert str(FlowARError(str(error))) == str(error)
