"""Classes that a trained network does not know at all: of their training images, it recognises none.

A high accuracy hides such a class where it is rare, so that every run is asked at its end.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from tenfold.console import warn
from tenfold.training.augment import Normalization
from tenfold.training.device import DeviceConfig
from tenfold.training.images import ImageTensor, rows_of
from tenfold.training.infer import Logits, predict_logits

FIRST_IMAGES = 32
"""Of each class, looked at first: one image that is recognised clears its class, so that hardly any needs more."""


def warn_of_untrained_classes(classes: Sequence[str], counts: Sequence[int], val_labels: Sequence[int]) -> None:
    """Name the classes that no training image is left of (`counts`, one a class), and say where theirs are."""
    held_out = Counter(val_labels)
    for label in (label for label, count in enumerate(counts) if count == 0):
        held = held_out[label]
        all_of_them = f"all {held:,} are validation images" if held > 1 else "its only one is a validation image"
        where = all_of_them if held else "there are none"
        do = "choose a smaller --val-size, add images of it" if held_out[label] else "add images of it"
        warn(f"class {classes[label]!r} has no training image, {where}: it cannot be learned; {do}, or leave it out")


def warn_of_weightless_classes(classes: Sequence[str], labels: Tensor, weights: Tensor | None) -> None:
    """Name the classes of whose training images (labels int64 N) none counts: weights, float N, are the losses'."""
    if weights is None:
        return
    counting = set(labels[weights > 0].tolist())
    for label in sorted(set(labels.tolist()) - counting):
        why = "every training image of it that was drawn has the weight 0"
        warn(f"class {classes[label]!r} cannot be learned: {why}; give more of them a weight above 0, or leave it out")


def find_unlearned_classes(
    network: nn.Module,
    images: ImageTensor,
    labels: Tensor,
    normalization: Normalization,
    device_config: DeviceConfig,
    predict: Callable[..., Logits] = predict_logits,
) -> list[int]:
    """Labels, in rising order, of whose images (uint8 N×H×W×3, labels int64 N) not one is predicted right.

    Each image is seen once, as it is. Classes without images are left out. predict: what gives the logits.
    """

    def recognised(indices: Tensor) -> set[int]:
        truth = labels[indices].cpu()
        predicted = predict(network, rows_of(images, indices), normalization, device_config).single.argmax(1)
        return set(truth[predicted == truth].tolist())

    present = labels.unique().tolist()
    first = torch.cat([(labels == label).nonzero().flatten()[:FIRST_IMAGES] for label in present])
    doubtful = sorted(set(present) - recognised(first))
    # only a class that is wholly wrong so far is looked at to its last image
    return [label for label in doubtful if label not in recognised((labels == label).nonzero().flatten())]
