"""The latent store: what encoding writes and how it resumes, what training reads, and every way to be damaged."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from test_data import pictures, write_class_folders, write_idx
from torch import Tensor

from flowar.data.sources import open_images
from flowar.data.transforms import to_unit_range
from flowar.errors import DataError
from flowar.storage.checksums import read_sealed, write_sealed
from flowar.tokenizers.conv import ConvTokenizer
from flowar.tokenizers.pixel import PixelTokenizer
from flowar.training.data_config import DataConfig
from flowar.training.draws import Draws
from flowar.training.encoding import Encoder
from flowar.training.latent_store import LatentStore, Shard
from flowar.training.load_data import load_data


@pytest.fixture
def idx_folder(tmp_path: Path) -> Path:
    return write_idx(tmp_path / "idx", *pictures(40))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return write_class_folders(tmp_path / "photos")


@pytest.fixture
def conv_tokenizer(tmp_path: Path) -> Path:
    """A tokenizer with noise in its posterior, and with a network that tells left from right."""
    ConvTokenizer(3, 2, [8, 16]).save_pretrained(tmp_path / "conv")
    return tmp_path / "conv"


def config(folder: Path, **fields: Any) -> DataConfig:
    """Four shards of 40 images."""
    return DataConfig(**({"folder": str(folder), "tokenizer": "pixel:2", "image_size": 8, "shard_size": 10} | fields))


def load(output: Path, options: DataConfig) -> LatentStore:
    return load_data(options, output)[0]


def all_latents(store: LatentStore, epoch: int = 0) -> Tensor:
    indices = torch.arange(len(store))
    return store.batch(indices, Draws.for_images(0, epoch, indices))[0]


def shards(folder: Path) -> list[Path]:
    return sorted((folder / "latents").glob("shard_*"))


def edit_record(folder: Path, **fields: Any) -> None:
    path = folder / "latents" / "store.json"
    write_sealed(path, read_sealed(path) | fields)


def edit_shard(path: Path, edit: Callable[[Shard], None]) -> None:
    """Change a shard; its own checksum follows."""
    shard = Shard.open(path)
    shard.moments = shard.moments.clone()
    edit(shard)
    shard.save(path)


class TestEncoding:
    def test_pixels(self, idx_folder: Path, tmp_path: Path) -> None:
        store, tokenizer = load_data(config(idx_folder), tmp_path)
        assert (len(store), store.variants, store.channels, store.grid) == (40, 1, 4, (4, 4))
        images, labels = pictures(40)
        assert torch.equal(store.labels, labels.long())
        assert torch.equal(all_latents(store), tokenizer.encode(to_unit_range(images[:, None])))
        assert all_latents(store).mean((0, 2, 3)).abs().max() < 1e-5
        assert store.class_names[9] == "Ankle boot"
        assert store.nbytes == 40 * 64 * 4  # no standard deviations, which are 0
        assert [path.name for path in shards(tmp_path)] == [f"shard_0000{number}.safetensors" for number in range(4)]

    def test_variants_are_encodings_of_the_flipped_and_cropped_image(
        self, photos: Path, conv_tokenizer: Path, tmp_path: Path
    ) -> None:
        options = config(photos, tokenizer=str(conv_tokenizer), crops=1, shard_size=3, encode_batch=5)
        store, tokenizer = load_data(options, tmp_path)
        (images,) = open_images(photos, image_size=8).batches(4)
        moments = torch.cat([shard.moments for shard in store.shards])
        assert moments.shape == (4, 3, 2, 2, 4, 4)
        for variant, pixels in enumerate((images, images.flip(3))):
            expected = tokenizer.posterior(to_unit_range(pixels))
            torch.testing.assert_close(moments[:, variant], torch.stack(expected, 1))
        assert (moments[:, 1] - moments[:, 0].flip(-1)).abs().max() > 0.01
        assert (moments[:, 2] - moments[:, 0]).abs().flatten(1).amax(1)[1] > 0.01  # the second image is larger than 8x8

    def test_rectangles(self, photos: Path, conv_tokenizer: Path, tmp_path: Path) -> None:
        """Twice as wide as high; the store knows the size, and goes on where it was interrupted."""
        options = config(photos, tokenizer=str(conv_tokenizer), image_size=[8, 16], crops=1, shard_size=3)
        store, tokenizer = load_data(options, tmp_path)
        assert (store.grid, store.key["image_size"]) == ((4, 8), [8, 16])
        (images,) = open_images(photos, image_size=(8, 16)).batches(4)
        expected = torch.stack(tokenizer.posterior(to_unit_range(images)), 1)
        torch.testing.assert_close(torch.cat([shard.moments for shard in store.shards])[:, 0], expected)
        (tmp_path / "latents" / "store.json").unlink()
        assert torch.equal(all_latents(load(tmp_path, options)), all_latents(store))
        with pytest.raises(DataError, match=r"latents of image_size \[16, 8\], got \[8, 16\]; remove them"):
            load(tmp_path, config(photos, tokenizer=str(conv_tokenizer), image_size=(16, 8), crops=1, shard_size=3))

    def test_float16(self, idx_folder: Path, tmp_path: Path) -> None:
        exact, rounded = (load(tmp_path / dtype, config(idx_folder, dtype=dtype)) for dtype in ("float32", "float16"))
        assert exact.nbytes == 2 * rounded.nbytes
        torch.testing.assert_close(all_latents(rounded), all_latents(exact), rtol=2**-11, atol=1e-7)
        assert all_latents(rounded).dtype == torch.float32

    def test_a_complete_store_is_only_opened(
        self, idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = all_latents(load(tmp_path, config(idx_folder)))
        monkeypatch.setattr(PixelTokenizer, "_posterior", None)  # from here on nothing can be encoded or calibrated
        assert torch.equal(all_latents(load(tmp_path, config(idx_folder))), first)
        store = str(tmp_path / "latents")
        for tokenizer in (None, "pixel:2", str(tmp_path / "latents" / "tokenizer")):
            alone, found = load_data(DataConfig(latents=store, tokenizer=tokenizer), tmp_path / "elsewhere")
            assert torch.equal(all_latents(alone), first)
            assert found.record() == alone.key["tokenizer"]

    def test_interrupted_encoding_resumes(
        self, idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = all_latents(load(tmp_path / "whole", config(idx_folder)))
        with monkeypatch.context() as patch:
            patch.setattr(Encoder, "write", interrupted_at(2))
            with pytest.raises(KeyboardInterrupt):
                load(tmp_path, config(idx_folder))
        assert len(shards(tmp_path)) == 2
        assert not LatentStore.complete(tmp_path / "latents")
        with pytest.raises(DataError, match=r"latents: expected a complete store, found no store\.json in .*latents"):
            LatentStore.open(tmp_path / "latents")
        kept = [path.stat().st_mtime_ns for path in shards(tmp_path)]
        (tmp_path / "latents" / ".shard_00002.safetensors.1.part").write_text("left by a killed process")
        assert torch.equal(all_latents(load(tmp_path, config(idx_folder))), whole)
        assert [path.stat().st_mtime_ns for path in shards(tmp_path)][:2] == kept
        assert not [*tmp_path.rglob("*.part")]

    @pytest.mark.parametrize("damage", ["truncated", "flipped bit", "garbage"])
    def test_damaged_shards_are_encoded_again(
        self, idx_folder: Path, tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        whole = all_latents(load(tmp_path, config(idx_folder)))
        (tmp_path / "latents" / "store.json").unlink()
        content = bytearray(shards(tmp_path)[1].read_bytes())
        content[-1] ^= 1
        changed = {"truncated": bytes(content[:-100]), "flipped bit": bytes(content), "garbage": b"garbage"}[damage]
        shards(tmp_path)[1].write_bytes(changed)
        assert torch.equal(all_latents(load(tmp_path, config(idx_folder))), whole)
        assert "shard_00001.safetensors: expected" in caplog.text
        assert "encoding it again" in caplog.text

    def test_shards_of_another_size_are_encoded_again(self, idx_folder: Path, tmp_path: Path) -> None:
        whole = all_latents(load(tmp_path, config(idx_folder)))
        (tmp_path / "latents" / "store.json").unlink()
        assert torch.equal(all_latents(load(tmp_path, config(idx_folder, shard_size=25))), whole)
        assert len(shards(tmp_path)) == 2

    def test_full_disk(
        self, idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
    ) -> None:
        with monkeypatch.context() as patch:
            patch.setattr(Encoder, "write", interrupted_at(2))
            with pytest.raises(KeyboardInterrupt):
                load(tmp_path, config(idx_folder))
        before = {path: path.read_bytes() for path in shards(tmp_path)}
        request.getfixturevalue("full_disk")
        with pytest.raises(OSError, match=r"shard_00002\.safetensors: writing failed"):
            load(tmp_path, config(idx_folder))
        assert {path: path.read_bytes() for path in shards(tmp_path)} == before
        assert not [*tmp_path.rglob("*.part")]

    @pytest.mark.slow
    def test_several_processes_write_the_same(self, photos: Path, conv_tokenizer: Path, tmp_path: Path) -> None:
        (photos / "cats" / "b.png").write_bytes(b"no image")
        options = config(photos, tokenizer=str(conv_tokenizer), crops=1, shard_size=1, on_bad_image="skip")
        alone, together = (load(tmp_path / str(n), replace(options, workers=n)) for n in (1, 2))
        torch.testing.assert_close(all_latents(together), all_latents(alone))
        assert together.skipped == alone.skipped
        assert len(together.skipped) == 1

    @pytest.mark.slow
    def test_error_in_a_process(self, photos: Path, tmp_path: Path) -> None:
        (photos / "dogs" / "c.PNG").write_bytes(b"no image")
        PixelTokenizer(3, 2).save_pretrained(tmp_path / "pixel")
        options = config(photos, tokenizer=str(tmp_path / "pixel"), shard_size=1, workers=2)
        with pytest.raises(DataError, match=r"dogs/c\.PNG: expected a readable image"):
            load(tmp_path, options)
        assert not LatentStore.complete(tmp_path / "latents")

    @pytest.mark.slow
    def test_killed_process(self, photos: Path, tmp_path: Path) -> None:
        """Neither does the parent wait for ever, nor do the shards that are done get lost."""
        load(tmp_path, config(photos, shard_size=1))
        (tmp_path / "latents" / "store.json").unlink()
        for path in shards(tmp_path)[1:]:
            path.unlink()
        code = f"""if True:
            import os
            from pathlib import Path
            from flowar.training import encoding
            from flowar.training.load_data import load_data
            from flowar.training.data_config import DataConfig
            class Killed(encoding.Encoder):
                def write(self, number):
                    os.kill(os.getpid(), 9)
            encoding.Encoder = Killed
            if __name__ == "__main__":
                options = DataConfig({str(photos)!r}, "pixel:2", image_size=8, shard_size=1, workers=2)
                load_data(options, Path({str(tmp_path)!r}))
        """
        script = tmp_path / "script.py"
        script.write_text(code)
        done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
        assert "a worker process was killed" in done.stderr
        assert len(shards(tmp_path)) == 1


def interrupted_at(shard: int) -> Any:
    """`Encoder.write`, until Ctrl-C comes in shard number `shard`."""
    write = Encoder.write

    def until(encoder: Encoder, number: int) -> list[str]:
        if number == shard:
            raise KeyboardInterrupt
        return write(encoder, number)

    return until


class TestBadImages:
    def test_fatal_by_default(self, photos: Path, tmp_path: Path) -> None:
        (photos / "cats" / "b.png").write_bytes((photos / "cats" / "b.png").read_bytes()[:60])
        with pytest.raises(DataError, match=r"cats/b\.png: expected a readable image \(.*truncated"):
            load(tmp_path, config(photos))

    def test_skipped(self, photos: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (photos / "cats" / "b.png").write_bytes(b"no image")
        store = load(tmp_path, config(photos, on_bad_image="skip", shard_size=2))
        assert store.labels.tolist() == [0, 1, 1]
        assert [reason.partition(":")[0] for reason in store.skipped] == [str(photos / "cats" / "b.png")]
        assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
            f"skipped {store.skipped[0]}"
        ]
        record = json.loads((tmp_path / "latents" / "store.json").read_text())
        assert (record["images"], record["skipped"]) == (3, store.skipped)
        load(tmp_path, config(photos, shard_size=2))  # it is complete, so that nothing is read again

    def test_a_shard_of_bad_images_only(self, photos: Path, tmp_path: Path) -> None:
        for name in ("a", "b"):
            (photos / "cats" / f"{name}.png").write_bytes(b"no image")
        store = load(tmp_path, config(photos, on_bad_image="skip", shard_size=2))
        assert [len(shard.labels) for shard in store.shards] == [0, 2]
        assert all_latents(store).shape == (2, 12, 4, 4)

    def test_no_readable_image(self, photos: Path, conv_tokenizer: Path, tmp_path: Path) -> None:
        for path in photos.rglob("*.[pP]*"):
            path.write_bytes(b"no image")
        with pytest.raises(DataError, match=r"expected a readable image, found none; .*cats/a\.png"):
            load(tmp_path, config(photos, tokenizer=str(conv_tokenizer), on_bad_image="skip"))

    def test_what_was_skipped_is_tried_again_where_it_must_not_be(self, photos: Path, tmp_path: Path) -> None:
        content = (photos / "cats" / "b.png").read_bytes()
        (photos / "cats" / "b.png").write_bytes(b"no image")
        PixelTokenizer(3, 2).save_pretrained(tmp_path / "pixel")
        options = config(photos, tokenizer=str(tmp_path / "pixel"), on_bad_image="skip")
        load(tmp_path, options)
        (tmp_path / "latents" / "store.json").unlink()
        with pytest.raises(DataError, match=r"cats/b\.png: expected a readable image"):
            load(tmp_path, replace(options, on_bad_image="fail"))
        (photos / "cats" / "b.png").write_bytes(content)
        assert len(load(tmp_path, replace(options, on_bad_image="fail"))) == 4

    @pytest.mark.parametrize(
        ("value", "dtype", "message"),
        [
            (float("nan"), "float32", r"image 13: expected finite latents, got NaN or infinity from the tokenizer"),
            (1e6, "float16", r"image 13: expected latents that float16 holds, got 1e\+06"),
        ],
    )
    def test_latents_that_cannot_be_stored(
        self,
        idx_folder: Path,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
        value: float,
        dtype: Any,
        message: str,
    ) -> None:
        PixelTokenizer(1, 2).save_pretrained(tmp_path / "pixel")
        posterior, chosen = PixelTokenizer._posterior, to_unit_range(pictures(40)[0][13, None])

        def broken(self: PixelTokenizer, images: Tensor) -> tuple[Tensor, Tensor]:
            mean, std = posterior(self, images)
            mean[[torch.equal(image, chosen) for image in images]] = value
            return mean, std

        monkeypatch.setattr(PixelTokenizer, "_posterior", broken)
        with pytest.raises(DataError, match=message):
            load(tmp_path, config(idx_folder, tokenizer=str(tmp_path / "pixel"), dtype=dtype))
        assert len(shards(tmp_path)) == 1


class TestBatch:
    def store(self, moments: Tensor, shard_size: int = 4) -> LatentStore:
        labels = torch.arange(len(moments))
        parts = zip(moments.split(shard_size), labels.split(shard_size), strict=True)
        return LatentStore(Path("store"), {}, (), [Shard(*part, {}, 0, []) for part in parts], labels)

    def test_images_of_all_shards_in_any_order(self) -> None:
        store = self.store(torch.arange(10.0).view(10, 1, 1, 1, 1, 1).expand(-1, -1, -1, 2, 3, 4))
        indices = torch.tensor([9, 0, 4, 3, 7, 8, 9])
        latents, labels = store.batch(indices, Draws.for_images(0, 0, indices))
        assert latents.shape == (7, 2, 3, 4)
        assert latents[:, 0, 0, 0].tolist() == labels.tolist() == indices.tolist()

    def test_latents_are_drawn_from_the_posterior(self) -> None:
        moments = torch.stack([torch.full((2, 4, 4), 3.0), torch.full((2, 4, 4), 0.5)])[None, None]
        store, indices = self.store(moments), torch.zeros(500, dtype=torch.int64)
        latents, _ = store.batch(indices, Draws.for_images(0, 0, torch.arange(500)))
        assert latents.mean() == pytest.approx(3, abs=0.02)
        assert latents.std() == pytest.approx(0.5, abs=0.02)

    def test_variants_are_drawn_evenly(self) -> None:
        store = self.store(torch.arange(3.0).view(1, 3, 1, 1, 1, 1))
        latents, _ = store.batch(torch.zeros(3000, dtype=torch.int64), Draws.for_images(0, 0, torch.arange(3000)))
        assert latents.flatten().long().bincount().tolist() == pytest.approx([1000] * 3, abs=100)

    def test_every_epoch_draws_afresh_and_the_same_draws_give_the_same(self) -> None:
        store = self.store(torch.randn(10, 2, 2, 1, 4, 4).abs())
        assert torch.equal(all_latents(store, 1), all_latents(store, 1))
        assert not torch.equal(all_latents(store, 1), all_latents(store, 2))
        some = torch.tensor([7, 2])
        assert torch.equal(store.batch(some, Draws.for_images(0, 1, some))[0], all_latents(store, 1)[some])

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_not_finite(self, value: float) -> None:
        moments = torch.zeros(10, 1, 1, 1, 2, 2)
        moments[6, 0, 0, 0, 1, 1] = value
        store = self.store(moments)
        store.batch(torch.tensor([5, 7]), Draws.for_images(0, 0, torch.arange(2)))
        with pytest.raises(
            DataError, match=r"shard_00001\.safetensors: expected finite latents, .* image 2 of the shard"
        ):
            store.batch(torch.tensor([5, 6]), Draws.for_images(0, 0, torch.arange(2)))

    def test_only_the_pages_of_a_batch_are_read(self, tmp_path: Path) -> None:
        """A batch of a 64 MiB shard adds less than 8 MiB to the process."""

        def resident() -> float:
            return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20

        path = tmp_path / "shard.safetensors"
        Shard(torch.zeros(1024, 1, 1, 16, 32, 32), torch.arange(1024), {}, 0, []).save(path)
        before = resident()
        shard = Shard.open(path)
        store = LatentStore(tmp_path, {}, (), [shard], shard.labels)
        store.batch(torch.tensor([3, 500, 900, 20]), Draws.for_images(0, 0, torch.arange(4)))
        assert resident() - before < 8
        shard.checksum()
        assert resident() - before > 60  # so that what was measured is what was meant


class TestRefused:
    def test_another_tokenizer(self, idx_folder: Path, tmp_path: Path) -> None:
        load(tmp_path, config(idx_folder))
        with pytest.raises(DataError, match=r"latents: made by another tokenizer; expected pixel:4, got pixel:2"):
            load(tmp_path, config(idx_folder, tokenizer="pixel:4"))
        PixelTokenizer(1, 2).save_pretrained(tmp_path / "uncalibrated")
        for options in (
            config(idx_folder, tokenizer=str(tmp_path / "uncalibrated")),
            DataConfig(latents=str(tmp_path / "latents"), tokenizer=str(tmp_path / "uncalibrated")),
        ):
            with pytest.raises(DataError, match=r"latents: made by another tokenizer; tokenizer: expected mean"):
                load(tmp_path, options)

    @pytest.mark.parametrize(
        ("fields", "name"),
        [
            ({"image_size": 4}, "image_size 4, got 8"),
            ({"flips": False}, "flips False, got True"),
            ({"crops": 1}, "crops 1, got 0"),
        ],
    )
    def test_encoded_in_another_way(self, photos: Path, tmp_path: Path, fields: dict[str, Any], name: str) -> None:
        load(tmp_path, config(photos))
        with pytest.raises(DataError, match=f"latents: expected latents of {name}; remove them or name another folder"):
            load(tmp_path, config(photos, **fields))

    @pytest.mark.parametrize("complete", [True, False])
    def test_other_images(self, idx_folder: Path, tmp_path: Path, complete: bool) -> None:
        load(tmp_path, config(idx_folder))
        if not complete:
            (tmp_path / "latents" / "store.json").unlink()
        before = {path: path.read_bytes() for path in (tmp_path / "latents").rglob("*.*")}
        PixelTokenizer(1, 2).save_pretrained(tmp_path / "pixel")
        write_idx(idx_folder, pictures(40)[0].flip(0), pictures(40)[1])
        where = "latents" if complete else r"shard_00000\.safetensors"
        with pytest.raises(DataError, match=f"{where}: expected latents of fingerprint .*, got .*; remove them"):
            load(tmp_path, config(idx_folder))
        assert {path: path.read_bytes() for path in (tmp_path / "latents").rglob("*.*")} == before

    def test_labels_without_a_class(self, idx_folder: Path, tmp_path: Path) -> None:
        with pytest.raises(DataError, match=r"num_classes: expected at least 10 for .*idx, got 9"):
            load_data(config(idx_folder), tmp_path, num_classes=9)
        assert not (tmp_path / "latents").exists()
        load_data(config(idx_folder), tmp_path, num_classes=10)
        with pytest.raises(DataError, match=r"num_classes: expected at least 10 for .*latents, got 9"):
            load_data(DataConfig(latents=str(tmp_path / "latents")), tmp_path, num_classes=9)

    def test_image_size_that_the_stride_does_not_divide(self, photos: Path, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"images: expected .* multiples of 2, got"):
            load(tmp_path, config(photos, image_size=7))

    def test_damaged_shards(self, idx_folder: Path, tmp_path: Path) -> None:
        load(tmp_path, config(idx_folder))
        folder, path = tmp_path / "latents", shards(tmp_path)[2]
        whole = path.read_bytes()
        path.write_bytes(whole[:-10])
        with pytest.raises(DataError, match=r"shard_00002\.safetensors: expected a safetensors file, but"):
            LatentStore.open(folder, verify=False)
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        LatentStore.open(folder, verify=False)
        with pytest.raises(
            DataError, match=r"shard_00002\.safetensors: expected checksum .*, got .*; to mend it, remove"
        ):
            LatentStore.open(folder)
        path.unlink()
        with pytest.raises(DataError, match=r"shard_00002\.safetensors: expected a safetensors file, .*No such file"):
            LatentStore.open(folder)

    def test_checksums_of_small_stores_alone(
        self, idx_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """To read all of 2 GiB or more would take seconds at every start."""
        load(tmp_path, config(idx_folder))
        path = shards(tmp_path)[1]
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        monkeypatch.setattr(LatentStore, "nbytes", 2**31)
        LatentStore.open(tmp_path / "latents")
        monkeypatch.setattr(LatentStore, "nbytes", 2**31 - 1)
        with pytest.raises(DataError, match=r"shard_00001\.safetensors: expected checksum"):
            LatentStore.open(tmp_path / "latents")

    def test_shard_of_another_store(self, idx_folder: Path, tmp_path: Path) -> None:
        load(tmp_path, config(idx_folder))
        path = shards(tmp_path)[0]
        whole = path.read_bytes()

        def other_key(shard: Shard) -> None:
            shard.key = {**shard.key, "crops": 3}

        def fewer(shard: Shard) -> None:
            shard.moments, shard.labels = shard.moments[:5].clone(), shard.labels[:5].clone()
            assert shard.pictures is not None
            shard.pictures = shard.pictures[:5].clone()

        def other_values(shard: Shard) -> None:
            shard.moments[0] += 1

        for edit, message in ((other_key, "key"), (fewer, "images 10, got 5"), (other_values, "crc32")):
            path.write_bytes(whole)
            edit_shard(path, edit)
            with pytest.raises(DataError, match=rf"shard_00000\.safetensors: expected {message}.*to mend it"):
                LatentStore.open(tmp_path / "latents", verify=False)

    @pytest.mark.parametrize("stamps", [torch.zeros(9, 3).long(), torch.zeros(10, 2).long(), torch.zeros(10, 3)])
    def test_stamps_that_are_none(self, stamps: Tensor, idx_folder: Path, tmp_path: Path) -> None:
        load(tmp_path, config(idx_folder))
        path = shards(tmp_path)[0]
        shard = Shard.open(path)
        shard.pictures = stamps
        shard.save(path)
        with pytest.raises(DataError, match=r"shard_00000\.safetensors: expected pictures \[10, 3\] of torch\.int64"):
            LatentStore.open(path.parent)

    def test_moments_of_integers(self, idx_folder: Path, tmp_path: Path) -> None:
        load(tmp_path, config(idx_folder))
        path = shards(tmp_path)[0]
        shard = Shard.open(path)
        shard.moments = shard.moments.long()
        shard.save(path)
        with pytest.raises(DataError, match="expected a shard of latents, moments of 6 dimensions and labels, got"):
            LatentStore.open(path.parent)

    def test_another_name_of_a_tensor(self, idx_folder: Path, tmp_path: Path) -> None:
        load(tmp_path, config(idx_folder))
        path = shards(tmp_path)[0]
        path.write_bytes(path.read_bytes().replace(b'"pictures":{', b'"picturex":{'))
        with pytest.raises(DataError, match=r"damaged: expected checksum .* of names and metadata"):
            LatentStore.open(path.parent)

    def test_damaged_record(self, idx_folder: Path, tmp_path: Path) -> None:
        load(tmp_path, config(idx_folder))
        path = tmp_path / "latents" / "store.json"
        whole = path.read_text()
        edit_record(tmp_path, format=2)
        with pytest.raises(DataError, match=r"store\.json: expected a latent store of format 1, got 2"):
            LatentStore.open(path.parent)
        path.write_text(whole.replace("Ankle boot", "Ankle root"))
        with pytest.raises(DataError, match=r"store\.json: damaged: expected checksum [0-9a-f]{8}, got"):
            LatentStore.open(path.parent)
        path.write_text('{"format": 1, "key": {}}')
        with pytest.raises(DataError, match=r"store\.json: expected moments, found format, key"):
            LatentStore.open(path.parent)
        path.write_text(whole[:100])
        with pytest.raises(DataError, match=r"store\.json: expected a JSON object"):
            LatentStore.open(path.parent)


class TestReplacedPictures:
    @pytest.fixture
    def photos(self, tmp_path: Path) -> Path:
        """Two classes of five pictures, all files of one length."""
        for number in range(10):
            path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.bmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (20 * number, 255 - 20 * number, 9 + number)).save(path)
        return tmp_path / "photos"

    def test_one_that_is_too_large_to_be_one(self, photos: Path, tmp_path: Path) -> None:
        """It is skipped, without its terabyte being read."""
        os.truncate(photos / "a" / "0.bmp", 2**40)
        load(tmp_path, config(photos, tokenizer="pixel:2", on_bad_image="skip"))
        shard = Shard.open(shards(tmp_path)[0])
        assert shard.pictures is not None
        assert (shard.pictures[:, 2] == -1).sum() == 1

    def replace(self, path: Path) -> None:
        time = path.stat().st_mtime_ns + 10**9
        Image.new("RGB", (8, 8), (1, 2, 3)).save(path)
        os.utime(path, ns=(time, time))

    @pytest.mark.parametrize("tokenizer", ["pixel:2", "stored"])
    def test_its_shard_is_encoded_again(
        self, photos: Path, tmp_path: Path, tokenizer: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        PixelTokenizer(3, 2).save_pretrained(tmp_path / "stored")
        options = config(photos, tokenizer=tokenizer.replace("stored", str(tmp_path / "stored")), shard_size=4)
        before = all_latents(load(tmp_path, options))
        kept = [path.stat().st_mtime_ns for path in shards(tmp_path)]
        self.replace(photos / "b" / "1.bmp")  # number 5, of the second shard
        with caplog.at_level(logging.WARNING):
            after = all_latents(load(tmp_path, options))
        assert "b/1.bmp: changed since it was encoded; encoding" in caplog.text
        assert "shard_00001.safetensors again" in caplog.text
        assert [bool((one != other).any()) for one, other in zip(before, after, strict=True)] == [
            number == 5 for number in range(10)
        ]
        now = [path.stat().st_mtime_ns for path in shards(tmp_path)]
        assert [one == other for one, other in zip(kept, now, strict=True)] == [True, False, True]
        caplog.clear()
        load(tmp_path, options)
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

    def test_interrupted_on_the_way(self, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        options = config(photos, shard_size=4)
        load(tmp_path, options)
        self.replace(photos / "b" / "1.bmp")
        with monkeypatch.context() as patch:
            patch.setattr(Encoder, "write", interrupted_at(1))
            with pytest.raises(KeyboardInterrupt):
                load(tmp_path, options)
        self.replace(photos / "b" / "3.bmp")
        assert len(load(tmp_path, options)) == 10

    def test_a_copy_of_the_folder_is_the_same(
        self, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        load(tmp_path, config(photos))
        monkeypatch.setattr(PixelTokenizer, "_posterior", None)
        shutil.copytree(photos, tmp_path / "copy", copy_function=shutil.copyfile)
        load(tmp_path, config(tmp_path / "copy"))

    def test_a_picture_that_was_unreadable(self, photos: Path, tmp_path: Path) -> None:
        content = (photos / "a" / "0.bmp").read_bytes()
        (photos / "a" / "0.bmp").write_bytes(b"no image")
        assert len(load(tmp_path, config(photos, on_bad_image="skip"))) == 9
        (photos / "a" / "0.bmp").write_bytes(content)
        assert len(load(tmp_path, config(photos, on_bad_image="skip"))) == 10

    def test_in_a_tar(self, photos: Path, tmp_path: Path) -> None:
        tar = tmp_path / "photos.tar"

        def pack(number: int) -> None:
            with tarfile.open(tar, "w") as file:
                for path in sorted(photos.glob("a/*.bmp")):
                    file.add(path, path.name)
                    label = tarfile.TarInfo(f"{path.stem}.cls")
                    label.size = 1
                    file.addfile(label, io.BytesIO(b"0"))
            os.utime(tar, (number, number))

        pack(1)
        first = all_latents(load(tmp_path, config(tar, shard_size=2)))
        kept = [path.stat().st_mtime_ns for path in shards(tmp_path)]
        self.replace(photos / "a" / "4.bmp")
        pack(2)
        second = all_latents(load(tmp_path, config(tar, shard_size=2)))
        assert [bool((one != other).any()) for one, other in zip(first, second, strict=True)] == [0, 0, 1, 0, 0]
        now = [path.stat().st_mtime_ns for path in shards(tmp_path)]
        assert [one == other for one, other in zip(kept, now, strict=True)] == [True, False, True]

    def test_older_stores_do_not_know(self, photos: Path, tmp_path: Path) -> None:
        load(tmp_path, config(photos))
        (path,) = shards(tmp_path)

        def forget(shard: Shard) -> None:
            shard.pictures = None

        edit_shard(path, forget)
        self.replace(photos / "b" / "1.bmp")
        before = path.read_bytes()
        load(tmp_path, config(photos))
        assert path.read_bytes() == before
