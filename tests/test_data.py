"""Images with labels from files: idx pairs, a folder a class, and files that are damaged; the options of data."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from flowar.data.class_names import read_class_names
from flowar.data.sources import open_images
from flowar.data.transforms import to_unit_range
from flowar.errors import DataError
from flowar.training.data_config import DataConfig


def idx_bytes(array: np.ndarray) -> bytes:
    return struct.pack(f">4B{array.ndim}i", 0, 0, 8, array.ndim, *array.shape) + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, images: Tensor, labels: Tensor, split: str = "train", zipped: bool = True) -> Path:
    """Images [N, H, W] and labels [N] as the two files of one split."""
    folder.mkdir(exist_ok=True)
    for kind, array in (("images-idx3", images.numpy()), ("labels-idx1", labels.numpy())):
        content = idx_bytes(array)
        path = folder / f"{split}-{kind}-ubyte{'.gz' if zipped else ''}"
        path.write_bytes(gzip.compress(content) if zipped else content)
    return folder


def pictures(count: int, side: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (count, side, side), generator=generator, dtype=torch.uint8)
    return images, torch.arange(count, dtype=torch.uint8) % 10


def write_class_folders(folder: Path) -> Path:
    """Two classes of two small colour images; one image is wide, one lies deeper."""
    generator = np.random.default_rng(0)
    sizes = {"cats/a.png": (8, 8), "cats/b.png": (20, 10), "dogs/c.PNG": (8, 8), "dogs/more/d.png": (8, 12)}
    for name, (width, height) in sizes.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (height, width, 3), np.uint8)).save(path, "PNG")
    (folder / "notes.txt").write_text("not an image")
    return folder


@pytest.mark.parametrize("zipped", [True, False])
def test_idx_files(tmp_path: Path, zipped: bool) -> None:
    images, labels = pictures(12)
    source = open_images(write_idx(tmp_path, images, labels, zipped=zipped))
    batches = list(source.batches(5))
    assert [len(batch) for batch in batches] == [5, 5, 2]
    assert torch.equal(torch.cat(batches), images[:, None])
    assert torch.equal(source.labels, labels.long())
    assert source.class_names == read_class_names("fashion_mnist")


def test_idx_split(tmp_path: Path) -> None:
    images, labels = pictures(4)
    write_idx(tmp_path, images, labels)
    write_idx(tmp_path, images[:3], labels[:3], split="t10k")
    assert len(open_images(tmp_path, "t10k").labels) == 3
    with pytest.raises(DataError, match=r"expected test-images-idx3-ubyte.gz or test-images-idx3-ubyte, found neither"):
        open_images(tmp_path, "test")


def test_more_labels_than_fashion_mnist_has(tmp_path: Path) -> None:
    images, labels = pictures(4)
    assert open_images(write_idx(tmp_path, images, labels + 20)).class_names == ()


def test_class_folders(tmp_path: Path) -> None:
    source = open_images(write_class_folders(tmp_path), image_size=8)
    assert source.class_names == ("cats", "dogs")
    assert source.labels.tolist() == [0, 0, 1, 1]
    (images,) = source.batches(10)
    assert images.shape == (4, 3, 8, 8)
    assert images.dtype == torch.uint8
    pixels = torch.from_numpy(np.array(Image.open(tmp_path / "cats" / "a.png")))
    assert torch.equal(images[0], pixels.permute(2, 0, 1))
    assert [source.name(index) for index in range(4)] == ["cats/a.png", "cats/b.png", "dogs/c.PNG", "dogs/more/d.png"]
    assert source.read(1).size == (20, 10)  # as it is; batches crop
    assert open_images(tmp_path, image_size=8, channels=1).read(1).mode == "L"


def test_single_images_are_those_of_batches(tmp_path: Path) -> None:
    images, labels = pictures(3)
    source = open_images(write_idx(tmp_path, images, labels))
    assert [source.image_size, source.channels, len(source)] == [(8, 8), 1, 3]
    assert all(np.array_equal(source.read(index), images[index].numpy()) for index in range(3))


def test_fingerprint(tmp_path: Path) -> None:
    images, labels = pictures(4)
    idx = write_idx(tmp_path / "idx", images, labels)
    first = open_images(idx).fingerprint()
    assert first == open_images(write_idx(tmp_path / "copy", images, labels)).fingerprint()
    assert first != open_images(write_idx(idx, images.flip(0), labels)).fingerprint()
    assert first != open_images(write_idx(idx, images, labels.flip(0))).fingerprint()
    folder = write_class_folders(tmp_path / "photos")
    photos = open_images(folder).fingerprint()
    assert photos == open_images(write_class_folders(tmp_path / "moved")).fingerprint()
    (folder / "cats" / "a.png").rename(folder / "dogs" / "a.png")
    assert photos != open_images(folder).fingerprint()


def test_unit_range() -> None:
    assert to_unit_range(torch.tensor([0, 255], dtype=torch.uint8)).tolist() == [-1, 1]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"data: expected a folder, got .*nowhere \(does not exist\)"):
        open_images(tmp_path / "nowhere")


def test_empty_folders(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match="expected Fashion-MNIST's idx files, tars, or a subfolder of images a class, found none"
    ):
        open_images(tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: expected images in every class folder, found none"):
        open_images(tmp_path)


def test_labels_and_images_of_different_number(tmp_path: Path) -> None:
    images, labels = pictures(4)
    with pytest.raises(DataError, match="expected images, and as many labels, got 4 and 3"):
        open_images(write_idx(tmp_path, images, labels[:3]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (gzip.compress(idx_bytes(np.zeros((4, 8, 8))))[:-12], "expected an idx file, but reading it failed"),
        (b"\x1f\x8b\x08" + b"\xff" * 40, "expected an idx file, but reading it failed"),
        (b"no gzip at all", "expected an idx file, but reading it failed"),
        (gzip.compress(idx_bytes(np.zeros((4, 8, 8)))[:-1]), r"expected 272 bytes for shape \[4, 8, 8\], got 271"),
        (
            gzip.compress(idx_bytes(np.zeros(4))),
            "expected an idx file of 3 dimensions, got header 000008010000000400000000",
        ),
        (gzip.compress(b"\x00\x00\x08\x03\x00"), "expected an idx file of 3 dimensions"),
        (gzip.compress(b""), "expected an idx file of 3 dimensions, got header"),
    ],
    # Named, because gzip writes the time into its bytes: ids made of those would differ between pytest's processes.
    ids=["cut gzip", "noise after gzip magic", "no gzip", "one byte short", "one dimension", "short header", "empty"],
)
def test_damaged_idx_file(tmp_path: Path, content: bytes, message: str) -> None:
    write_idx(tmp_path, *pictures(4))
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_images(tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_damaged_image_file(tmp_path: Path, share: float) -> None:
    source = open_images(write_class_folders(tmp_path), image_size=8)
    path = tmp_path / "dogs" / "c.PNG"
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(DataError, match=r"dogs/c\.PNG: expected a readable image"):
        list(source.batches(2))
    skipped: list[str] = []
    assert [len(batch) for batch in source.batches(2, skipped)] == [2, 1]
    assert len(skipped) == 1


def test_rectangular_idx_images(tmp_path: Path) -> None:
    images = pictures(2)[0][:, :4]
    source = open_images(write_idx(tmp_path, images, torch.zeros(2)))
    assert source.image_size == (4, 8)
    assert torch.equal(next(source.batches(2))[:, 0], images)
    assert source.read(0).size == (8, 4)


def test_rectangles_cut_from_files(tmp_path: Path) -> None:
    source = open_images(write_class_folders(tmp_path), image_size=(4, 6))
    assert source.image_size == (4, 6)
    assert [tuple(batch.shape) for batch in source.batches(3)] == [(3, 3, 4, 6), (1, 3, 4, 6)]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "data: expected folder or latents, got neither"),
        ({"folder": "photos"}, r"data: expected a folder, got photos \(does not exist\)"),
        ({"folder": "."}, "tokenizer: expected one for the images of folder, got None"),
        ({"latents": "store", "image_size": 0}, "image_size: expected an integer from 1 to 65536 or a list, got 0"),
        ({"latents": "store", "image_size": [8, 8, 8]}, r"image_size: expected a positive .*, got \[8, 8, 8\]"),
        ({"latents": "store", "image_channels": 2}, "image_channels: expected 1 or 3, got 2"),
        ({"latents": "store", "crops": -1}, "crops: expected an integer from 0 to 10000, got -1"),
        ({"latents": "store", "workers": 0}, "workers: expected an integer from 1 to 1024, got 0"),
        ({"latents": "store", "on_bad_image": "ask"}, "on_bad_image: expected fail or skip, got 'ask'"),
        ({"latents": "store", "dtype": "int8"}, "dtype: expected float32 or float16, got 'int8'"),
    ],
)
def test_options(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DataConfig(**fields)
