"""Which of the test images a page shows, where it cannot show all.

Legend: N images, K classes; `labels` and `predicted` int N in [0, K), `confidence` and `loss` float N.
"""

import numpy as np

FIRST = 25
EACH = 8


def ranks(groups: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Each image's place within its group, 0 for the smallest value."""
    order = np.lexsort((values, groups))
    sorted_groups = groups[order]
    starts = np.flatnonzero(np.r_[True, sorted_groups[1:] != sorted_groups[:-1]])
    places = np.arange(len(groups)) - np.repeat(starts, np.diff(np.r_[starts, len(groups)]))
    found = np.empty(len(groups), np.int64)
    found[order] = places
    return found


def choose(
    labels: np.ndarray, predicted: np.ndarray, confidence: np.ndarray, loss: np.ndarray, most: int
) -> np.ndarray:
    """Numbers of at most `most` images, in rising order.

    In this order: the first 25; the most confident mistakes; of every class its worst images and the most confident
    correct ones, up to half of the page; in turn, the most and the least confident image of every cell of the confusion
    matrix; all other mistakes, the most confident first.
    """
    n, cells = len(labels), labels.astype(np.int64) * (int(max(labels.max(), predicted.max())) + 1) + predicted
    mistakes = np.flatnonzero(labels != predicted)
    mistakes = mistakes[np.argsort(-confidence[mistakes], kind="stable")]
    confident_right = np.where(labels == predicted, ranks(cells, -confidence), n)
    of_class = np.minimum(ranks(labels, -loss), confident_right)
    of_cell = np.minimum(ranks(cells, -confidence), ranks(cells, confidence))
    turns = np.minimum(of_class, of_cell)
    shown_first = of_class < min(EACH, most // (4 * (int(labels.max()) + 1)))
    by_turn = np.lexsort((turns, ~shown_first))
    by_turn = by_turn[turns[by_turn] < EACH]
    wanted = np.concatenate([np.arange(min(FIRST, n)), mistakes[:FIRST], by_turn, mistakes])
    _, firsts = np.unique(wanted, return_index=True)
    return np.sort(wanted[np.sort(firsts)][:most])
