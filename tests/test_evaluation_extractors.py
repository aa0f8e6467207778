"""Extractors: shapes, hashes, what an ImageNet network sees, and packages that are missing."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn

from flowar.errors import FlowARError, MissingPackageError
from flowar.evaluation.extractors import EXTRACTORS, open_extractor
from flowar.evaluation.fashion_classifier import FashionClassifier
from flowar.storage.weights import save_tensors

CPU = torch.device("cpu")


@pytest.fixture
def classifier(tmp_path: Path) -> Path:
    save_tensors(tmp_path / "classifier.safetensors", FashionClassifier().state_dict())
    return tmp_path / "classifier.safetensors"


def pictures(count: int, channels: int, side: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, channels, side, side), generator=generator, dtype=torch.uint8)


class TestFashion:
    def test_features(self, classifier: Path) -> None:
        extractor = open_extractor("fashion", CPU, classifier)
        images = pictures(3, 1, 28)
        found = extractor(images)
        assert [list(part.shape) for part in found] == [[3, 128], [3, 7 * 7 * 7], [3, 10]]
        network = FashionClassifier().eval()
        network.load_state_dict(extractor.network.state_dict())
        torch.testing.assert_close(found.probabilities, network(images / 127.5 - 1).softmax(1))
        assert extractor.names.frechet == "FD-fashion"

    def test_hash_is_of_the_weights(self, classifier: Path) -> None:
        first = open_extractor("fashion", CPU, classifier).record()
        assert first == open_extractor("fashion", CPU, classifier).record()
        torch.manual_seed(1)
        save_tensors(classifier, FashionClassifier().state_dict())
        assert first["weights"] != open_extractor("fashion", CPU, classifier).record()["weights"]

    @pytest.mark.parametrize(
        ("images", "message"),
        [
            (pictures(1, 1, 32), "fashion: expected images of 28x28, got 32x32"),
            (pictures(1, 3, 28), r"fashion: expected images uint8 \[N, 1, h, w\], got torch.uint8 \[1, 3, 28, 28\]"),
            (torch.zeros(1, 1, 28, 28), r"expected images uint8 \[N, 1, h, w\], got torch.float32"),
        ],
    )
    def test_bad_images(self, classifier: Path, images: Tensor, message: str) -> None:
        with pytest.raises(FlowARError, match=message):
            open_extractor("fashion", CPU, classifier)(images)

    def test_file_of_something_else(self, classifier: Path) -> None:
        save_tensors(classifier, {"head.weight": torch.zeros(2)})
        with pytest.raises(FlowARError, match=r"checkpoint: missing tensor trunk.0.weight \(and \d+ more"):
            open_extractor("fashion", CPU, classifier)


class TestEfficientNet:
    def test_sees_a_uniform(self) -> None:
        """Weights, normalisation and resizing are right if a photo of an admiral is one."""
        pytest.importorskip("efficientnet_lite_pytorch", reason="the extra flowar[eval] is not installed")
        matplotlib = pytest.importorskip("matplotlib")
        from PIL import Image

        from flowar.data.transforms import center_crop, to_tensor

        photo = Image.open(Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg").convert("RGB")
        extractor = open_extractor("efficientnet-lite0", CPU)
        found = extractor(to_tensor(center_crop(photo, (256, 256)))[None])
        assert [list(part.shape) for part in found] == [[1, 1280], [1, 14 * 14 * 7], [1, 1000]]
        assert found.probabilities.argmax() == 652  # military uniform
        assert found.probabilities.max() > 0.3

    def test_missing_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "efficientnet_lite_pytorch", None)
        with pytest.raises(MissingPackageError, match=r"pip install .*\[eval\]\""):
            open_extractor("efficientnet-lite0", CPU)


class StandIn(nn.Module):
    """The parts of torch-fidelity's extractor that are used here."""

    def __init__(self, name: str, features: list[str]) -> None:
        super().__init__()
        assert features == ["2048", "logits_unbiased"]
        self.Mixed_6d = nn.Module()
        self.Mixed_6d.branch1x1 = nn.Conv2d(3, 192, 1)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        assert images.dtype == torch.uint8
        self.Mixed_6d.branch1x1(images[:, :, :17, :17].float())
        return torch.ones(len(images), 2048), torch.zeros(len(images), 1008)


class TestInception:
    def test_features(self, monkeypatch: pytest.MonkeyPatch) -> None:
        module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
        module.FeatureExtractorInceptionV3 = StandIn  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
        monkeypatch.setitem(sys.modules, module.__name__, module)
        extractor = open_extractor("inception", CPU)
        images = pictures(2, 1, 20)
        found = extractor(images)
        assert [list(part.shape) for part in found] == [[2, 2048], [2, 2023], [2, 1008]]
        expected = extractor.network.Mixed_6d.branch1x1(images[:, :, :17, :17].expand(-1, 3, -1, -1).float())
        torch.testing.assert_close(found.spatial.view(2, 17, 17, 7), expected[:, :7].movedim(1, 3))
        assert tuple(extractor.names) == ("FID", "sFID", "IS", "KID")

    def test_missing_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "torch_fidelity", None)
        with pytest.raises(MissingPackageError, match=r"pip install .*\[fid\]\""):
            open_extractor("inception", CPU)


def test_only_inception_has_a_fid() -> None:
    assert [name for name, kind in EXTRACTORS.items() if "FID" in kind.names] == ["inception"]


def test_bad_names(classifier: Path) -> None:
    with pytest.raises(
        FlowARError, match="extractor: expected one of inception, efficientnet-lite0, fashion, got dino"
    ):
        open_extractor("dino", CPU)
    with pytest.raises(
        FlowARError, match=r"classifier: expected one for extractor fashion alone, got .* for inception"
    ):
        open_extractor("inception", CPU, classifier)
