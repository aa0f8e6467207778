"""WebDataset tars: patterns, labels, and tars that are damaged."""

from __future__ import annotations

import io
import json
import logging
import os
import re
import tarfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowar.data.sources import open_images
from flowar.errors import DataError


def png(value: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (value, 0, 0)).save(file, "PNG")
    return file.getvalue()


def write_tar(path: Path, members: Mapping[str, bytes], mode: str = "w") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return path


def write_shards(folder: Path) -> Path:
    """Three tars of two images; image i has red 10 i and label i."""
    for tar in range(3):
        members: dict[str, bytes] = {}
        for index in (2 * tar, 2 * tar + 1):
            members[f"{index:04}.png"] = png(10 * index)
            members[f"{index:04}.cls"] = f"{index}\n".encode()
        write_tar(folder / f"{tar:02}.tar", members)
    return folder


@pytest.mark.parametrize(
    ("source", "labels"),
    [
        ("", [0, 1, 2, 3, 4, 5]),
        ("01.tar", [2, 3]),
        ("{01..02}.tar", [2, 3, 4, 5]),
        ("0[02].tar", [0, 1, 4, 5]),
        ("*.tar", [0, 1, 2, 3, 4, 5]),
    ],
)
def test_patterns(tmp_path: Path, source: str, labels: list[int]) -> None:
    write_shards(tmp_path)
    images = open_images(f"{tmp_path}/{source}", image_size=8)
    assert images.labels.tolist() == labels
    (batch,) = images.batches(10)
    assert batch[:, 0, 0, 0].tolist() == [10 * label for label in labels]
    assert images.class_names == ()
    (batch,) = open_images(f"{tmp_path}/{source}", image_size=(4, 6)).batches(10)
    assert batch.shape[1:] == (3, 4, 6)


def test_tars_of_several_folders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_shards(tmp_path / name)
    source = open_images(f"{tmp_path}/*/00.tar", image_size=8)
    assert [source.name(index) for index in (0, 2)] == ["a/00.tar/0000.png", "b/00.tar/0000.png"]
    assert source.read(2).getpixel((0, 0)) == (0, 0, 0)


def test_samples_share_what_stands_before_the_first_dot(tmp_path: Path) -> None:
    members = {
        "one/x.json": json.dumps({"label": 3, "text": "a cat"}).encode(),
        "one/x.JPG": png(50),
        "one/x.seg.png": png(60),  # no image of its own
        "two/x.cls": b"4",
        "two/x.png": png(70),
        "two/x.json": b'{"text": "labelled by the other file"}',
        "notes.txt": b"of no sample",
    }
    source = open_images(write_tar(tmp_path / "a.tar", members), image_size=8)
    assert source.labels.tolist() == [3, 4]
    assert [source.read(index).getpixel((0, 0)) for index in (0, 1)] == [(50, 0, 0), (70, 0, 0)]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({"a.png": png(0)}, r'a\.tar: expected a label of a\.png in a\.cls, or as "label" in a\.json'),
        ({"a.png": png(0), "a.json": b'{"text": "x"}'}, r"expected a label of a\.png"),
        ({"a.png": png(0), "a.cls": b"cat"}, r"expected an integer >= 0 as the label in a\.cls, got b'cat'"),
        ({"a.png": png(0), "a.cls": b"-1"}, r"expected an integer >= 0 as the label in a\.cls, got -1"),
        ({"a.png": png(0), "a.json": b'{"label": true}'}, r"as the label in a\.json, got True"),
        ({"a.png": png(0), "a.json": b"[1]"}, r"as the label in a\.json, got \[1\]"),
        ({"a.png": png(0), "a.json": b'{"label'}, r"as the label in a\.json, got b'"),
        ({"a.png": png(0), "a.jpg": png(0), "a.cls": b"1"}, r"expected one image called a, got a\.png, a\.jpg"),
        ({"notes.txt": b"nothing else"}, r"a\.tar: expected images, found none in 1 tars"),
    ],
)
def test_refused(tmp_path: Path, members: Mapping[str, bytes], message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_images(write_tar(tmp_path / "a.tar", members))


class TestSkipped:
    """Where bad images are skipped, so are those without a label, and what is damaged of a tar."""

    def labels(self, tar: Path) -> tuple[list[int], list[str]]:
        """Labels of the images that can be read, and what was said of the others."""
        source, labels, skipped = open_images(tar, image_size=8, skip_bad=True), [], []
        for index in range(len(source)):
            try:
                source.cut(index)
                labels.append(int(source.labels[index]))
            except DataError as error:
                skipped.append(str(error))
        return labels, skipped

    @pytest.mark.parametrize(
        ("members", "message"),
        [
            ({"b.png": png(0)}, r"a\.tar: expected a label of b\.png"),
            ({"b.png": png(0), "b.json": b"{}"}, r"a\.tar: expected a label of b\.png"),
            ({"b.png": png(0), "b.cls": b"cat"}, r"a\.tar: expected an integer >= 0 as the label in b\.cls"),
            ({"b.png": png(0), "b.cls": b"9" * 5000}, r"a\.tar: expected an integer >= 0 as the label in b\.cls"),
            ({"b.png": png(0), "b.json": b"[" * 100_000}, r"a\.tar: expected an integer >= 0 as the label in b\.json"),
            ({"b.png": png(0), "b.jpg": png(0), "b.cls": b"1"}, r"a\.tar: expected one image called b"),
            ({"b.png": b"no image", "b.cls": b"1"}, r"a\.tar/b\.png: expected a readable image"),
        ],
    )
    def test_samples(self, tmp_path: Path, members: Mapping[str, bytes], message: str) -> None:
        whole = {"a.png": png(0), "a.cls": b"3"}
        labels, (reason,) = self.labels(write_tar(tmp_path / "a.tar", {**members, **whole}))
        assert labels == [3]
        assert re.search(message, reason)

    def test_rest_of_a_damaged_tar(self, tmp_path: Path) -> None:
        path = write_tar(tmp_path / "a.tar", {"a.cls": b"3", "a.png": png(0), "b.cls": b"1", "b.png": bytes(4000)})
        path.write_bytes(path.read_bytes()[:4500])
        labels, skipped = self.labels(path)
        assert labels == [3]
        assert ["unexpected end" in reason for reason in skipped] == [True, False]

    def test_nothing_left(self, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"expected images, found none in 1 tars; .*expected a label of a\.png"):
            open_images(write_tar(tmp_path / "a.tar", {"a.png": png(0)}), skip_bad=True)


def test_what_is_ignored_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    members = {"a.png": png(0), "a.cls": b"1", "a.txt": b"a caption, part of the sample", "README.md": b"of nothing"}
    members |= {"._a.png": b"fork", "__MACOSX/a.png": b"fork", ".hidden/b.png": png(0), "c.cls": b"1"}
    path = write_tar(tmp_path / "shards" / "a.tar", members)
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("d.png")
        link.type, link.linkname = tarfile.SYMTYPE, "a.png"
        tar.addfile(link)
    (path.parent / "._a.tar").write_bytes(b"fork")
    (path.parent / "preview.png").write_bytes(png(0))
    with caplog.at_level(logging.INFO):
        assert len(open_images(path.parent)) == 1
    (message,) = caplog.messages
    kinds = "hidden 3, __MACOSX 1, images beside the tars 1, labels without an image 1, links and devices 1, .md 1"
    assert message == f"{path.parent}: 1 images in 1 tars; ignored 8: {kinds}"


def test_tars_beside_class_folders(tmp_path: Path) -> None:
    write_shards(tmp_path)
    (tmp_path / "cats").mkdir()
    assert len(open_images(tmp_path)) == 6
    (tmp_path / "cats" / "a.png").write_bytes(png(0))
    with pytest.raises(
        DataError, match=r"expected tars or one folder a class, got both; .*/\*\.tar names the tars alone"
    ):
        open_images(tmp_path)
    assert len(open_images(f"{tmp_path}/*.tar")) == 6


def test_a_pipe_called_a_tar(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(DataError, match=r"a\.tar: expected an uncompressed tar.*expected a regular file"):
        open_images(tmp_path / "a.tar")


def test_missing_tars(tmp_path: Path) -> None:
    write_shards(tmp_path)
    with pytest.raises(
        DataError, match=r"03\.tar: expected an uncompressed tar, but reading it failed \(.*No such file"
    ):
        open_images(f"{tmp_path}/{{00..03}}.tar")
    with pytest.raises(DataError, match=r"expected tars, got .*train-\*\.tar \(fits no file\)"):
        open_images(f"{tmp_path}/train-*.tar")


def test_compressed_tar(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="expected an uncompressed tar, but reading it failed"):
        open_images(write_tar(tmp_path / "a.tar", {"a.png": png(0), "a.cls": b"1"}, "w:gz"))


@pytest.mark.parametrize("size", [3000, 5632, 7000])  # within an image, between two members, within a header
def test_truncated_tar(tmp_path: Path, size: int) -> None:
    noise = np.random.default_rng(0).bytes(4000)
    path = write_tar(tmp_path / "a.tar", {"a.cls": b"1", "a.png": noise, "b.cls": b"1", "b.png": noise})
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(
        DataError, match=r"a\.tar: expected an uncompressed tar, but reading it failed \(unexpected end"
    ):
        open_images(path)


def test_damaged_image(tmp_path: Path) -> None:
    source = open_images(write_tar(tmp_path / "a.tar", {"a.png": b"no image", "a.cls": b"1"}))
    with pytest.raises(DataError, match=r"a\.tar/a\.png: expected a readable image"):
        source.read(0)
