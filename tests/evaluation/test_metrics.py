"""Metrics against scikit-learn, torch, SciPy, and numbers worked out by hand."""

import math

import numpy as np
import pandas as pd
import pytest
import sklearn.metrics
import torch
import torchmetrics
from scipy.stats import binomtest

from tenfold.errors import ModelError
from tenfold.evaluation import metrics, significance

SIZES = [(1, 2), (7, 2), (200, 10), (300, 1000)]
COUNTED = ["precision", "recall", "f1", "support"]


def draw(n: int, k: int, scale: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(n * k)
    return (scale * rng.standard_normal((n, k))).astype(np.float32), rng.integers(0, k, n).astype(np.uint16)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("n", "k"), SIZES)
def test_cross_entropy_is_torchs(n: int, k: int, smoothing: float) -> None:
    logits, labels = draw(n, k)
    theirs = torch.nn.functional.cross_entropy(
        torch.from_numpy(logits).double(), torch.from_numpy(labels.astype(np.int64)), label_smoothing=smoothing
    )
    assert metrics.cross_entropy(logits, labels, smoothing) == pytest.approx(theirs.item(), abs=1e-12)


def test_cross_entropy_by_hand() -> None:
    logits = np.array([[math.log(3), 0.0]], np.float32)  # probabilities 3/4 and 1/4
    assert metrics.cross_entropy(logits, np.array([0])) == pytest.approx(math.log(4 / 3))
    smoothed = 0.9 * math.log(4 / 3) + 0.1 * math.log(4)  # s = 0.2: targets 0.9 and 0.1
    assert metrics.cross_entropy(logits, np.array([0]), 0.2) == pytest.approx(smoothed)


def test_probabilities_of_huge_logits_stay_finite() -> None:
    logits = np.array([[3e38, -3e38, 0.0], [-1e4, -1e4, -1e4]], np.float32)
    np.testing.assert_allclose(metrics.probabilities(logits), [[1, 0, 0], [1 / 3, 1 / 3, 1 / 3]])


def test_temperature_divides_the_logits() -> None:
    logits = np.array([[2 * math.log(3), 0.0]], np.float32)
    np.testing.assert_allclose(metrics.probabilities(logits, temperature=2.0), [[0.75, 0.25]], rtol=1e-6)


@pytest.mark.parametrize(("n", "k"), SIZES)
def test_accuracies_are_scikit_learns(n: int, k: int) -> None:
    logits, labels = draw(n, k)
    predicted = logits.argmax(axis=1)
    assert metrics.accuracy(logits, labels) == pytest.approx(sklearn.metrics.accuracy_score(labels, predicted))
    assert metrics.top_k_accuracy(logits, labels, 1) == metrics.accuracy(logits, labels)
    assert metrics.top_k_accuracy(logits, labels, k) == 1
    if k > 5:
        theirs = sklearn.metrics.top_k_accuracy_score(labels, logits, k=5, labels=range(k))
        assert metrics.top_k_accuracy(logits, labels) == pytest.approx(theirs)


def test_of_equal_logits_the_first_counts() -> None:
    logits = np.zeros((3, 3), np.float32)
    labels = np.array([0, 1, 2])
    shares = [metrics.top_k_accuracy(logits, labels, k) for k in (1, 2, 3)]
    assert shares == pytest.approx([1 / 3, 2 / 3, 1])
    assert metrics.accuracy(logits, labels) == pytest.approx(1 / 3)


def logits_of_confidence(confidences: list[float]) -> np.ndarray:
    """Two-class logits whose first class has the given probabilities."""
    p = np.array(confidences)
    return np.stack([np.log(p), np.log(1 - p)], axis=1)


def test_calibration_error_by_hand() -> None:
    # Ten images at 0.72 of which six are right (gap 0.12), ten at 0.93, all right (gap 0.07).
    logits = logits_of_confidence([0.72] * 10 + [0.93] * 10)
    labels = np.array([0] * 6 + [1] * 4 + [0] * 10)
    assert metrics.expected_calibration_error(logits, labels) == pytest.approx((0.12 + 0.07) / 2)
    # In a single bin the gaps cancel: mean confidence 0.825, accuracy 0.8.
    assert metrics.expected_calibration_error(logits, labels, bins=1) == pytest.approx(0.025)


def test_calibration_error_keeps_the_top_bins_apart() -> None:
    # 0.92 lies in (13/15, 14/15] and is wrong too often, 0.95 in (14/15, 1] and is right: gaps of 0.12 and 0.05.
    logits = logits_of_confidence([0.92] * 10 + [0.95] * 10)
    labels = np.array([1] * 2 + [0] * 18)
    assert metrics.expected_calibration_error(logits, labels) == pytest.approx((0.12 + 0.05) / 2)


def test_calibration_error_of_perfect_calibration_and_of_certain_error() -> None:
    calibrated = logits_of_confidence([0.8] * 10)
    assert metrics.expected_calibration_error(calibrated, np.array([0] * 8 + [1] * 2)) == pytest.approx(0)
    certain = np.array([[1000.0, 0.0]] * 4, np.float32)
    assert metrics.expected_calibration_error(certain, np.ones(4, int)) == 1


@pytest.mark.parametrize(("correct", "n"), [(0, 1), (1, 1), (8874, 10000), (0, 50), (50, 50), (3, 7)])
def test_wilson_interval_is_scipys(correct: int, n: int) -> None:
    theirs = binomtest(correct, n).proportion_ci(method="wilson")
    assert metrics.wilson_interval(correct, n) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_wilson_interval_of_nothing_says_nothing() -> None:
    assert metrics.wilson_interval(0, 0) == (0, 1)


@pytest.mark.parametrize(("n", "k"), SIZES)
def test_confusion_matrix_is_scikit_learns(n: int, k: int) -> None:
    logits, labels = draw(n, k)
    predicted = logits.argmax(axis=1)
    theirs = sklearn.metrics.confusion_matrix(labels, predicted, labels=range(k))
    np.testing.assert_array_equal(metrics.confusion_matrix(labels, predicted, k), theirs)


def test_confusion_matrix_has_true_classes_in_rows_and_bytes_do_not_overflow() -> None:
    labels, predicted = np.array([200, 200, 3], np.uint8), np.array([3, 200, 3], np.uint8)
    matrix = metrics.confusion_matrix(labels, predicted, 201)
    assert matrix[200, 3] == 1 and matrix[200, 200] == 1 and matrix[3, 3] == 1 and matrix.sum() == 3


def test_scores_that_count_classes_alike_by_hand() -> None:
    """Three of four right, none of one; the third class has no images."""
    matrix = np.array([[3, 1, 0], [1, 0, 0], [0, 0, 0]])
    assert metrics.balanced_accuracy(matrix) == pytest.approx((3 / 4 + 0) / 2)
    assert metrics.macro_f1(matrix) == pytest.approx((2 * 3 / (4 + 4) + 0) / 2)
    (low, high), (zero, most) = metrics.wilson_interval(3, 4), metrics.wilson_interval(0, 1)
    below, above = math.hypot(0.75 - low, 0 - zero) / 2, math.hypot(high - 0.75, most - 0) / 2
    assert metrics.balanced_interval(matrix) == pytest.approx((0.375 - below, 0.375 + above))


@pytest.mark.parametrize(("n", "k"), SIZES)
def test_scores_that_count_classes_alike_are_scikit_learns(n: int, k: int) -> None:
    logits, labels = draw(n, k)
    predicted, present = logits.argmax(axis=1), np.unique(labels)
    matrix = metrics.confusion_matrix(labels, predicted, k)
    theirs = sklearn.metrics.f1_score(labels, predicted, labels=present, average="macro", zero_division=0)
    assert metrics.macro_f1(matrix) == pytest.approx(theirs)
    recall = sklearn.metrics.recall_score(labels, predicted, labels=present, average="macro", zero_division=0)
    assert metrics.balanced_accuracy(matrix) == pytest.approx(recall)


def test_the_interval_of_the_balanced_accuracy_holds_what_it_says() -> None:
    """Of many draws from classes of 100, 30 and 10 images, about 95 % of the intervals hold the true value."""
    random, sizes, recalls = np.random.default_rng(0), (100, 30, 10), (0.9, 0.7, 0.6)
    held = 0
    for _ in range(1000):
        right = [random.binomial(n, p) for n, p in zip(sizes, recalls, strict=True)]
        matrix = np.diag(right)
        matrix[:, 0] += [0, *(n - found for n, found in zip(sizes[1:], right[1:], strict=True))]
        matrix[0, 1] = sizes[0] - right[0]
        low, high = metrics.balanced_interval(matrix)
        held += low <= sum(recalls) / 3 <= high
    assert 0.93 <= held / 1000 <= 0.98


def test_per_class_by_hand() -> None:
    labels = np.array([0, 0, 0, 1, 1, 2], np.uint8)
    predicted = np.array([0, 0, 1, 1, 1, 0])  # "c" is never predicted
    frame = metrics.per_class(labels, predicted, ["a", "b", "c"])
    assert list(frame.index) == ["a", "b", "c", "accuracy", "macro avg", "weighted avg"]
    assert list(frame.columns) == [*COUNTED, "recall_low", "recall_high"]
    expected = [
        [2 / 3, 2 / 3, 2 / 3, 3],
        [2 / 3, 1, 0.8, 2],
        [0, 0, 0, 1],
        [4 / 6, 4 / 6, 4 / 6, 6],
        [4 / 9, 5 / 9, (2 / 3 + 0.8) / 3, 6],
        [10 / 18, 4 / 6, (3 * 2 / 3 + 2 * 0.8) / 6, 6],
    ]
    np.testing.assert_allclose(frame[COUNTED].to_numpy(), expected)
    assert frame["support"].dtype == int
    limits = frame[["recall_low", "recall_high"]].to_numpy()
    np.testing.assert_allclose(limits[:3], [metrics.wilson_interval(*pair) for pair in ((2, 3), (2, 2), (0, 1))])
    np.testing.assert_allclose(limits[[3, 5]], [metrics.wilson_interval(4, 6)] * 2)


@pytest.mark.parametrize(("n", "k"), SIZES)
def test_per_class_is_scikit_learns(n: int, k: int) -> None:
    logits, labels = draw(n, k)
    predicted = logits.argmax(axis=1)
    frame = metrics.per_class(labels, predicted, [f"class {i}" for i in range(k)])
    theirs = sklearn.metrics.precision_recall_fscore_support(labels, predicted, labels=range(k), zero_division=0)
    present = np.bincount(labels, minlength=k) > 0
    np.testing.assert_allclose(frame[COUNTED].iloc[:k].to_numpy()[present], np.stack(theirs, axis=1)[present])
    assert frame.iloc[:k, :3].isna().all(axis=1).tolist() == (~present).tolist()
    assert frame.loc["accuracy", "f1"] == pytest.approx(metrics.accuracy(logits, labels))


def test_a_class_that_no_image_is_of_counts_in_no_average() -> None:
    """By hand. "c" is predicted once but true never; "d" is neither; "b" is true, but never predicted, and counts."""
    frame = metrics.per_class(np.array([0, 0, 0, 0, 1]), np.array([0, 0, 0, 2, 0]), ["a", "b", "c", "d"])
    nan = float("nan")
    expected = [
        [3 / 4, 3 / 4, 3 / 4, 4],
        [0, 0, 0, 1],
        [nan, nan, nan, 0],
        [nan, nan, nan, 0],
        [3 / 5, 3 / 5, 3 / 5, 5],
        [3 / 8, 3 / 8, 3 / 8, 5],  # of a and b; of all four it was 3/16
        [3 / 5, 3 / 5, 3 / 5, 5],
    ]
    np.testing.assert_allclose(frame[COUNTED].to_numpy(), expected)
    nothing = dict.fromkeys(["precision", "recall", "f1", "recall_low", "recall_high"])
    assert metrics.to_records(frame)[2] == {"class": "c", "support": 0} | nothing
    lines = metrics.format_per_class(frame).splitlines()
    assert lines[4] == "c                     –        –                  –        –        0"
    assert lines[-1] == "No test images of c, d: left out of the macro average"


def test_per_class_keeps_a_class_called_accuracy() -> None:
    frame = metrics.per_class(np.array([0, 1]), np.array([0, 0]), ["accuracy", "macro avg"])
    assert list(frame.index) == ["accuracy", "macro avg", *metrics.SUMMARY_ROWS]
    assert frame["recall"].tolist() == [1, 0, 0.5, 0.5, 0.5]


def test_predictions_by_hand() -> None:
    logits = np.log(np.array([[0.7, 0.2, 0.1], [0.25, 0.5, 0.25]]))
    frame = metrics.predictions(logits, np.array([0, 2], np.uint8), ["cat", "dog", "owl"])
    expected = pd.DataFrame(
        {
            "index": [0, 1],
            "true": ["cat", "owl"],
            "predicted": ["cat", "dog"],
            "probability": [0.7, 0.5],
            "margin": [0.5, 0.25],
            "loss": [-math.log(0.7), -math.log(0.25)],
            "correct": [True, False],
        }
    )
    pd.testing.assert_frame_equal(frame, expected, check_dtype=False)
    assert frame["correct"].dtype == bool


@pytest.mark.parametrize(("n", "k"), SIZES)
def test_predictions_agree_with_the_scores(n: int, k: int) -> None:
    logits, labels = draw(n, k)
    frame = metrics.predictions(logits, labels, [str(i) for i in range(k)], temperature=1.7)
    assert frame["correct"].mean() == pytest.approx(metrics.accuracy(logits, labels))
    assert frame["loss"].mean() == pytest.approx(metrics.cross_entropy(logits / np.float32(1.7), labels), rel=1e-5)
    two = np.sort(metrics.probabilities(logits, 1.7), axis=1)[:, -2:]
    np.testing.assert_allclose(frame["margin"], two[:, 1] - two[:, 0])


@pytest.mark.parametrize("score", [metrics.accuracy, metrics.cross_entropy, metrics.top_k_accuracy])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_logits_that_are_not_finite_are_refused(score, bad: float) -> None:  # type: ignore[no-untyped-def]
    logits, labels = draw(200, 10)
    logits[3, 4] = logits[5, 6] = bad
    with pytest.raises(ModelError, match=r"2 of the model's 2,000 logits are not finite.*train it again"):
        score(logits, labels)


@pytest.mark.parametrize(("n", "k"), SIZES[1:])
def test_scores_are_torchmetrics(n: int, k: int) -> None:
    """Theirs are computed in float32."""
    logits, labels = draw(n, k)
    ours, theirs = torch.from_numpy(logits).double(), torch.from_numpy(labels.astype(np.int64))
    score = torchmetrics.functional.classification

    def same(found: float, tensor: torch.Tensor) -> None:
        assert found == pytest.approx(tensor.item(), abs=1e-6)

    same(metrics.accuracy(logits, labels), score.multiclass_accuracy(ours, theirs, k, average="micro"))
    top = min(5, k)
    same(
        metrics.top_k_accuracy(logits, labels, top),
        score.multiclass_accuracy(ours, theirs, k, average="micro", top_k=top),
    )
    gap = score.multiclass_calibration_error(torch.from_numpy(metrics.probabilities(logits)), theirs, k, n_bins=15)
    same(metrics.expected_calibration_error(logits, labels), gap)
    matrix = score.multiclass_confusion_matrix(ours, theirs, k).numpy()
    np.testing.assert_array_equal(metrics.confusion_matrix(labels, logits.argmax(1), k), matrix)
    frame = metrics.per_class(labels, logits.argmax(1), [str(i) for i in range(k)]).iloc[:k]
    for name in ("precision", "recall", "f1_score"):
        values = getattr(score, f"multiclass_{name}")(ours, theirs, k, average="none").numpy()
        present = frame["support"].to_numpy() > 0  # theirs are 0 for the others
        np.testing.assert_allclose(frame[name.removesuffix("_score")][present], values[present], atol=1e-6)


def test_reliability_by_hand() -> None:
    logits = logits_of_confidence([0.72] * 10 + [0.93] * 10)
    table = metrics.reliability(logits, np.array([0] * 6 + [1] * 4 + [0] * 10), bins=10)
    assert table.images.tolist() == [0, 0, 0, 0, 0, 0, 0, 10, 0, 10]
    np.testing.assert_allclose(table.confidence[[7, 9]], [0.72, 0.93])
    np.testing.assert_allclose(table.accuracy[[7, 9]], [0.6, 1.0])
    assert table.accuracy[0] == 0


def test_top_confusions_are_sorted_and_leave_the_diagonal_out() -> None:
    matrix = np.array([[90, 3, 0], [7, 80, 3], [0, 0, 70]])
    assert metrics.top_confusions(matrix, 2) == [(1, 0, 7), (0, 1, 3)]
    assert metrics.top_confusions(matrix) == [(1, 0, 7), (0, 1, 3), (1, 2, 3)]
    said = metrics.format_confusions(metrics.top_confusions(matrix, 1), ["cat", "dog", "owl"])
    assert said == "top confusions: dog as cat 7 ×"
    assert metrics.format_confusions(metrics.top_confusions(np.eye(3, dtype=int)), ["a", "b", "c"]) == "no mistakes"


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 0), (5, 5), (1, 9), (30, 12), (253, 268)])
def test_pairs_are_compared_by_the_exact_binomial_test(only_first: int, only_second: int) -> None:
    first, second = np.ones(1000, bool), np.ones(1000, bool)
    second[:only_first] = False
    first[only_first : only_first + only_second] = False
    pair = significance.compare_pair(first, second)
    assert (pair.only_first, pair.only_second) == (only_first, only_second)
    differing = only_first + only_second
    assert pair.p == pytest.approx(binomtest(only_first, differing).pvalue if differing else 1)
    steps = second.astype(float) - first
    half = 1.959964 * steps.std() / math.sqrt(1000)
    assert pair.difference == pytest.approx(steps.mean())
    assert pair.interval == pytest.approx((steps.mean() - half, steps.mean() + half))


def test_holm_by_hand() -> None:
    assert significance.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert significance.holm([0.5, 0.9]) == pytest.approx([1, 1])
    assert significance.holm([]) == []


def test_format_per_class() -> None:
    frame = metrics.per_class(np.array([0] * 999 + [1]), np.zeros(1000, int), ["cat", "a dog"])
    assert metrics.format_per_class(frame).splitlines() == [
        "              precision   recall      95 % interval       F1   images",
        "─────────────────────────────────────────────────────────────────────",
        "cat              99.90%  100.00%    99.6% to 100.0%   99.95%      999",
        "a dog             0.00%    0.00%      0.0% to 79.3%    0.00%        1",
        "─────────────────────────────────────────────────────────────────────",
        "accuracy         99.90%   99.90%    99.4% to 100.0%   99.90%    1,000",
        "macro avg        49.95%   50.00%     49.8% to 89.7%   49.97%    1,000",
        "weighted avg     99.80%   99.90%    99.4% to 100.0%   99.85%    1,000",
    ]


def test_only_certainty_is_a_hundred_percent() -> None:
    """The surest mistakes, 99.97 % most of them, were all said to be 100 % sure."""
    said = [metrics.format_confidence(share) for share in (0.0, 0.004, 0.5, 0.994, 0.9951, 0.9996, 0.99999, 1.0)]
    assert said == ["0 %", "< 1 %", "50 %", "99 %", "99.5 %", "> 99.9 %", "> 99.9 %", "100 %"]


def test_format_per_class_of_awkward_names() -> None:
    frame = metrics.per_class(np.array([0, 1, 2]), np.array([0, 1, 2]), ["x" * 60, "猫", "a\x1b[31m\nb"])
    lines = metrics.format_per_class(frame).splitlines()
    assert lines[2].startswith("x" * 31 + "…  ")
    assert lines[3].startswith("猫" + " " * 32 + "  100.00%"), "a wide letter takes two columns"
    assert lines[4].startswith("a�[31m�b ")
