"""Evaluations: cards, interruptions, several processes, references of every kind, comparisons, bad input."""

from __future__ import annotations

import json
import logging
import math
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from evaluation_runs import PATHS, run, write_material
from PIL import Image
from test_data import write_class_folders
from test_evaluation_extractors import StandIn
from torch import Tensor

from flowar import FlowARPipeline
from flowar.errors import CheckpointError, DataError, FlowARError
from flowar.evaluation.card import markdown, read_card
from flowar.evaluation.compare import compare_cards
from flowar.evaluation.extractors import Extractor, open_extractor
from flowar.evaluation.images import GeneratedImages, open_stored
from flowar.evaluation.measure import Measurement, share
from flowar.evaluation.reference import open_reference
from flowar.evaluation.run import EvaluationConfig
from flowar.evaluation.settings import differences
from flowar.storage.weights import save_tensors
from flowar.system.ranks import Ranks

CPU = torch.device("cpu")
METRICS = ["FD-fashion", "sFD-fashion", "IS-fashion", "KD-fashion", "precision", "recall", "class agreement"]


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return write_material(tmp_path_factory.mktemp("material"))


@pytest.fixture(scope="module")
def card(material: dict[str, Any]) -> dict[str, Any]:
    return run(material)


@pytest.fixture
def config(material: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    return material | {"output": tmp_path / "evaluation"}


@pytest.fixture
def fashion(material: dict[str, Any]) -> Extractor:
    return open_extractor("fashion", CPU, material["classifier"])


@pytest.fixture
def inception(monkeypatch: pytest.MonkeyPatch) -> Extractor:
    """Inception with the network of another test."""
    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return open_extractor("inception", CPU)


def values(card: dict[str, Any]) -> dict[str, float]:
    return {name: found["value"] for name, found in card["metrics"].items()}


def reference_of(source: Path | str, extractor: Extractor, folder: Path) -> Any:
    return open_reference(str(source), extractor, folder, Ranks(CPU), 7, None, "train")


class TestCard:
    def test_metrics(self, card: dict[str, Any]) -> None:
        assert [*card["metrics"]] == METRICS
        assert card["unavailable"] == {}
        for found in card["metrics"].values():
            low, high = found["interval"]
            assert low <= found["value"] <= high

    def test_settings(self, card: dict[str, Any], material: dict[str, Any]) -> None:
        settings = card["settings"]
        assert settings["images"]["seeds"] == [0, 23]
        assert settings["schedule"]["times"] == (1.0, 0.5, 0.0)
        assert [*settings["schedule"]["guidance_weights"]] == ["scale_0", "scale_1", "scale_2"]
        assert settings["tokenizer"]["kind"] == "pixel"
        assert settings["reference"]["count"] == 40
        assert len(settings["model"]["weights"]) == 16
        assert {"flowar", "commit", "torch"} <= {*settings["code"]}

    def test_files(self, card: dict[str, Any], material: dict[str, Any]) -> None:
        written = read_card(material["output"])
        assert written["metrics"] == card["metrics"]
        assert not differences(written["settings"], card["settings"])
        text = (material["output"] / "card.md").read_text()
        assert text == markdown(card)
        assert all(f"| {name} |" in text for name in [*METRICS, "schedule.times", "extractor.weights"])

    def test_few_images_are_warned_about(self, config: dict[str, Any], caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            found = run(config | {"bootstrap": 0})
        (pooled, _) = found["warnings"]
        assert "FD-fashion: 24 images for 128 feature dimensions: the covariance is singular" in pooled
        assert "biased upwards" in pooled
        assert pooled in caplog.messages
        assert all(metric["interval"] is None for metric in found["metrics"].values())

    @pytest.mark.parametrize("content", ['{"format": "other"}', "[]", "{", '{"format": "flowar-evaluation-card"}'])
    def test_file_that_is_no_card(self, tmp_path: Path, content: str) -> None:
        path = tmp_path / "card.json"
        path.write_text(content)
        with pytest.raises(FlowARError, match=r"card.json: expected (an evaluation card|a JSON object|settings)"):
            read_card(path)


class TestChunks:
    def test_interruption(self, card: dict[str, Any], config: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
        read, begun = GeneratedImages.read, []

        def interrupted(images: GeneratedImages, begin: int, end: int) -> Tensor:
            begun.append(begin)
            if len(begun) == 3:
                raise KeyboardInterrupt
            return read(images, begin, end)

        monkeypatch.setattr(GeneratedImages, "read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(config)
        assert not (config["output"] / "card.json").exists()
        again = run(config)
        assert begun == [0, 5, 10, 10, 15, 20]
        assert again["metrics"] == card["metrics"]
        run(config | {"bootstrap": 0})
        assert len(begun) == 6  # the features are there

    def test_a_damaged_chunk_is_computed_again(
        self, card: dict[str, Any], config: dict[str, Any], caplog: pytest.LogCaptureFixture
    ) -> None:
        run(config | {"bootstrap": 0})
        path = next(config["output"].rglob("chunk_00000010.safetensors"))
        whole = path.read_bytes()
        path.write_bytes(whole[:-9] + bytes([whole[-9] ^ 4]) + whole[-8:])
        assert run(config)["metrics"] == card["metrics"]
        assert "chunk_00000010.safetensors: damaged: tensor" in caplog.text
        assert path.read_bytes() == whole

    def test_other_settings_in_the_same_folder(self, config: dict[str, Any]) -> None:
        run(config | {"bootstrap": 0})
        with pytest.raises(
            FlowARError, match=r"expected features of schedule.times .* found those of .*another folder"
        ):
            run(config | {"num_inference_steps": 3})

    def test_other_settings_leave_all_as_it_is(self, config: dict[str, Any]) -> None:
        """The reference's features, which are kept there as well, too."""
        config |= {"bootstrap": 0}
        run(config)
        before = {path: path.read_bytes() for path in config["output"].rglob("*") if path.is_file()}
        with pytest.raises(FlowARError, match="another folder"):
            run(config | {"seed": 7, "batch_size": 7})
        assert {path: path.read_bytes() for path in config["output"].rglob("*") if path.is_file()} == before

    def test_settings_without_features_are_forgotten(
        self, config: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Those of an evaluation that failed at its first image."""

        def failed(*_: object) -> Tensor:
            raise DataError("no image")

        with monkeypatch.context() as patch:
            patch.setattr(GeneratedImages, "read", failed)
            with pytest.raises(DataError, match="no image"):
                run(config)
        assert run(config | {"num_inference_steps": 3, "bootstrap": 0})["metrics"]

    @pytest.mark.parametrize("share", [0, 1])
    def test_every_rank_has_its_chunks(
        self, config: dict[str, Any], fashion: Extractor, monkeypatch: pytest.MonkeyPatch, share: int
    ) -> None:
        """A rank of two, as if the other had done nothing yet."""
        from flowar.evaluation import features

        monkeypatch.setattr(Ranks, "wait_for_all", lambda ranks: None)
        monkeypatch.setattr(Ranks, "_tell", lambda ranks, value: None)
        monkeypatch.setattr(Ranks, "_hear", lambda ranks: None)
        images = open_stored(config["reference"], 1)
        features.extract(images, fashion, config["output"], {}, Ranks(CPU, share, 2), 7, "")
        starts = [int(path.stem.split("_")[1]) for path in sorted(config["output"].glob("chunk_*"))]
        assert starts == [[0, 14, 28], [7, 21, 35]][share]

    @pytest.mark.slow
    def test_two_processes(self, card: dict[str, Any], config: dict[str, Any], tmp_path: Path) -> None:
        path = tmp_path / "config.json"
        path.write_text(json.dumps(config | {name: str(config[name]) for name in PATHS}))
        program = str(Path(__file__).with_name("evaluation_runs.py"))
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        done = subprocess.run(
            [sys.executable, *launcher, program, str(path)], capture_output=True, text=True, timeout=600
        )
        assert done.returncode == 0, done.stderr[-4000:]
        assert values(read_card(config["output"])) == pytest.approx(values(card), rel=1e-3)


class TestImages:
    def test_saved_images_are_what_was_measured(
        self, card: dict[str, Any], config: dict[str, Any], tmp_path: Path
    ) -> None:
        run(config | {"save_images": True, "bootstrap": 0})
        folder = config["output"] / "images"
        assert [path.name for path in sorted(folder.iterdir())] == [f"{label:04d}" for label in range(10)]
        assert Image.open(folder / "0003" / "000013.png").size == (28, 28)
        found = run(config | {"images": str(folder), "output": tmp_path / "again", "bootstrap": 0})
        for name in (
            "FD-fashion",
            "sFD-fashion",
            "precision",
            "recall",
            "class agreement",
        ):  # in which order has no part
            assert values(found)[name] == pytest.approx(values(card)[name], rel=1e-3)

    def test_image_depends_on_its_number_alone(self, config: dict[str, Any]) -> None:
        pipeline = FlowARPipeline.from_pretrained(config["model"])
        rest = (tuple(range(10)), pipeline.model.schedule())
        early = GeneratedImages(pipeline, 24, *rest, 0, "float32").read(20, 24)
        late = GeneratedImages(pipeline, 4, *rest, 20, "float32").read(0, 4)
        assert (early.int() - late.int()).abs().max() <= 1  # rounding differs with the batch

    def test_flat_folder(self, config: dict[str, Any], tmp_path: Path) -> None:
        folder = tmp_path / "flat"
        folder.mkdir()
        pixels = np.random.default_rng(0).integers(0, 256, (12, 28, 28), np.uint8)
        for index, image in enumerate(pixels):
            Image.fromarray(image).save(folder / f"{index:02d}.png")
        images = open_stored(str(folder), 1)
        assert torch.equal(images.read(3, 5)[:, 0], torch.from_numpy(pixels[3:5]))
        assert images.labels is None
        found = run(config | {"images": str(folder), "bootstrap": 0})
        assert found["unavailable"] == {"class agreement": "the images have no labels that are the extractor's classes"}
        before = images.record()
        Image.fromarray(pixels[0] // 2 * 2).save(folder / "00.png")
        assert open_stored(str(folder), 1).record() != before

    def test_sizes(self, tmp_path: Path) -> None:
        folder = write_class_folders(tmp_path / "photos")
        with pytest.raises(DataError, match=r"b.png: expected 8x8, got 20x10 \(image_size says"):
            open_stored(str(folder), 3).read(0, 4)
        cropped = open_stored(str(folder), 3, image_size=6)
        assert list(cropped.read(0, 4).shape) == [4, 3, 6, 6]
        assert cropped.size == (6, 6)
        wide = open_stored(str(folder), 3, image_size=(4, 6))
        assert list(wide.read(0, 4).shape) == [4, 3, 4, 6]
        assert wide.record() != open_stored(str(folder), 3, image_size=(6, 4)).record()
        (folder / "cats" / "a.png").write_bytes((folder / "dogs" / "more" / "d.png").read_bytes())
        with pytest.raises(DataError, match=r"b.png: expected 8x12, got 20x10 \(image_size says"):
            open_stored(str(folder), 3).read(0, 4)

    def test_npz(self, tmp_path: Path) -> None:
        pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), np.uint8)
        np.savez(tmp_path / "batch.npz", pixels, np.arange(12))
        images = open_stored(str(tmp_path / "batch.npz"), 3)
        assert torch.equal(images.read(2, 4), torch.from_numpy(pixels[2:4]).permute(0, 3, 1, 2))
        assert images.labels is not None
        assert images.labels.tolist() == [*range(12)]
        np.savez(tmp_path / "alone.npz", pixels)
        assert open_stored(str(tmp_path / "alone.npz"), 3).labels is None
        np.savez(tmp_path / "wide.npz", pixels[:, :4])
        assert open_stored(str(tmp_path / "wide.npz"), 3).size == (4, 8)
        assert list(open_stored(str(tmp_path / "wide.npz"), 3, image_size=(2, 6)).read(0, 1).shape) == [1, 3, 2, 6]

    @pytest.mark.parametrize(
        ("arrays", "message"),
        [
            (
                {"arr_0": np.zeros((2, 8, 8, 3))},
                r"expected images uint8 \[N, height, width, 1 or 3\] as arr_0, got float64",
            ),
            ({"other": np.zeros(3)}, "got nothing"),
            ({"arr_0": np.zeros((2, 8, 8, 3), np.uint8), "arr_1": np.zeros(3)}, "expected 2 labels as arr_1, got"),
            ({"arr_0": np.array([print, None])}, "expected an npz of plain arrays, but reading it failed"),
        ],
    )
    def test_bad_npz(self, tmp_path: Path, arrays: dict[str, Any], message: str) -> None:
        np.savez(tmp_path / "bad.npz", **arrays)
        with pytest.raises(DataError, match=message):
            open_stored(str(tmp_path / "bad.npz"), 3)

    def test_damaged_npz(self, tmp_path: Path) -> None:
        (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no zip")
        with pytest.raises(DataError, match=r"bad.npz: expected an npz of plain arrays"):
            open_stored(str(tmp_path / "bad.npz"), 3)


class TestReference:
    def test_file_equals_images(self, config: dict[str, Any], card: dict[str, Any], fashion: Extractor) -> None:
        folder = config["output"].parent
        reference = reference_of(config["reference"], fashion, folder / "chunks")
        reference.save(folder / "reference.safetensors")
        found = run(config | {"reference": str(folder / "reference.safetensors")})
        assert values(found) == pytest.approx(values(card), rel=1e-6)  # other chunks are added up
        assert found["settings"]["reference"] == card["settings"]["reference"]

    def test_features_are_kept_evenly(
        self, config: dict[str, Any], fashion: Extractor, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("flowar.evaluation.reference.KEPT", 15)
        reference = reference_of(config["reference"], fashion, config["output"])
        images = open_stored(config["reference"], 1)
        torch.testing.assert_close(reference.features, fashion(images.read(0, 40)).pooled[::3])
        assert reference.pooled.count == 40

    def test_statistics_of_inception(self, tmp_path: Path, inception: Extractor) -> None:
        """As ADM's reference batches have them: moments of a whole data set, and some of its images."""
        moments = {"mu": np.ones(4), "sigma": np.eye(4), "mu_s": np.zeros(3), "sigma_s": np.eye(3)}
        np.savez(tmp_path / "moments.npz", **moments)
        alone = reference_of(tmp_path / "moments.npz", inception, tmp_path / "chunks")
        assert (alone.size, alone.count, alone.features) == (None, None, None)
        assert torch.equal(alone.pooled.covariance, torch.eye(4).double())
        assert alone.spatial is not None
        images = np.random.default_rng(0).integers(0, 256, (5, 17, 17, 3), np.uint8)
        np.savez(tmp_path / "both.npz", **moments, arr_0=images)
        both = reference_of(tmp_path / "both.npz", inception, tmp_path / "chunks")
        assert torch.equal(both.pooled.covariance, torch.eye(4).double())
        assert torch.equal(both.features, torch.ones(5, 2048))
        assert both.size == (17, 17)
        both.save(tmp_path / "both.safetensors")
        restored = reference_of(tmp_path / "both.safetensors", inception, tmp_path)
        assert restored.record() == both.record()

    def test_moments_that_are_none(self, tmp_path: Path, inception: Extractor, fashion: Extractor) -> None:
        path = tmp_path / "moments.npz"
        np.savez(path, mu=np.ones(4), sigma=np.eye(3))
        with pytest.raises(DataError, match=r"mu, sigma: statistics: expected mean \[d\], covariance \[d, d\]"):
            reference_of(path, inception, tmp_path)
        np.savez(path, mu=np.ones(4))
        with pytest.raises(DataError, match="expected mu and sigma, got mu"):
            reference_of(path, inception, tmp_path)
        with pytest.raises(
            FlowARError, match="expected statistics of fashion, got mu and sigma, which are Inception's"
        ):
            reference_of(path, fashion, tmp_path)

    def test_other_extractor(self, config: dict[str, Any], fashion: Extractor, tmp_path: Path) -> None:
        reference = reference_of(config["reference"], fashion, tmp_path / "chunks")
        reference.save(tmp_path / "reference.safetensors")
        fashion.weights = "others"
        with pytest.raises(FlowARError, match=r"expected features of fashion \(weights others\), got those of fashion"):
            reference_of(tmp_path / "reference.safetensors", fashion, tmp_path)

    def test_other_file(self, fashion: Extractor, tmp_path: Path) -> None:
        save_tensors(tmp_path / "other.safetensors", {"mean": torch.zeros(2)})
        with pytest.raises(DataError, match="expected a file that flowar reference wrote, got format None"):
            reference_of(tmp_path / "other.safetensors", fashion, tmp_path)
        with pytest.raises(CheckpointError, match=r"missing.safetensors: expected a safetensors file"):
            reference_of(tmp_path / "missing.safetensors", fashion, tmp_path)


class TestBadInput:
    def test_reference_of_another_size(self, config: dict[str, Any], fashion: Extractor, tmp_path: Path) -> None:
        reference = reference_of(config["reference"], fashion, tmp_path / "chunks")
        reference.size = (32, 32)
        reference.save(tmp_path / "reference.safetensors")
        with pytest.raises(FlowARError, match="reference: expected images of 28x28, as those to evaluate, got 32x32"):
            run(config | {"reference": str(tmp_path / "reference.safetensors")})

    def test_unreadable_image(self, config: dict[str, Any], tmp_path: Path) -> None:
        folder = write_class_folders(tmp_path / "photos")
        (folder / "dogs" / "c.PNG").write_bytes(b"no image")
        with pytest.raises(DataError, match=r"c.PNG: expected a readable image"):
            run(config | {"reference": str(folder), "image_size": 28})

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"num_images": 0}, "num_images: expected an integer >= 10, got 0"),
            ({"batch_size": 0}, "batch_size: expected a positive integer, got 0"),
            ({"bootstrap": 1}, "bootstrap: expected 0 or at least 2 replicates, got 1"),
            ({"classes": (3, 10)}, "class_labels: expected integers from 0 to 9, got 10"),
            ({"reference": "nowhere"}, "data: expected a folder, got nowhere"),
            ({"reference": "nowhere.npz"}, "nowhere.npz: expected an npz of plain arrays"),
            ({"model": "nowhere"}, "model: expected a folder, a shipped model"),
        ],
    )
    def test_options(self, config: dict[str, Any], options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message):
            run(config | options)

    def test_too_few_stored_images(self, config: dict[str, Any], tmp_path: Path) -> None:
        folder = write_class_folders(tmp_path / "photos")
        with pytest.raises(FlowARError, match="photos: expected at least 10 images, got 4"):
            run(config | {"images": str(folder)})

    def test_configuration_is_checked_before_anything_is_read(self) -> None:
        with pytest.raises(FlowARError, match="num_images"):
            EvaluationConfig("nowhere", Path("nowhere"), "nothing", num_images=-1)


def changed(card: dict[str, Any], **metrics: float) -> dict[str, Any]:
    """A card with other values of its metrics."""
    found = {name: metric | {"value": metrics.get(name, metric["value"])} for name, metric in card["metrics"].items()}
    return card | {"metrics": found}


class TestIntervals:
    @pytest.mark.parametrize(
        ("measurement", "expected"),
        [
            (Measurement(0.99, "higher", 0.1, "", (0.0, 1.0)), (0.794, 1.0)),
            (Measurement(0.0, "higher", 0.1, "", (0.0, 1.0)), (0.0, 0.196)),
            (Measurement(0.5, "lower", 1.0, ""), (0.0, 2.46)),
            (Measurement(-0.1, "lower", 0.01, ""), (0.0, 0.0)),  # an unbiased estimate of a distance
            (Measurement(1.1, "higher", 1.0, "", (1.0, 2.0)), (1.0, 2.0)),
        ],
    )
    def test_stay_inside_what_a_metric_can_be(self, measurement: Measurement, expected: tuple[float, float]) -> None:
        assert measurement.record()["interval"] == pytest.approx(expected)

    def test_of_every_metric(self, card: dict[str, Any]) -> None:
        for name, found in card["metrics"].items():
            low, high = found["interval"]
            share = name in ("precision", "recall", "class agreement")
            most = 1 if share else 10 if name.startswith("IS") else math.inf
            assert (1 if name.startswith("IS") else 0) <= low <= high <= most, name

    @pytest.mark.parametrize("all_of_them", [True, False])
    def test_a_share_of_all_or_none_is_not_certain(self, all_of_them: bool) -> None:
        found = share(torch.full((100,), all_of_them), 0.0, "")
        low, high = found.record()["interval"]
        assert high - low == pytest.approx(0.026, abs=0.001)
        assert (high if all_of_them else low) == all_of_them

    def test_enough_flags_keep_their_own_error(self) -> None:
        assert share(torch.arange(100) < 50, 0.2, "").error == 0.2


class TestCompare:
    def test_card_with_itself(self, card: dict[str, Any]) -> None:
        lines = compare_cards(card, card)
        assert len(lines) == len(METRICS)
        assert all("): no more than chance" in line for line in lines)

    def test_more_than_chance(self, card: dict[str, Any]) -> None:
        metric = card["metrics"]["IS-fashion"]
        margin = 1.96 * 2**0.5 * metric["error"]
        for factor, expected in ((0.99, "no more than chance"), (1.01, "the second is better")):
            other = changed(card, **{"IS-fashion": metric["value"] + factor * margin})
            assert compare_cards(card, other)[2].endswith(expected)
        worse = changed(card, **{"FD-fashion": 1e9})
        assert "): the first is better; biased upwards" in compare_cards(card, worse)[0]

    def test_fewer_images_than_features(self, card: dict[str, Any]) -> None:
        note = "; biased upwards, 24 images for 128 features"
        assert compare_cards(card, card)[0].endswith(f"no more than chance{note}")
        more = card["metrics"]["FD-fashion"] | {"images": 48}
        lines = compare_cards(card, card | {"metrics": card["metrics"] | {"FD-fashion": more}})
        assert lines[0].endswith("no verdict, as 24 and 48 images for 128 features bias it upwards, each differently")
        assert lines[2].endswith("no more than chance")  # the Inception Score knows no covariance
        enough = {**card["metrics"], "FD-fashion": more | {"images": 129}}
        assert compare_cards(card | {"metrics": enough}, card | {"metrics": enough})[0].endswith("no more than chance")
        assert f"{card['metrics']['FD-fashion']['value']:.5g}{note} |" in markdown(card)

    def test_cards_of_older_versions(self, card: dict[str, Any]) -> None:
        """They do not say how many images a distance is of."""
        old = {
            name: {k: v for k, v in metric.items() if k not in ("images", "features")}
            for name, metric in card["metrics"].items()
        }
        assert compare_cards(card | {"metrics": old}, card | {"metrics": old})[0].endswith("no more than chance")
        assert "no verdict, as 24 and unknown images" in compare_cards(card, card | {"metrics": old})[0]
        assert "no verdict, as unknown and 24 images" in compare_cards(card | {"metrics": old}, card)[0]

    def test_settings_that_differ(self, card: dict[str, Any], config: dict[str, Any]) -> None:
        other = run(config | {"guidance_scale": 2.0, "seed": 5, "bootstrap": 0})
        lines = compare_cards(card, other)
        assert lines[0].endswith("no intervals to judge by")
        assert f"schedule.guidance_scale: {card['settings']['schedule']['guidance_scale']} | 2.0" in lines
        assert "images.seeds: [0, 23] | [5, 28]" in lines
        assert not [line for line in lines if line.startswith(("tokenizer", "model", "extractor"))]

    @pytest.mark.parametrize(("part", "name"), [("extractor", "weights"), ("reference", "fingerprint")])
    def test_cards_that_cannot_be_compared(self, card: dict[str, Any], part: str, name: str) -> None:
        settings = card["settings"] | {part: card["settings"][part] | {name: "other"}}
        with pytest.raises(
            FlowARError, match=f"compare: expected cards of the same {part}, got {part}.{name} .* and other"
        ):
            compare_cards(card, card | {"settings": settings})
