"""Pure functions of logits and labels: accuracy, calibration, confusions.

Legend: N images, K classes. `logits` are N×K floating point, `labels` and `predicted` N integers in [0, K). Sums run in
float64. Whatever takes logits raises `ModelError` when one of them is not finite: a score of NaNs would be a lie.

pandas (0.4 s) and scikit-learn (2 s) are imported where they are used: a run prints its scores without them.
"""

import math
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from tenfold.console import percent
from tenfold.errors import ModelError

if TYPE_CHECKING:
    import pandas as pd

SUMMARY_ROWS = ("accuracy", "macro avg", "weighted avg")
"""The last rows of `per_class`, in this order; a class may bear one of these names, so count from the end."""

Z95 = 1.959963984540054  # the normal distribution's 97.5 % quantile


def log_probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Log-softmax of logits divided by `temperature` (> 0): float64, N×K, stable for logits of any finite size."""
    _require_finite(logits)
    scaled: np.ndarray = logits.astype(np.float64) / temperature
    scaled -= scaled.max(axis=1, keepdims=True)
    scaled -= np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return scaled


def probabilities(logits: np.ndarray, temperature: float = 1.0) -> np.ndarray:
    """Softmax of logits divided by `temperature` (> 0): float64, N×K, rows sum to 1."""
    shares: np.ndarray = np.exp(log_probabilities(logits, temperature))
    return shares


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    """Share of images whose largest logit is the true class's; of equal logits the first counts."""
    _require_pairs(logits, labels)
    _require_finite(logits)
    return float((logits.argmax(axis=1) == labels).mean())


def top_k_accuracy(logits: np.ndarray, labels: np.ndarray, k: int = 5) -> float:
    """Share of images whose true class is among the `k` largest logits; `k` = 1 is `accuracy`, ties included."""
    _require_pairs(logits, labels)
    _require_finite(logits)
    own = np.take_along_axis(logits, _column(labels), axis=1)
    earlier = np.arange(logits.shape[1]) < _column(labels)
    rank = ((logits > own) | ((logits == own) & earlier)).sum(axis=1)
    return float((rank < k).mean())


def cross_entropy(logits: np.ndarray, labels: np.ndarray, label_smoothing: float = 0.0) -> float:
    """Mean cross-entropy in nats; the target is (1 − s)·one-hot + s/K, as torch's `cross_entropy` defines it."""
    _require_pairs(logits, labels)
    log_p = log_probabilities(logits)
    own = np.take_along_axis(log_p, _column(labels), axis=1).mean()
    return float(-(1 - label_smoothing) * own - label_smoothing * log_p.mean())


def expected_calibration_error(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Mean distance between confidence and accuracy over equal-width bins of confidence, weighted by their images.

    In [0, 1]; 0 means that of all predictions with a confidence of 80 %, 80 % are correct (Guo et al., 2017).
    """
    table = reliability(logits, labels, bins)
    return float((table.images * np.abs(table.confidence - table.accuracy)).sum() / len(labels))


class Reliability(NamedTuple):
    """By bin of confidence: how many images, their mean confidence and their accuracy; both 0 in an empty bin."""

    images: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray


def reliability(logits: np.ndarray, labels: np.ndarray, bins: int = 15) -> Reliability:
    """Accuracy by confidence over equal-width bins of confidence, open below: (a, b]."""
    _require_pairs(logits, labels)
    confidence = probabilities(logits).max(axis=1)
    correct = logits.argmax(axis=1) == labels
    bin_of = np.clip(np.ceil(confidence * bins).astype(np.intp) - 1, 0, bins - 1)
    images = np.bincount(bin_of, minlength=bins)
    sums = (np.bincount(bin_of, weights=values, minlength=bins) for values in (confidence, correct))
    return Reliability(images, *(total / np.maximum(images, 1) for total in sums))


def wilson_interval(correct: int, n: int) -> tuple[float, float]:
    """95 % interval of an accuracy of `correct` out of `n` images (Wilson, 1927); (0, 1) when n = 0.

    Unlike p ± 1.96·√(p(1−p)/n) it stays within [0, 1] and does not collapse at 0 and 1.
    """
    if n == 0:
        return 0.0, 1.0
    share, z2 = correct / n, Z95**2
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(share * (1 - share) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, k: int) -> np.ndarray:
    """Counts, int64 K×K: rows are true classes, columns predicted ones."""
    cells = labels.astype(np.int64) * k + predicted.astype(np.int64)
    return np.bincount(cells, minlength=k * k).reshape(k, k)


def top_confusions(matrix: np.ndarray, most: int = 5) -> list[tuple[int, int, int]]:
    """The cells off the diagonal with most images: true class, predicted class, images; the largest first."""
    wrong = matrix * (1 - np.eye(len(matrix), dtype=matrix.dtype))
    largest = np.argsort(-wrong, axis=None, kind="stable")[:most]
    cells = zip(*np.unravel_index(largest, wrong.shape), strict=True)
    return [
        (int(true), int(predicted), int(wrong[true, predicted])) for true, predicted in cells if wrong[true, predicted]
    ]


def balanced_accuracy(matrix: np.ndarray) -> float:
    """Mean recall of the classes that have images, from their confusion matrix K×K: each class counts alike."""
    recalls, _ = _recalls(matrix)
    return float(recalls.mean())


def balanced_interval(matrix: np.ndarray) -> tuple[float, float]:
    """95 % interval of the balanced accuracy, from Wilson's of each class's recall (Zou and Donner, 2008)."""
    recalls, counts = _recalls(matrix)
    limits = np.array(
        [wilson_interval(round(p * n), n) for p, n in zip(recalls.tolist(), counts.tolist(), strict=True)]
    )
    below, above = np.sqrt(np.square(recalls[:, None] - limits).sum(axis=0)) / len(recalls)
    return float(recalls.mean() - below), float(recalls.mean() + above)


def macro_f1(matrix: np.ndarray) -> float:
    """Mean F1 of the classes that have images, from their confusion matrix K×K."""
    right, both = np.diag(matrix), matrix.sum(axis=0) + matrix.sum(axis=1)
    present = matrix.sum(axis=1) > 0
    return float((2 * right[present] / both[present]).mean())


def _recalls(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and number of images of each class that has images."""
    counts = matrix.sum(axis=1)
    present = counts > 0
    return np.diag(matrix)[present] / counts[present], counts[present]


def per_class(labels: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> "pd.DataFrame":
    """Precision, recall, F1 (each in [0, 1]) and support of each class, then the three `SUMMARY_ROWS`.

    Columns `precision`, `recall`, `f1`, `support` (images, int), `recall_low` and `recall_high` (95 % interval of the
    recall); the index holds class names in label order. All three scores of the row `accuracy` are the accuracy. A
    class that is never predicted has precision 0. A class that no image is of has NaN for scores and counts in no
    average: there is nothing to score it on.
    """
    import pandas as pd
    from sklearn.metrics import classification_report

    # Numbers stand in for names, since scikit-learn keys its answer by name: a class called "accuracy" would be lost.
    present = np.unique(labels).tolist()
    report = classification_report(
        labels, predicted, labels=present, target_names=[str(n) for n in present], output_dict=True, zero_division=0
    )
    share = float((labels == predicted).mean())
    report["accuracy"] = {"precision": share, "recall": share, "f1-score": share, "support": len(labels)}
    absent = {"precision": math.nan, "recall": math.nan, "f1-score": math.nan, "support": 0}
    rows = [report.get(str(number), absent) for number in range(len(classes))] + [report[key] for key in SUMMARY_ROWS]
    frame = pd.DataFrame(rows, index=pd.Index([*classes, *SUMMARY_ROWS], name="class"))
    limits = _recall_limits(confusion_matrix(labels, predicted, len(classes)))
    frame = frame.rename(columns={"f1-score": "f1"}).astype({"support": int})
    return frame.assign(recall_low=[low for low, _ in limits], recall_high=[high for _, high in limits])


def _recall_limits(matrix: np.ndarray) -> list[tuple[float, float]]:
    """95 % intervals of the column `recall` of `per_class`, its summary included."""
    right, counts = np.diag(matrix).tolist(), matrix.sum(axis=1).tolist()
    own = [wilson_interval(*pair) if pair[1] else (math.nan, math.nan) for pair in zip(right, counts, strict=True)]
    whole = wilson_interval(sum(right), sum(counts))
    return [*own, whole, balanced_interval(matrix), whole]


def predictions(
    logits: np.ndarray, labels: np.ndarray, classes: Sequence[str], temperature: float = 1.0
) -> "pd.DataFrame":
    """One row an image: true class, predicted class, confidence.

    Columns: `index` (position in the data), `true`, `predicted` (class names), `probability` (of the predicted class),
    `margin` (that minus the runner-up's), `loss` (cross-entropy in nats), `correct` (bool). Probabilities and loss are
    those after division by `temperature`.
    """
    import pandas as pd

    _require_pairs(logits, labels)
    log_p = log_probabilities(logits, temperature)
    runner_up, top = np.exp(np.partition(log_p, -2, axis=1)[:, -2:]).T
    predicted, names = logits.argmax(axis=1), np.asarray(classes, dtype=object)
    columns = {
        "index": np.arange(len(labels)),
        "true": names[labels],
        "predicted": names[predicted],
        "probability": top,
        "margin": top - runner_up,
        "loss": -np.take_along_axis(log_p, _column(labels), axis=1)[:, 0],
        "correct": predicted == labels,
    }
    return pd.DataFrame(columns)


def to_records(frame: "pd.DataFrame") -> list[dict[str, Any]]:
    """The table of `per_class` as rows for JSON; None where there is no score."""
    rows = frame.reset_index().to_dict("records")
    return [{str(key): None if value != value else value for key, value in row.items()} for row in rows]


def absent_note(absent: Sequence[str]) -> str:
    """A note on the classes without test images; empty where there are none."""
    if not absent:
        return ""
    more = f" and {len(absent) - 10:,} more" if len(absent) > 10 else ""
    return f"No test images of {', '.join(shown(name) for name in absent[:10])}{more}: left out of the macro average"


def format_per_class(frame: "pd.DataFrame") -> str:
    """The table of `per_class` as aligned plain text: percentages, the summary below a rule, no final newline."""
    names = [shown(str(name)) for name in frame.index]
    width = max(_cells(name) for name in names)
    header = " " * width + "  precision   recall      95 % interval       F1   images"
    lines = [
        f"{name}{' ' * (width - _cells(name))}  {_score(row.precision)}{_score(row.recall)}"
        f"{_limits(row.recall_low, row.recall_high)}{_score(row.f1)}{row.support:9,}"
        for name, row in zip(names, frame.itertuples(), strict=True)
    ]
    rule = "─" * len(header)
    summary = len(SUMMARY_ROWS)
    note = absent_note([str(name) for name in frame.index[:-summary][frame["support"].to_numpy()[:-summary] == 0]])
    return "\n".join([header, rule, *lines[:-summary], rule, *lines[-summary:], *([note] if note else [])])


def _limits(low: Any, high: Any) -> str:
    return f"{'–':>19}" if math.isnan(low) else f"{f'{low:.1%} to {high:.1%}':>19}"


def _score(share: Any) -> str:
    return f"{'–':>9}" if math.isnan(share) else f"{share:9.2%}"


def format_confusions(confusions: Sequence[tuple[int, int, int]], classes: Sequence[str]) -> str:
    """The output of `top_confusions` in a sentence."""
    cells = [
        f"{shown(classes[true])} as {shown(classes[predicted])} {count:,} ×" for true, predicted, count in confusions
    ]
    return f"top confusions: {', '.join(cells)}" if cells else "no mistakes"


def shown(name: str, longest: int = 32) -> str:
    """A class name fit to be shown: control characters replaced, cut with an ellipsis after `longest` characters."""
    clean = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    return clean if len(clean) <= longest else clean[: longest - 1] + "…"


def _cell(share: Any) -> str:
    return percent(float(share), 2, "%").rjust(9)


def format_confidence(probability: float) -> str:
    """A confidence in whole percent; near 100 % one more digit: 0.9961 is 99.6 %, 0.9996 > 99.9 %."""
    return percent(probability, 1 if 0.995 <= probability < 1 else 0)


def _require_pairs(logits: np.ndarray, labels: np.ndarray) -> None:
    assert logits.ndim == 2 and logits.shape[1] >= 2 and labels.shape == (len(logits),) and len(labels) > 0


def _require_finite(logits: np.ndarray) -> None:
    bad = logits.size - int(np.isfinite(logits).sum())
    if bad:
        raise ModelError(
            f"{bad:,} of the model's {logits.size:,} logits are not finite; its weights are damaged or it diverged "
            "in training: train it again, or take another checkpoint"
        )


def _column(labels: np.ndarray) -> np.ndarray:
    return labels.astype(np.intp)[:, None]


def _cells(text: str) -> int:
    """Columns of a terminal that `text` takes: East Asian wide letters take two, combining ones none."""
    wide = sum(unicodedata.east_asian_width(letter) in "WF" for letter in text)
    return len(text) + wide - sum(unicodedata.combining(letter) > 0 for letter in text)
