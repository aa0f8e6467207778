"""Wrong data files: npz, tar, idx."""

from __future__ import annotations

import gzip
import io
import pickle
import random
import struct
import tarfile
import zipfile
from functools import cache
from typing import Any

import numpy as np
from test_data import idx_bytes

from campaign.case import Case, Fault, Ground
from campaign.documents import NAMES, flipped
from campaign.tensors import Runs
from campaign.verdict import Expected, shown

REFUSED, EITHER = Expected.REFUSED, Expected.EITHER


def wrong_npz(ground: Ground) -> Case:
    """An npz of images with one thing wrong."""
    command, path = ground.reader("*.npz")
    return ground.spoil(command, path, wrong_arrays(ground.random, path.read_bytes()))


def wrong_arrays(rng: random.Random, content: bytes) -> Fault:
    images, labels = (np.load(io.BytesIO(content))[name] for name in ("arr_0", "arr_1"))
    arrays: list[tuple[str, dict[str, Any], Expected]] = [
        ("no images", {"arr_1": labels}, REFUSED),
        ("an empty array", {"arr_0": images[:0]}, REFUSED),
        ("images without pixels", {"arr_0": images[:, :0]}, REFUSED),
        ("two channels", {"arr_0": images.repeat(2, 3)}, REFUSED),
        ("floats", {"arr_0": images.astype(np.float32)}, REFUSED),
        ("three axes", {"arr_0": images[..., 0]}, REFUSED),
        ("objects", {"arr_0": np.array([Runs()], dtype=object)}, REFUSED),
        ("text", {"arr_0": np.array(["x"])}, REFUSED),
        ("too few labels", {"arr_0": images, "arr_1": labels[:-1]}, REFUSED),
        ("labels that are no numbers", {"arr_0": images, "arr_1": labels * np.nan}, REFUSED),
        ("labels of text", {"arr_0": images, "arr_1": labels.astype(str).astype("U5")}, EITHER),
        ("labels of objects", {"arr_0": images, "arr_1": labels.astype(object)}, REFUSED),
        ("labels below 0", {"arr_0": images, "arr_1": labels.astype(int) - 5}, REFUSED),
        ("great labels", {"arr_0": images, "arr_1": labels.astype(int) + 2**60}, REFUSED),
        ("labels that are fractions", {"arr_0": images, "arr_1": labels + 0.5}, REFUSED),
        ("dates", {"arr_0": images.astype("datetime64[s]")}, REFUSED),
        ("other names", {shown(rng.choice(NAMES[:2])): images}, REFUSED),
        ("another size", {"arr_0": images[:, :20]}, REFUSED),
    ]
    header = npy_header("|u1", "(1000000, 100000, 10000, 3)")
    members: list[Fault] = [
        ("a shape of petabytes", header + b"x", REFUSED),
        ("a shape below 0", npy_header("|u1", "(-4, 28, 28, 1)") + bytes(10), REFUSED),
        ("a shape that is none", npy_header("|u1", "'x'") + bytes(10), REFUSED),
        ("a header that calls", npy_header("|u1", "__import__('os').system('touch RAN')"), REFUSED),
        ("a header that is deep", b"\x93NUMPY\x02\x00" + struct.pack("<I", 9000) + b"(" * 9000, REFUSED),
        ("a pickle", pickle.dumps(Runs()), REFUSED),
        ("nothing", b"", REFUSED),
    ]
    stream = io.BytesIO()
    kind = rng.randrange(4)
    if kind == 0:
        fault, member, expected = rng.choice(members)
        with zipfile.ZipFile(stream, "w") as archive:
            archive.writestr("arr_0.npy", member)
        return fault, stream.getvalue(), expected
    if kind == 1:
        fault, content, expected = rng.choice(
            [
                ("a bit flipped", flipped(rng, content), EITHER),
                ("cut off", content[: rng.randrange(1, len(content))], REFUSED),
                ("an npy", npy_header("|u1", "(4,)") + bytes(4), REFUSED),
                ("a pickle", pickle.dumps(Runs()), REFUSED),
                ("a bomb", bomb(), REFUSED),
            ]
        )
        return fault, content, expected
    fault, chosen, expected = rng.choice(arrays)
    np.savez(stream, **chosen)
    return fault, stream.getvalue(), expected


def npy_header(dtype: str, shape: str) -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@cache
def bomb() -> bytes:
    """An array of 4 GiB of zeros in 4 MiB."""
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("arr_0.npy", "w", force_zip64=True) as member,
    ):
        member.write(npy_header("|u1", "(4194304, 32, 32, 1)"))
        zeros = bytes(2**20)
        for _ in range(64):  # and there is the end: what is missing would not fit either
            member.write(zeros)
    return stream.getvalue()


def wrong_tar(ground: Ground) -> Case:
    """A tar with one thing wrong."""
    command, path = ground.reader("*.tar")
    return ground.spoil(command, path, wrong_members(ground.random, path.read_bytes()))


def wrong_members(rng: random.Random, content: bytes) -> Fault:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        members = [(entry, tar.extractfile(entry).read()) for entry in tar]  # type: ignore[union-attr]
    labels = [index for index, (entry, _) in enumerate(members) if entry.name.endswith(".cls")]
    images = [index for index, (entry, _) in enumerate(members) if entry.name.endswith(".png")]
    whole: list[Fault] = [
        (
            "cut off",
            content[: rng.randrange(1, len(content) - 2 * tarfile.RECORDSIZE)]
            if len(content) > 3 * tarfile.RECORDSIZE
            else content[:700],
            REFUSED,
        ),
        ("a bit flipped", flipped(rng, content), EITHER),
        ("gzipped", gzip.compress(content), REFUSED),
        ("zeros", bytes(10240), EITHER),
        ("empty of members", tar_of([]), EITHER),
        ("a size beyond the end", content[:124] + b"77777777777\0" + content[136:], REFUSED),
        ("a size below 0", content[:124] + b"\xff" * 12 + content[136:], REFUSED),
    ]
    if rng.random() < 0.3:
        return rng.choice(whole)
    index, image = rng.choice(labels), rng.choice(images)
    label_faults: list[Fault] = [
        (f"a label {shown(text.decode(errors='replace'), 20)!r}", text, REFUSED)
        for text in (
            b"",
            b"cat",
            b"-1",
            b"1.5",
            b"nan",
            b"1e300",
            str(2**64).encode(),
            b"9" * 5000,
            b"\xff",
            b"1 2",
            b"\x1b[31m",
        )
    ]
    kind = rng.randrange(6)
    if kind == 0:
        fault, text, expected = rng.choice(label_faults)
        members[index] = (members[index][0], text)
    elif kind == 1:
        gone = members.pop(rng.choice([index, image]))
        fault, expected = f"without {gone[0].name}", REFUSED if gone[0].name.endswith(".cls") else EITHER
    elif kind == 2:
        name = rng.choice(
            ("../../out.png", "/etc/out.png", "a\nb.png", "\x1b[31m.png", "n" * 300 + ".png", "c\x00.png", "\udcff.png")
        )
        fault = f"an image called {shown(name, 20)!r} without a label"
        expected = EITHER if "\0" in name else REFUSED  # a tar ends names there, so that it is no image
        members.append((tarfile.TarInfo(name), members[image][1]))
    elif kind == 3:
        wrong = members[image][0]
        wrong.type = rng.choice((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE))
        wrong.linkname = "/dev/zero"
        fault, expected, members[image] = f"an image of type {wrong.type!r}", EITHER, (wrong, b"")
    elif kind == 4:
        fault, expected = "an image that is none", REFUSED
        members[image] = (members[image][0], rng.choice((b"", b"no picture", members[image][1][:40], bytes(500))))
    else:
        fault, expected = "a member doubled", EITHER
        members.append(members[rng.choice([index, image])])
    return fault, tar_of(members), expected


def tar_of(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", errors="surrogateescape") as tar:
        for entry, content in members:
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def wrong_idx(ground: Ground) -> Case:
    """A file of Fashion-MNIST's format with one thing wrong."""
    command, path = ground.reader("idx/train-*")
    content, rng = path.read_bytes(), ground.random
    if rng.random() < 0.3:
        path.unlink()
        return ground.spoil(command, path.with_name(f"{path.name}.gz"), wrong_gzip(rng, content))
    return ground.spoil(command, path, wrong_bytes(rng, content))


def wrong_bytes(rng: random.Random, content: bytes) -> Fault:
    dimensions = content[3]
    header = 4 + 4 * dimensions
    sizes, data = struct.unpack(f">{dimensions}i", content[4:header]), content[header:]
    array = np.frombuffer(data, np.uint8).reshape(sizes)

    def of(*sizes: int) -> bytes:
        return content[:4] + struct.pack(f">{dimensions}i", *sizes)

    faults: list[Fault] = [
        ("cut off", content[: rng.randrange(1, len(content))], REFUSED),
        ("bytes behind it", content + b"x", REFUSED),
        ("of no image", of(0, *sizes[1:]), REFUSED),
        ("of sizes below 0", of(-1, *sizes[1:]) + data, REFUSED),
        ("of sizes without end", of(*[2**31 - 1] * dimensions) + data, REFUSED),
        ("of floats", b"\0\0\x0d" + content[3:], REFUSED),
        ("of 200 dimensions", b"\0\0\x08\xc8" + content[4:], REFUSED),
        ("with another beginning", b"\0\1" + content[2:], REFUSED),
        ("an image less", idx_bytes(array[:-1]), REFUSED),
        ("an image more", idx_bytes(np.concatenate([array, array[:1]])), REFUSED),
        ("gzipped under this name", gzip.compress(content), REFUSED),
    ]
    pixels: Fault = ("without pixels", of(sizes[0], *[0] * (dimensions - 1)), REFUSED)
    labels: Fault = ("great labels", idx_bytes(array + 250), EITHER)
    return rng.choice([*faults, pixels if dimensions == 3 else labels])


def wrong_gzip(rng: random.Random, content: bytes) -> Fault:
    zipped = gzip.compress(content)
    faults: list[Fault] = [
        ("cut off", zipped[: rng.randrange(1, len(zipped))], REFUSED),
        ("a bit flipped", flipped(rng, zipped), EITHER),
        ("of nothing", gzip.compress(b""), REFUSED),
        ("a bomb", zipped + sixteen_mebibytes() * 300, REFUSED),
    ]
    return rng.choice(faults)


@cache
def sixteen_mebibytes() -> bytes:
    return gzip.compress(bytes(2**24))
