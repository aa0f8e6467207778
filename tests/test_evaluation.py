"""The Fréchet distance against closed forms, and the classifier that judges the shipped model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from flowar.evaluation.fashion_classifier import FashionClassifier, judge, load, train
from flowar.evaluation.frechet import frechet_distance, symmetric_root
from flowar.weights import save_tensors


def with_moments(mean: Tensor, covariance: Tensor, count: int = 200) -> Tensor:
    """Points [count, d] whose sample mean and sample covariance are exactly these."""
    points = torch.randn(count, len(mean), dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points -= points.mean(0)
    whitened = points @ torch.linalg.inv(symmetric_root(points.T.cov()))
    return whitened @ symmetric_root(covariance) + mean


def random_covariance(d: int, seed: int) -> Tensor:
    factor = torch.randn(d, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return factor @ factor.T / d


def test_distance_of_commuting_gaussians() -> None:
    variances1, variances2 = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 4.0, 1.0]).double()
    mean1, mean2 = torch.zeros(3).double(), torch.tensor([3.0, 0.0, 4.0]).double()
    first, second = with_moments(mean1, variances1.diag()), with_moments(mean2, variances2.diag())
    expected = (mean1 - mean2).square().sum() + (variances1.sqrt() - variances2.sqrt()).square().sum()
    assert frechet_distance(first, second) == pytest.approx(float(expected))


def test_distance_of_gaussians_in_general() -> None:
    covariance1, covariance2 = random_covariance(5, 1), random_covariance(5, 2)
    first = with_moments(torch.zeros(5).double(), covariance1)
    second = with_moments(torch.ones(5).double(), covariance2)
    # tr((C1 C2)^(1/2)) from the eigenvalues of the product, which is similar to a positive definite matrix.
    cross = torch.linalg.eigvals(covariance1 @ covariance2).real.sqrt().sum()
    expected = 5 + covariance1.trace() + covariance2.trace() - 2 * cross
    assert frechet_distance(first, second) == pytest.approx(float(expected))
    assert frechet_distance(second, first) == pytest.approx(float(expected))


def test_distance_to_itself_is_zero() -> None:
    points = torch.randn(50, 8, generator=torch.Generator().manual_seed(3))
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-9)


def test_distance_of_fewer_points_than_features() -> None:
    points = torch.randn(10, 32, generator=torch.Generator().manual_seed(4))
    assert frechet_distance(points, points) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(points, points + 1) == pytest.approx(32, abs=1e-4)


@pytest.mark.parametrize("shapes", [((4, 3), (4, 2)), ((1, 3), (4, 3)), ((4,), (4, 3))])
def test_features_that_do_not_fit(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    with pytest.raises(ValueError, match=r"features: expected \[N >= 2, d\] and \[M >= 2, d\], got"):
        frechet_distance(*(torch.zeros(shape) for shape in shapes))


@pytest.mark.slow
def test_classifier_learns_and_is_restored(tmp_path: Path) -> None:
    labels = torch.arange(128) % 2
    images = (labels[:, None, None, None] * 200).expand(-1, 1, 28, 28).to(torch.uint8).contiguous()
    model = train(images, labels, epochs=6)
    save_tensors(tmp_path / "judge.safetensors", model.state_dict())
    restored = load(tmp_path / "judge.safetensors")
    assert isinstance(restored, FashionClassifier)
    features, predicted = judge(restored, images.float() / 127.5 - 1)
    assert features.shape == (128, 128)
    assert torch.equal(predicted, labels)
