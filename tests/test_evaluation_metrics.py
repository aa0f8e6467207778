"""The metrics of generated images: values of torch-fidelity, closed forms, and what theory says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from flowar.evaluation.metrics.bootstrap import bootstrap_error
from flowar.evaluation.metrics.frechet import frechet_distance, resampled_distance, symmetric_root
from flowar.evaluation.metrics.inception_score import inception_score
from flowar.evaluation.metrics.kernel_distance import kernel_distance
from flowar.evaluation.metrics.precision_recall import (
    precision_recall,
    precision_recall_errors,
    random_halves,
    shares_of_halves,
)
from flowar.evaluation.metrics.statistics import FeatureStatistics

statistics = FeatureStatistics.from_features


def normal(count: int, d: int, seed: int) -> Tensor:
    return torch.randn(count, d, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def with_moments(mean: Tensor, covariance: Tensor, count: int = 200) -> FeatureStatistics:
    """Statistics of points [count, d] whose sample mean and sample covariance are exactly these."""
    points = normal(count, len(mean), 0)
    points -= points.mean(0)
    whitened = points @ torch.linalg.inv(symmetric_root(points.T.cov()))
    return statistics(whitened @ symmetric_root(covariance) + mean)


def random_covariance(d: int, seed: int) -> Tensor:
    factor = normal(d, d, seed)
    return factor @ factor.T / d


@pytest.fixture(scope="module")
def recorded() -> tuple[Tensor, Tensor]:
    """The features that torch-fidelity 0.4.0 was given: 400 generated and 500 of a reference."""
    stream = np.random.RandomState(0)
    mixing = stream.randn(16, 16)
    generated = stream.randn(400, 16) @ mixing * 1.1 + 0.3
    return torch.from_numpy(generated), torch.from_numpy(stream.randn(500, 16) @ mixing)


class TestAgainstTorchFidelity:
    """Its metric functions, called with `recorded`: pool of 10 splits, 20 subsets of 100, 3 neighbours, seed 2020."""

    def test_frechet_distance(self, recorded: tuple[Tensor, Tensor]) -> None:
        got = frechet_distance(*map(statistics, recorded))
        assert got == pytest.approx(7.420430207103777, rel=1e-6)

    def test_kernel_distance(self, recorded: tuple[Tensor, Tensor]) -> None:
        got = kernel_distance(*recorded, subsets=20, subset_size=100)
        assert got == pytest.approx((23.160169155209047, 31.084249875376152, 100), rel=1e-6)

    def test_inception_score(self, recorded: tuple[Tensor, Tensor]) -> None:
        got = inception_score(recorded[0][:, :10].softmax(1))
        assert got == pytest.approx((4.490155622734939, 0.27066908230150477), rel=1e-6)

    def test_precision_recall(self, recorded: tuple[Tensor, Tensor]) -> None:
        got = precision_recall(*recorded)
        assert (got.precision, got.recall) == pytest.approx((0.7625, 0.92), rel=1e-6)


class TestFeatureStatistics:
    def test_moments(self) -> None:
        features = normal(50, 4, 0)
        found = statistics(features.float())
        assert found.mean.dtype == torch.float64
        torch.testing.assert_close(found.mean, features.mean(0), atol=1e-6, rtol=0)
        torch.testing.assert_close(found.covariance, features.T.cov(), atol=1e-6, rtol=0)

    def test_parts_add_up(self) -> None:
        features = 100 + normal(50, 4, 0)
        whole, (first, *rest) = statistics(features), map(statistics, features.split([1, 7, 42]))
        for part in rest:
            first = first.merge(part)
        assert first.count == 50
        torch.testing.assert_close(first.mean, whole.mean, atol=1e-12, rtol=0)
        torch.testing.assert_close(first.covariance, whole.covariance, atol=1e-10, rtol=0)

    def test_from_moments(self) -> None:
        features = normal(50, 4, 0)
        found = FeatureStatistics.from_moments(50, features.mean(0), features.T.cov())
        torch.testing.assert_close(found.scatter, statistics(features).scatter)

    def test_singular(self) -> None:
        assert [statistics(normal(count, 4, 0)).singular for count in (3, 4, 5)] == [True, True, False]

    def test_bad_input(self) -> None:
        with pytest.raises(ValueError, match=r"features: expected \[N >= 1, d\], got \[4\]"):
            statistics(torch.zeros(4))
        with pytest.raises(ValueError, match="features: expected finite values, got NaN or infinity"):
            statistics(torch.tensor([[1.0, float("nan")]]))
        with pytest.raises(ValueError, match="covariance: expected at least two features, got 1"):
            statistics(torch.zeros(1, 3)).covariance  # noqa: B018 - raises
        with pytest.raises(ValueError, match="statistics: expected 3 dimensions, got 2"):
            statistics(torch.zeros(1, 3)).merge(statistics(torch.zeros(1, 2)))
        with pytest.raises(ValueError, match=r"got \[3\], \[2, 2\] and 5"):
            FeatureStatistics.from_moments(5, torch.zeros(3), torch.eye(2))


class TestFrechetDistance:
    def test_commuting_gaussians(self) -> None:
        variances1, variances2 = torch.tensor([1.0, 4.0, 9.0]).double(), torch.tensor([4.0, 4.0, 1.0]).double()
        mean1, mean2 = torch.zeros(3).double(), torch.tensor([3.0, 0.0, 4.0]).double()
        first, second = with_moments(mean1, variances1.diag()), with_moments(mean2, variances2.diag())
        expected = (mean1 - mean2).square().sum() + (variances1.sqrt() - variances2.sqrt()).square().sum()
        assert frechet_distance(first, second) == pytest.approx(float(expected))

    def test_gaussians_in_general(self) -> None:
        covariance1, covariance2 = random_covariance(5, 1), random_covariance(5, 2)
        first = with_moments(torch.zeros(5).double(), covariance1)
        second = with_moments(torch.ones(5).double(), covariance2)
        # tr((C1 C2)^(1/2)) from the eigenvalues of the product, which is similar to a positive definite matrix.
        cross = torch.linalg.eigvals(covariance1 @ covariance2).real.sqrt().sum()
        expected = 5 + covariance1.trace() + covariance2.trace() - 2 * cross
        assert frechet_distance(first, second) == pytest.approx(float(expected))
        assert frechet_distance(second, first) == pytest.approx(float(expected))
        assert frechet_distance(first, second, symmetric_root(second.covariance)) == frechet_distance(first, second)

    def test_same_set(self) -> None:
        points = normal(50, 8, 3)
        shuffled = points[torch.randperm(50, generator=torch.Generator().manual_seed(0))]
        assert frechet_distance(statistics(points), statistics(shuffled)) == pytest.approx(0, abs=1e-9)

    def test_set_twice(self) -> None:
        """The mean stays, the covariance shrinks by c = 2 (n - 1) / (2n - 1): (1 - sqrt(c))² of its trace remains."""
        first = statistics(normal(50, 8, 3))
        twice = first.merge(first)
        expected = (1 - (2 * 49 / 99) ** 0.5) ** 2 * first.covariance.trace()
        assert frechet_distance(first, twice) == pytest.approx(float(expected), rel=1e-6)

    def test_fewer_points_than_features(self) -> None:
        points = normal(10, 32, 4)
        assert frechet_distance(statistics(points), statistics(points)) == pytest.approx(0, abs=1e-4)
        assert frechet_distance(statistics(points), statistics(points + 1)) == pytest.approx(32, abs=1e-4)

    def test_features_without_common_directions(self) -> None:
        first, second = torch.zeros(2, 20, 8).double()
        first[:, :4], second[:, 4:] = normal(20, 4, 0), normal(20, 4, 1)
        first, second = first - first.mean(0), second - second.mean(0)
        expected = (first.square().sum() + second.square().sum()) / 19
        assert frechet_distance(statistics(first), statistics(second)) == pytest.approx(float(expected))

    def test_bias_of_few_samples(self) -> None:
        reference = statistics(normal(20_000, 8, 0))
        few, many = (frechet_distance(statistics(normal(count, 8, 1)), reference) for count in (20, 2_000))
        assert few > 10 * many > 0

    def test_bad_input(self) -> None:
        with pytest.raises(ValueError, match="features: expected equal dimensions, got 3 and 2"):
            frechet_distance(statistics(torch.zeros(4, 3)), statistics(torch.zeros(4, 2)))
        with pytest.raises(ValueError, match="covariance: expected at least two features, got 1"):
            frechet_distance(statistics(torch.zeros(1, 3)), statistics(torch.zeros(4, 3)))
        with pytest.raises(ValueError, match="covariance: expected eigenvalues >= 0, got some from -1 to 2"):
            symmetric_root(torch.tensor([[2.0, 0.0], [0.0, -1.0]]).double())
        with pytest.raises(ValueError, match="matrix root: expected a residual of at most"):
            symmetric_root(torch.tensor([[2.0, 1.0], [0.0, 2.0]]).double())  # not symmetric

    def test_no_variance(self) -> None:
        """Of images that are all the same: the distance is that of the means."""
        assert symmetric_root(torch.zeros(3, 3).double()).count_nonzero() == 0
        same, others = torch.ones(9, 3).double(), torch.zeros(9, 3).double()
        assert frechet_distance(statistics(same), statistics(others)) == pytest.approx(3)


class TestResampledDistance:
    @pytest.mark.parametrize("count", [5, 31, 32, 33, 60])
    def test_is_the_distance_of_what_is_drawn(self, count: int) -> None:
        """Fewer features than the 32 dimensions, as many, and more, some of them drawn several times."""
        features, reference = normal(count, 32, 1) @ normal(32, 32, 2) + 3, statistics(normal(200, 32, 3))
        distance = resampled_distance(features, reference)
        for chosen in (torch.arange(count), torch.randint(count, (count,), generator=torch.Generator().manual_seed(0))):
            assert distance(chosen) == pytest.approx(
                frechet_distance(statistics(features[chosen]), reference), rel=1e-6
            )

    def test_wide_features(self) -> None:
        """As networks make them: no value below zero, far from it, with few directions that matter."""
        mixing = normal(300, 300, 0) * torch.linspace(2, 0, 300).double() ** 4
        real, fake = (100 + (normal(count, 300, seed) @ mixing).relu() for count, seed in ((700, 1), (60, 2)))
        chosen = torch.randint(60, (60,), generator=torch.Generator().manual_seed(0))
        expected = frechet_distance(statistics(fake[chosen]), statistics(real))
        assert resampled_distance(fake, statistics(real))(chosen) == pytest.approx(expected, rel=1e-6)

    def test_few_features_take_no_wide_eigenproblem(self, monkeypatch: pytest.MonkeyPatch) -> None:
        widths, eigenvalues = [], torch.linalg.eigvalsh
        distance = resampled_distance(normal(9, 32, 0), statistics(normal(50, 32, 1)))
        monkeypatch.setattr(torch.linalg, "eigvalsh", lambda matrix: widths.append(len(matrix)) or eigenvalues(matrix))
        bootstrap_error(distance, 9, 5)
        assert len(widths) == 5
        assert max(widths) <= 9

    def test_is_never_below_zero(self) -> None:
        points = normal(20, 32, 0)
        assert 0 <= resampled_distance(points, statistics(points))(torch.arange(20)) < 1e-4
        assert frechet_distance(statistics(points), statistics(points)) >= 0

    def test_bad_input(self) -> None:
        reference = statistics(normal(50, 8, 1))
        with pytest.raises(ValueError, match="features: expected finite values, got NaN or infinity"):
            resampled_distance(torch.full((4, 8), torch.nan).double(), reference)(torch.arange(4))
        with pytest.raises(ValueError, match="covariance: expected at least two features, got 1"):
            resampled_distance(normal(4, 8, 0), reference)(torch.arange(1))


class TestInceptionScore:
    def test_bounds(self) -> None:
        certain = torch.eye(5).repeat(40, 1)
        assert inception_score(certain, splits=1) == pytest.approx((5, 0))
        assert inception_score(torch.full((20, 5), 0.2)) == pytest.approx((1, 0))
        assert inception_score(certain[::5]) == pytest.approx((1, 0))  # one class only
        assert inception_score(certain[:6], splits=6) == pytest.approx((1, 0))  # one image a split

    def test_too_few_images(self) -> None:
        with pytest.raises(ValueError, match=r"expected \[N >= 10, C\] for 10 splits, got \[9, 5\]"):
            inception_score(torch.full((9, 5), 0.2))


class TestKernelDistance:
    def test_unbiased_where_the_distributions_agree(self) -> None:
        """The mean over subsets of independent sets is 0 within four standard errors; a biased one would be above."""
        found = kernel_distance(normal(4000, 6, 0), normal(4000, 6, 1), subsets=40, subset_size=100)
        assert abs(found.mean) < 4 * found.std / 40**0.5
        bias = 2 * ((6 / 6 + 1) ** 3 - 1) / 100  # about what the diagonals would add
        assert abs(found.mean) < bias / 2

    def test_shifted_gaussians(self) -> None:
        """In one dimension E (xy + 1)³ follows from the moments of x and y: 1 + 3 m m' + 3 s s' + t t'."""
        shift = 0.5
        raw = [(0.0, 1.0, 0.0), (shift, 1 + shift**2, shift**3 + 3 * shift)]  # moments of order 1, 2, 3

        def kernel(first: tuple[float, ...], second: tuple[float, ...]) -> float:
            m, s, t = (a * b for a, b in zip(first, second, strict=True))
            return 1 + 3 * m + 3 * s + t

        expected = kernel(raw[0], raw[0]) + kernel(raw[1], raw[1]) - 2 * kernel(*raw)
        found = kernel_distance(normal(20_000, 1, 0), normal(20_000, 1, 1) + shift, subsets=100, subset_size=200)
        assert found.mean == pytest.approx(expected, abs=4 * found.std / 100**0.5 + 0.02 * expected)

    def test_subsets_are_of_half_the_set_at_most(self) -> None:
        assert kernel_distance(normal(10, 3, 0), normal(30, 3, 1), subsets=2).subset_size == 5

    @pytest.mark.parametrize("shapes", [((4, 3), (4, 2)), ((3, 3), (4, 3)), ((4,), (4, 3))])
    def test_bad_input(self, shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
        with pytest.raises(ValueError, match=r"features: expected \[N >= 4, d\] and \[M >= 4, d\], got"):
            kernel_distance(*(torch.zeros(shape) for shape in shapes))

    def test_defaults_are_those_of_torch_fidelity(self) -> None:
        fake, real = normal(60, 4, 0), normal(60, 4, 1)
        found = kernel_distance(fake, real, subset_size=50)
        assert found == kernel_distance(fake, real, subsets=100, subset_size=50, seed=2020)


class TestPrecisionRecall:
    def test_same_set(self) -> None:
        points = normal(60, 5, 0)
        found = precision_recall(points.flip(0), points)
        assert (found.precision, found.recall) == (1, 1)

    def test_far_apart(self) -> None:
        found = precision_recall(normal(60, 5, 0), normal(60, 5, 1) + 100)
        assert (found.precision, found.recall) == (0, 0)

    def test_one_mode_of_two(self) -> None:
        """All that is generated is real, but half of what is real is never generated."""
        near, far = normal(200, 3, 0), normal(200, 3, 1) + 50
        found = precision_recall(normal(200, 3, 2), torch.cat([near, far]))
        assert found.precision > 0.9
        assert found.recalled[:200].double().mean() > 0.9
        assert not found.recalled[200:].any()

    def test_set_of_copies(self) -> None:
        """Radii are zero then, and rounding must not put an image outside of its own copies."""
        points = (100 + normal(20, 7, 0)).repeat(4, 1)
        found = precision_recall(points.flip(0), points)
        assert (found.precision, found.recall) == (1, 1)

    def test_blocks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sets = normal(50, 4, 0), normal(70, 4, 1) + 0.5
        whole = precision_recall(*sets)
        monkeypatch.setattr("flowar.evaluation.metrics.precision_recall.ROWS", 16)
        assert all(map(torch.equal, precision_recall(*sets), whole))

    def test_bad_input(self) -> None:
        with pytest.raises(
            ValueError, match=r"features: expected \[N > 3, d\] and \[M > 3, d\], got \[\[3, 2\], \[4, 2"
        ):
            precision_recall(torch.zeros(3, 2), torch.zeros(4, 2))
        with pytest.raises(ValueError, match=r"got \[\[4, 2\], \[4, 3\]\]"):
            precision_recall(torch.zeros(4, 2), torch.zeros(4, 3))


class TestPrecisionRecallErrors:
    @pytest.mark.parametrize(("fakes", "reals", "which"), [(60, 600, 1), (600, 60, 0)])
    def test_few_images_on_either_side(self, fakes: int, reals: int, which: int) -> None:
        """What other images would have given, by drawing them: the few are the members that the many lie among."""
        found, estimates = [], []
        for seed in range(25):
            sets = normal(fakes, 6, 2 * seed) * 0.9, normal(reals, 6, 2 * seed + 1)
            result = precision_recall(*sets)
            found.append((result.precision, result.recall)[which])
            estimates.append((precision_recall_errors(*sets, 30) or (0, 0))[which])
        assert np.mean(estimates) == pytest.approx(np.std(found), rel=0.4)
        of_the_many_alone = (np.mean(found) * (1 - np.mean(found)) / max(fakes, reals)) ** 0.5
        assert np.mean(estimates) > 1.8 * of_the_many_alone

    def test_halves(self) -> None:
        """Radii and shares are those of `precision_recall` for each half, whatever the blocks."""
        fake, real = normal(50, 4, 0), normal(70, 4, 1) + 0.5
        generator = torch.Generator().manual_seed(0)
        halves = [random_halves(count, 4, generator) for count in (50, 70)]
        assert [half.sum(1).tolist() for half in halves] == [[25] * 4, [35] * 4]
        expected = [precision_recall(fake[a], real[b]).precision for a, b in zip(*halves, strict=True)]
        assert shares_of_halves((fake, halves[0]), (real, halves[1]), 3).tolist() == pytest.approx(expected)

    def test_blocks_change_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sets = normal(50, 4, 0), normal(70, 4, 1) + 0.5
        whole = precision_recall_errors(*sets, 8)
        monkeypatch.setattr("flowar.evaluation.metrics.precision_recall.ROWS", 16)
        assert precision_recall_errors(*sets, 8) == pytest.approx(whole)

    def test_too_few_to_halve(self) -> None:
        assert precision_recall_errors(normal(7, 2, 0), normal(90, 2, 1), 5) is None
        assert precision_recall_errors(normal(90, 2, 0), normal(7, 2, 1), 5) is None
        assert precision_recall_errors(normal(8, 2, 0), normal(8, 2, 1), 5) is not None


class TestBootstrap:
    def test_error_of_a_mean(self) -> None:
        values = normal(400, 1, 0)[:, 0]
        found = bootstrap_error(lambda chosen: float(values[chosen].mean()), 400, 500)
        assert found == pytest.approx(float(values.std()) / 20, rel=0.15)

    def test_seeded(self) -> None:
        values = normal(30, 1, 0)[:, 0]
        runs = [bootstrap_error(lambda chosen: float(values[chosen].mean()), 30, 5, seed) for seed in (0, 0, 1)]
        assert runs[0] == runs[1] != runs[2]

    def test_too_few_replicates(self) -> None:
        with pytest.raises(ValueError, match="bootstrap: expected at least two replicates, got 1"):
            bootstrap_error(lambda chosen: 0.0, 5, 1)
