"""The perceptual loss: how far apart two images are in the early layers of EfficientNet-Lite0."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from flowar.config import require
from flowar.evaluation.extractors import EfficientNetBlocks

BLOCKS = (0, 2, 4)  # the last ones at strides 2, 4 and 8
SMALLEST = 8  # sides of images that these can see


class PerceptualLoss(EfficientNetBlocks):
    """The distance of two images in unit features, as in LPIPS but without learned weights:

        mean over blocks and positions of |a / |a| - b / |b||^2

    where a and b are the features of both images at a position. It is 0 for equal images and at most 4.

    Raises:
        MissingPackageError: without the extra `eval`.
    """

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """The loss (scalar) of images against targets, [B, 1 or 3, H, W] in [-1, 1]; only the images get gradients.

        Raises:
            ValueError: for images of less than 8 pixels a side.
        """
        sides = [*images.shape[2:]]
        require("perceptual loss", f"images of {SMALLEST}x{SMALLEST} or more", sides, min(sides) >= SMALLEST)
        with torch.no_grad():
            expected = self.features(targets)
        distances = [(a - b).square().sum(1).mean() for a, b in zip(self.features(images), expected, strict=True)]
        return torch.stack(distances).mean()

    def features(self, images: Tensor) -> list[Tensor]:
        """One map [B, C, h, w] of unit vectors for each of `BLOCKS`."""
        maps = self.maps(images, BLOCKS[-1] + 1)
        return [F.normalize(maps[number], dim=1) for number in BLOCKS]
