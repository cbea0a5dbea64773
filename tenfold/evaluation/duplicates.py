"""Train–test duplicates: candidates are nearest neighbours in the network's features, confirmed in pixels.

Barz and Denzler ("Do we train on test data?", 2020) found such pairs for 3.25 % of CIFAR-10's test images by eye, in
features of a network. Here the nearest training images in the run's own features are compared in pixels. The score of
a pair is the mean of two correlations, of brightness and of its slopes, after the best shift of a few pixels, mirrored
or not. So light, contrast, colour, re-encoding and small shifts do not hide a duplicate, while two ships before the
same horizon have different slopes.

Shapes: N test and M training images, S×S pixels, uint8 N×S×S×3.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold.data.stored import Images, batches
from tenfold.training.device import DeviceConfig
from tenfold.training.features import extract_features
from tenfold.training.images import ImageTensor
from tenfold.training.weights import Model

LEAST_SCORE = 0.80
"""From this score on a pair counts; docs/guides/audit.md says how it was set."""
SAME_SCORE = 0.90
NEAREST = 10
_LEAST_ROUGHLY = 0.82
_SIDE = 32
_ROUGH_SIDE = 8
_ROUGH_SHIFTS = (-2, 0, 2)
_SEARCH_BLOCK = 500
_PAIR_BLOCK = 1000


@dataclass(frozen=True)
class Pair:
    """Test image `test` shows what training image `train` shows.

    kind: "duplicate" for the same pixels in place (up to light, contrast, colour, encoding), "near duplicate" for those
    that are shifted, mirrored, cut or edited. score: in [LEAST_SCORE, 1].
    """

    test: int
    train: int
    kind: str
    score: float
    mirrored: bool


def embed(
    model: Model,
    images: ImageTensor,
    device_config: DeviceConfig,
    on_batch: Callable[[float], None] = lambda share: None,
) -> Tensor:
    """Inputs of the last layer for uint8 N×S×S×3: float32 N×D, each row of length 1."""
    features = extract_features(model.network, images, model.normalization, device_config, on_batch)
    return F.normalize(features, dim=1)


def find_duplicates(test: Images, train: Images, test_features: Tensor, train_features: Tensor) -> list[Pair]:
    """The best pair of every test image that has one; highest score first.

    Neighbours are those in features (float32 N×D and M×D, rows of length 1) and at 8×8 pixels together.
    """
    seen, known = _grey(test), _grey(train)
    found = [
        _score_neighbours(images, known, test_features, train_features, mirrored)
        for images, mirrored in ((seen, False), (seen.flip(2), True))
    ]
    pairs = _identical(test, train) + sorted((pair for pairs in found for pair in pairs), key=lambda pair: -pair.score)
    chosen: dict[int, Pair] = {}
    for pair in pairs:
        chosen.setdefault(pair.test, pair)
    return list(chosen.values())


def _identical(test: Images, train: Images) -> list[Pair]:
    """Images with the very same pixels; those of one colour have nothing that could be compared."""
    known = {digest: number for number, digest in reversed(list(enumerate(_digests(train))))}
    numbers = [known.get(digest) for digest in _digests(test)]
    return [Pair(n, found, "duplicate", 1.0, False) for n, found in enumerate(numbers) if found is not None]


def _digests(images: Images) -> Iterator[bytes]:
    """SHA-256 of each image's pixels."""
    for batch in batches(images):
        yield from (hashlib.sha256(image.tobytes()).digest() for image in batch)


def _grey(images: Images) -> Tensor:
    """Mean of the channels, float32 N×S×S, S at most 32."""
    return torch.cat([_small_grey(batch) for batch in batches(images)])


def _small_grey(images: np.ndarray) -> Tensor:
    grey = torch.from_numpy(images.mean(axis=3, dtype=np.float32))
    return grey if grey.shape[1] <= _SIDE else F.adaptive_avg_pool2d(grey[:, None], _SIDE)[:, 0]


def _score_neighbours(
    test: Tensor, train: Tensor, test_features: Tensor, train_features: Tensor, mirrored: bool
) -> list[Pair]:
    rough, known = _rough(test), _rough(train)
    # twice the features, since a shift changes what is seen less than it changes the pixels
    tests, trains = _nearest(torch.cat((2 * test_features, rough), 1), torch.cat((train_features, known), 1))
    kept = torch.zeros(len(tests), dtype=torch.bool)  # most need no closer look
    for rows in _ROUGH_SHIFTS:
        for columns in _ROUGH_SHIFTS:
            shifted = _rough(test.roll((rows, columns), (1, 2)))
            kept |= (shifted[tests] * known[trains]).sum(1) > _LEAST_ROUGHLY
    tests, trains = tests[kept], trains[kept]
    pairs = []
    for t, m in zip(tests.split(_PAIR_BLOCK), trains.split(_PAIR_BLOCK), strict=True):
        best, in_place = score_pairs(test[t], train[m])
        for row in (best >= LEAST_SCORE).nonzero().flatten().tolist():
            pairs.append(_pair(int(t[row]), int(m[row]), float(best[row]), float(in_place[row]), mirrored))
    return pairs


def _rough(grey: Tensor) -> Tensor:
    """Of N×S×S, 8×8 means, without their mean, scaled to length 1: float32 N×64."""
    return _unit(F.adaptive_avg_pool2d(grey[:, None], _ROUGH_SIDE)).flatten(1)


def _nearest(test: Tensor, train: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers of each test image and of its nearest training images, a row a pair."""
    count = min(NEAREST, len(train))
    found = torch.cat([(block @ train.T).topk(count).indices for block in test.split(_SEARCH_BLOCK)])
    return torch.arange(len(test)).repeat_interleave(count), found.flatten()


def _pair(test: int, train: int, best: float, in_place: float, mirrored: bool) -> Pair:
    kind = "duplicate" if in_place >= SAME_SCORE and not mirrored else "near duplicate"
    return Pair(test, train, kind, round(min(best, 1.0), 4), mirrored)


def score_pairs(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Scores float N of grey N×S×S images: after the best shift by up to a tenth of the side, and in place."""
    reach = max(1, first.shape[1] // 10)
    middle = slice(reach, first.shape[1] - reach)
    brightness, slopes = _unit(first[:, None, middle, middle]), _unit(_slopes(first[:, middle, middle]))
    best = in_place = torch.full((len(first),), -1.0)
    for rows in range(2 * reach + 1):
        for columns in range(2 * reach + 1):
            height = first.shape[1] - 2 * reach
            window = second[:, rows : rows + height, columns : columns + height]
            pairs = ((brightness, _unit(window[:, None])), (slopes, _unit(_slopes(window))))
            score = torch.stack([(a * b).sum((1, 2, 3)) for a, b in pairs]).mean(0)
            best = torch.maximum(best, score)
            in_place = score if rows == columns == reach else in_place
    return best, in_place


def _slopes(grey: Tensor) -> Tensor:
    """Differences to the pixel below and to the right, N×2×(S−1)×(S−1)."""
    return torch.stack((grey[:, 1:, :-1] - grey[:, :-1, :-1], grey[:, :-1, 1:] - grey[:, :-1, :-1]), dim=1)


def _unit(values: Tensor) -> Tensor:
    """Each of N×C×H×W without its mean, scaled to length 1; what is flat becomes 0."""
    centred = values - values.mean((1, 2, 3), keepdim=True)
    return centred / centred.square().sum((1, 2, 3), keepdim=True).sqrt().clamp(min=1.0)
