"""Crops, flips, and what becomes of images that are far longer than wide."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from flowar.config import Grid
from flowar.data.transforms import LONGEST, center_crop, flip, random_crop, to_tensor, variants


def gradient(width: int, height: int) -> Image.Image:
    """Red grows to the right, green downwards."""
    rows, columns = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([columns * 255 // width, rows * 255 // height, 0 * rows], -1).astype(np.uint8))


class TestCrops:
    def test_centre(self) -> None:
        stripes = np.repeat(np.uint8([[0, 0, 90, 90, 90, 90, 250, 250]]), 4, 0).repeat(2, 0).repeat(2, 1)
        image = Image.fromarray(stripes)  # 16 wide, 8 high: a quarter falls away on each side
        assert set(center_crop(image, (8, 8)).tobytes()) == {90}
        assert center_crop(image, (20, 20)).size == (20, 20)
        assert set(center_crop(image, (2, 2)).tobytes()) == {90}  # far smaller: averaged, not sampled

    def test_an_image_of_that_size_stays_as_it_is(self) -> None:
        image = gradient(8, 8)
        assert center_crop(image, (8, 8)).tobytes() == image.tobytes()

    def test_halving_averages(self) -> None:
        checks = np.indices((16, 16)).sum(0) % 2 * 200
        assert set(center_crop(Image.fromarray(checks.astype(np.uint8)), (8, 8)).tobytes()) == {100}

    def test_rectangles(self) -> None:
        """Neither side is stretched, and what falls away is cut from both ends of the longer one."""
        across, down = np.meshgrid(np.arange(64), np.arange(48))
        image = Image.fromarray(np.stack([across * 4, down * 4, 0 * down], -1).astype(np.uint8))
        for height, width, left, top in ((48, 32, 16, 0), (32, 64, 0, 8), (48, 64, 0, 0)):
            crop = to_tensor(center_crop(image, (height, width)))
            assert torch.equal(crop, to_tensor(image)[:, top : top + height, left : left + width])
        reds, greens, _ = to_tensor(center_crop(image, (12, 24))).float()  # 24 of 32 rows are left, in half the size
        assert [reds[0, 0], reds[0, -1], greens[0, 0], greens[-1, 0]] == pytest.approx([3, 249, 34, 154], abs=4)

    @pytest.mark.parametrize("size", [(1, 9), (7, 3), (40, 21), (30, 100)])
    def test_any_image_covers_any_size(self, size: Grid) -> None:
        for width, height in ((1, 1), (5, 41), (41, 5), (33, 32), (200, 10)):
            image = gradient(width, height)
            crops = variants(image, size, True, 2, 0)
            assert crops.shape == (4, 3, *size)
            assert torch.equal(crops[1], crops[0].flip(2))

    @pytest.mark.parametrize("crop", ["centre", "random"])
    @pytest.mark.parametrize("size", [(100_000, 1), (1, 100_000), (100_000, 30), (30, 100_000)])
    def test_long_images_cost_what_their_crops_cost(
        self, monkeypatch: pytest.MonkeyPatch, size: tuple[int, int], crop: str
    ) -> None:
        largest: list[int] = []
        resize = Image.Image.resize

        def counted(image: Image.Image, new: tuple[int, int], *rest: Any) -> Image.Image:
            largest.append(new[0] * new[1])
            return resize(image, new, *rest)

        monkeypatch.setattr(Image.Image, "resize", counted)
        image = Image.new("L", size)
        cut = (
            center_crop(image, (32, 32)) if crop == "centre" else random_crop(image, (32, 32), np.random.default_rng(0))
        )
        assert cut.size == (32, 32)
        assert max(largest) <= 40 * 40 * LONGEST

    def test_the_centre_of_a_long_image(self) -> None:
        image = gradient(4001, 4)
        (red,) = {int(value) for value in np.array(center_crop(image, (4, 4)))[..., 0].flat}
        assert red == 127

    def test_random_crops_of_a_long_image_are_from_all_over(self) -> None:
        image = gradient(4000, 4)
        reds = [np.array(random_crop(image, (4, 4), np.random.default_rng(seed)))[0, 0, 0] for seed in range(30)]
        assert min(reds) < 25
        assert max(reds) > 230

    def test_random_rectangles_are_inside_and_differ_in_place_and_scale(self) -> None:
        image = gradient(80, 40)
        crops = [to_tensor(random_crop(image, (10, 16), np.random.default_rng(seed))).float() for seed in range(40)]
        shares = [[float(crop[i, -1, -1] - crop[i, 0, 0]) / 255 for crop in crops] for i in (0, 1)]
        assert 0.6 < min(shares[0]) < 0.65 < 0.7 < max(shares[0]) < 0.82  # of the width: 16 of 20 to 24 columns
        assert 0.7 < min(shares[1]) < 0.8 < 0.87 < max(shares[1])  # of the height: 10 of 10 to 12 rows
        lefts = [float(crop[0, 0, 0]) / 255 for crop in crops]
        assert min(lefts) < 0.05
        assert max(lefts) > 0.25

    def test_random_crops_are_inside_and_differ_in_place_and_scale(self) -> None:
        image = gradient(80, 40)
        crops = [to_tensor(random_crop(image, (16, 16), np.random.default_rng(seed))) for seed in range(40)]
        assert {tuple(crop.shape) for crop in crops} == {(3, 16, 16)}
        lefts = {crop[0, :, 0].float().mean().item() for crop in crops}
        assert min(lefts) < 20
        assert max(lefts) > 120  # of at most 255 * 24 / 40, where the crop ends at the right edge
        heights = [int(crop[1, -1, 0]) - int(crop[1, 0, 0]) for crop in crops]  # share of the height, times 255
        assert 170 < min(heights) < 200 < 230 < max(heights)  # 16 of 20 rows, and 16 of 16

    def test_flip(self) -> None:
        image = gradient(6, 4)
        assert torch.equal(to_tensor(flip(image)), to_tensor(image).flip(2))


class TestVariants:
    def test_order(self) -> None:
        image = gradient(12, 8)
        plain = to_tensor(center_crop(image, (8, 8)))
        assert torch.equal(variants(image, (8, 8), False, 0, 0), plain[None])
        assert torch.equal(variants(image, (8, 8), True, 0, 0), torch.stack([plain, plain.flip(2)]))
        assert variants(image.convert("L"), (8, 8), True, 3, 0).shape == (5, 1, 8, 8)

    def test_crops_depend_on_the_image_alone(self) -> None:
        image = gradient(30, 20)
        first = variants(image, (8, 8), True, 4, 7)
        assert torch.equal(first, variants(image, (8, 8), True, 4, 7))
        assert not torch.equal(first[2:], variants(image, (8, 8), True, 4, 8)[2:])
        assert len({crop.numpy().tobytes() for crop in first}) == 6

    def test_crops_are_flipped_only_where_flips_are(self) -> None:
        def rightwards(flips: bool) -> list[bool]:
            crops = variants(gradient(40, 20), (16, 16), flips, 16, 0)[1 + flips :, 0].float()
            return [bool(crop[:, -1].mean() > crop[:, 0].mean()) for crop in crops]

        assert all(rightwards(False))
        assert 2 < sum(rightwards(True)) < 14
