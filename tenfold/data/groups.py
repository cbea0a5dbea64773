"""Draws whole groups of images, so that none is in two splits, with each class's share kept as well as can be.

As scikit-learn's StratifiedGroupKFold it adds groups where they bring the classes' counts nearer to what they should
be; it takes them in drawn orders instead of the largest first, so that another seed draws other groups.

Legend: N images, K classes, G groups.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

_TRIES = 20
_MANY = 2000
"""Groups: of more, one order is as good as the best of twenty."""


def unite(*keys: Iterable[str]) -> np.ndarray:
    """The group of each image, int64 N: images are in one where they have a key in common; "" is no key.

    keys: sequences of N keys each, as the groups that a user names, and the images' contents.
    """
    columns = [list(column) for column in keys]
    parents = list(range(len(columns[0])))

    def root(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    for column in columns:
        first: dict[str, int] = {}
        for row, key in enumerate(column):
            if key:
                parents[root(row)] = root(first.setdefault(key, row))
    return np.unique([root(row) for row in range(len(parents))], return_inverse=True)[1]


def draw_groups(labels: np.ndarray, groups: np.ndarray, names: Sequence[str], share: float, seed: str) -> np.ndarray:
    """Draw groups that hold about `share` of each class's images, as a mask (bool N), by `seed` and `names`.

    labels, groups: integers N; names: of the images, text N, by which the order is drawn. Each class keeps an image
    that is not drawn; one that is in one group only is not drawn at all.
    """
    members: dict[int, Counter[int]] = defaultdict(Counter)
    first: dict[int, str] = {}
    for group, label, name in zip(groups.tolist(), labels.tolist(), names, strict=True):
        members[group][label] += 1
        first[group] = min(first.get(group, name), name)
    totals = np.bincount(labels)
    targets = np.maximum(1, np.rint(share * totals))
    best, least = set[int](), np.inf
    for number in range(_TRIES if len(members) <= _MANY else 1):
        order = sorted(members, key=lambda group: _drawn(f"{seed}/{number}/{first[group]}"))
        chosen, cost = _add_groups(order, members, totals, targets)
        if cost < least:
            best, least = chosen, cost
    return np.isin(groups, list(best))


def _drawn(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def _add_groups(
    order: Sequence[int], members: dict[int, Counter[int]], totals: np.ndarray, targets: np.ndarray
) -> tuple[set[int], float]:
    """Add each group that brings the classes nearer to their targets; and how far from these they end."""
    counts, chosen = np.zeros(len(totals)), set()
    for group in order:
        own = np.array(list(members[group]))
        after = counts[own] + list(members[group].values())
        gain = _cost(counts[own], totals[own], targets[own]) - _cost(after, totals[own], targets[own])
        if (after < totals[own]).all() and gain > 0:
            counts[own] = after
            chosen.add(group)
    return chosen, _cost(counts, totals, targets)


def _cost(counts: np.ndarray, totals: np.ndarray, targets: np.ndarray) -> float:
    """How far classes are from their targets; a class without any image costs more than one with too many."""
    return float((np.square((counts - targets) / np.maximum(totals, 1)) + (counts == 0)).sum())
