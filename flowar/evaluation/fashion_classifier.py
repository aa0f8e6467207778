"""A classifier of 28x28 grey images, independent of the generator: the judge of the shipped model, which ships too."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from flowar.storage.hub import ASSETS
from flowar.storage.weights import load_weights

# Made by experiments/fashion_classifier.py; right on 93.15 % of the test split.
SHIPPED = ASSETS / "fashion-classifier.safetensors"
FEATURES = 128


class FashionClassifier(nn.Module):
    """A network of four convolutions, a feature layer and a linear classifier."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        widths = (1, 32, 32, 64, 64)
        layers: list[nn.Module] = []
        for index, (narrow, wide) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(narrow, wide, 3, padding=1, bias=False), nn.BatchNorm2d(wide), nn.ReLU()]
            layers += [nn.MaxPool2d(2)] if index % 2 else []
        self.trunk = nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 7 * 7, FEATURES))
        self.head = nn.Linear(FEATURES, classes)

    def features(self, images: Tensor) -> Tensor:
        """The features [B, 128] of images [B, 1, 28, 28] in [-1, 1]."""
        return self.trunk(images)

    def forward(self, images: Tensor) -> Tensor:
        """The logits [B, classes] of images [B, 1, 28, 28] in [-1, 1]."""
        return self.head(F.relu(self.features(images)))


def load(path: Path = SHIPPED) -> FashionClassifier:
    """Load the classifier saved at `path`.

    Raises:
        CheckpointError: if the file is missing, unreadable, or holds something else.
    """
    model = FashionClassifier()
    load_weights(model, path)
    return model.eval()
