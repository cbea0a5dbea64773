"""The distance of features: against an implementation step by step, and on features of which the answer is known."""

import numpy as np
import pytest
import safetensors.numpy
from sklearn.covariance import LedoitWolf

from tenfold.errors import ModelError
from tenfold.training.distance import DIMENSIONS, EarlyDistance, FeatureDistance, principal_axes, shrunk_covariance

RNG = np.random.default_rng(0)


def draw(each: int, classes: int = 3, width: int = 20, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Features of drawn classes, positive and skewed as those of networks: float32 N×F, and labels int64 N."""
    rng = np.random.default_rng(seed)
    means = np.random.default_rng(99).gamma(1.0, 2.0, (classes, width))
    labels = np.repeat(np.arange(classes), each)
    return rng.gamma(4.0, means[labels] / 4).astype(np.float32), labels


@pytest.fixture(scope="module")
def fitted() -> FeatureDistance:
    return FeatureDistance.fit(*draw(200), classes=3)


@pytest.mark.parametrize("count", [5, 30, 1000])
def test_the_covariance_is_shrunk_as_scikit_learn_does(count: int) -> None:
    values = RNG.normal(size=(count, 12)) * np.linspace(0.1, 3, 12)
    expected = LedoitWolf(assume_centered=True).fit(values).covariance_
    np.testing.assert_allclose(shrunk_covariance(values), expected, rtol=1e-6, atol=1e-9)


def test_it_is_the_sum_of_two_scores_worked_out_step_by_step(fitted: FeatureDistance) -> None:
    """With fewer features than dimensions, the principal axes are only a rotation, which changes nothing."""
    (train, labels), (new, _) = draw(200), draw(50, seed=1)
    compress = np.arcsinh
    factor = 1 / (0.03 * np.abs(train).mean())

    def within(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means of the classes, and the inverse of their covariance."""
        means = np.stack([values[labels == label].mean(0) for label in range(3)])
        return means, np.linalg.inv(LedoitWolf(assume_centered=True).fit(values - means[labels]).covariance_)

    def mahalanobis(features: np.ndarray) -> np.ndarray:
        means, inverse = within(compress(factor * train.astype(float)))
        apart = compress(factor * features.astype(float))[:, None] - means
        return np.einsum("nki,ij,nkj->nk", apart, inverse, apart).min(1)

    def discriminant(features: np.ndarray) -> np.ndarray:
        """log N(f; class) − log N(f; 0), where f and the means are projected on the plane between the means."""
        means, inverse = within(train.astype(float))
        root = np.linalg.cholesky(inverse)
        plane = np.linalg.qr(((means - means.mean(0)) @ root).T)[0][:, :2]
        points, centers = features @ root @ plane, means @ root @ plane
        return (points @ centers.T - (centers**2).sum(1) / 2).max(1)

    def standard(score: object, sign: int) -> np.ndarray:
        known = score(train)  # type: ignore[operator]
        return sign * (score(new) - known.mean()) / known.std()  # type: ignore[operator]

    expected = standard(mahalanobis, 1) + 3 * standard(discriminant, -1)
    np.testing.assert_allclose(fitted(new), expected, rtol=1e-3, atol=1e-3)


def test_early_features_add_what_exceeds_that_of_most_training_images() -> None:
    """Step by step: the standardised squared Mahalanobis distance to one mean, beyond its quantile of 95 %."""
    train, new = draw(200)[0], draw(50, seed=1)[0]
    early = EarlyDistance.fit(train)
    factor = 1 / (0.3 * np.abs(train).mean())
    compressed, others = (np.arcsinh(factor * values.astype(float)) for values in (train, new))
    mean = compressed.mean(0)
    inverse = np.linalg.inv(LedoitWolf(assume_centered=True).fit(compressed - mean).covariance_)

    def squares(values: np.ndarray) -> np.ndarray:
        return np.einsum("ni,ij,nj->n", values - mean, inverse, values - mean)

    known = squares(compressed)
    expected = np.maximum(squares(others) - np.quantile(known, 0.95), 0) / known.std()
    np.testing.assert_allclose(early(new), expected, rtol=1e-3, atol=1e-3)
    assert 0 < (early(new) > 0).mean() < 0.2 and (early(train) > 0).mean() == pytest.approx(0.05, abs=0.005)


def test_the_distance_with_early_features_is_that_without_them_and_what_they_add(fitted: FeatureDistance) -> None:
    (train, labels), (early, _) = draw(200), draw(200, seed=5)
    both = FeatureDistance.fit(train, labels, 3, early)
    drawn = np.full_like(early, early.max())
    assert both.early is not None and (both.early(drawn) > 10).all()
    np.testing.assert_allclose(both(train, drawn), fitted(train) + both.early(drawn), rtol=1e-5)


def test_images_of_nothing_and_of_too_much_are_far_and_known_ones_near(fitted: FeatureDistance) -> None:
    known = fitted(draw(200, seed=2)[0])
    assert fitted.projection.dtype == np.float32 and known.shape == (600,) and known.dtype == np.float32
    assert abs(known.mean()) < 0.5
    nothing = fitted(np.zeros((1, 20), np.float32))
    other, _ = draw(100, classes=3, seed=3)
    mixed = other[:, ::-1]  # each feature is some other's: of no class
    assert nothing > np.quantile(known, 0.99) and np.median(fitted(mixed)) > np.quantile(known, 0.99)


def test_more_features_than_dimensions_and_few_images() -> None:
    """20 images of each of two classes, 200 features: new images of these classes are near, others are not."""
    fitted = FeatureDistance.fit(*draw(20, 2, 200), classes=2)
    assert fitted.projection.shape == (200, 20) and fitted.weights.shape == (200, 2)
    known, _ = draw(100, 2, 200, seed=1)
    assert np.median(fitted(known[:, ::-1])) > np.quantile(fitted(known), 0.95)


def test_as_many_axes_as_the_images_allow() -> None:
    assert principal_axes(RNG.normal(size=(1000, 100))).shape == (100, DIMENSIONS)
    assert principal_axes(RNG.normal(size=(9, 100))).shape == (100, 4)
    axes = principal_axes(np.array([[3.0, 0], [-3, 0], [0, 1], [0, -1]]))
    np.testing.assert_allclose(np.abs(axes), np.eye(2), atol=1e-12)


def test_a_class_without_images_is_no_class_to_be_near_to() -> None:
    features, labels = draw(50)
    only = FeatureDistance.fit(features, labels, classes=3)
    with_more = FeatureDistance.fit(features, np.array([0, 2, 4])[labels], classes=6)
    assert with_more.weights.shape == (20, 6)
    np.testing.assert_allclose(with_more(features), only(features), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("features", [np.zeros((4, 3)), np.ones((1, 3)), RNG.normal(size=(2, 3))])
def test_features_that_say_nothing_give_numbers(features: np.ndarray) -> None:
    fitted = FeatureDistance.fit(features, np.arange(len(features)) % 2, classes=2)
    assert np.isfinite(fitted(features)).all()


def test_what_is_written_is_read(fitted: FeatureDistance) -> None:
    again = FeatureDistance.from_bytes(fitted.to_bytes(), "x")
    features, _ = draw(5, seed=4)
    assert again.early is None and (again(features) == fitted(features)).all()  # as of earlier versions
    with pytest.raises(ModelError, match=r"^x: not the distance of a run"):
        FeatureDistance.from_bytes(b"nonsense", "x")
    with_early = FeatureDistance.fit(*draw(200), classes=3, early=draw(200)[0])
    again = FeatureDistance.from_bytes(with_early.to_bytes(), "x")
    assert (again(features, features) == with_early(features, features)).all()
    del (arrays := with_early.arrays)["early.limit"]
    with pytest.raises(ModelError, match=r"^x: not the distance of a run"):
        FeatureDistance.from_bytes(safetensors.numpy.save(arrays), "x")
