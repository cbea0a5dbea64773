"""Classes of whose training images not one is recognised."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tenfold.training.augment import Normalization
from tenfold.training.device import DeviceConfig
from tenfold.training.unlearned import FIRST_IMAGES, find_unlearned_classes, warn_of_weightless_classes

CPU = DeviceConfig(torch.device("cpu"), torch.float32, 1, ())


class ByBrightness(nn.Module):
    """Predicts class n for an image whose pixels are all n; counts the images that it saw."""

    seen = 0

    def forward(self, x: Tensor) -> Tensor:
        self.seen += len(x)
        values = (x[:, 0, 0, 0] * 255).round().long()
        return torch.nn.functional.one_hot(values, 5).float()


def find(answers: list[int], labels: list[int]) -> tuple[list[int], int]:
    """The unlearned classes where images of these labels get these answers, and how many images were looked at."""
    network = ByBrightness()
    images = torch.from_numpy(np.array(answers, np.uint8)[:, None, None, None].repeat(3, 3))
    return find_unlearned_classes(network, images, torch.tensor(labels), Normalization(), CPU), network.seen


def test_a_class_is_unlearned_where_all_its_images_are_mistaken() -> None:
    """Class 2 is taken for 0 and 1; class 1 is right once; class 3 has no image, class 4 is always right."""
    found, _ = find([0, 0, 0, 1, 0, 1, 4], [0, 0, 1, 1, 2, 2, 4])
    assert found == [2]


def test_one_recognised_image_at_the_end_of_many_clears_its_class() -> None:
    answers = [1] * 3 * FIRST_IMAGES + [0]
    assert find(answers, [0] * len(answers))[0] == []


def test_only_doubtful_classes_are_looked_at_to_the_end() -> None:
    """Classes of 1,000 images: 32 of each, then the 1,000 of the one that is wrong in these."""
    found, seen = find([0] * 1000 + [0] * 1000, [0] * 1000 + [1] * 1000)
    assert found == [1]
    assert seen == 2 * FIRST_IMAGES + 1000


def test_a_class_whose_images_all_weigh_nothing_is_named_before_training(capsys: pytest.CaptureFixture[str]) -> None:
    """It was only seen afterwards, among the classes that were not learned."""
    labels = torch.tensor([0, 0, 1, 1, 2])
    warn_of_weightless_classes(["ant", "bee", "cat"], labels, torch.tensor([0.0, 1, 0, 0, 2]))
    (line,) = capsys.readouterr().err.splitlines()
    assert "class 'bee' cannot be learned: every training image of it that was drawn has the weight 0" in line
    warn_of_weightless_classes(["ant", "bee", "cat"], labels, None)
    assert capsys.readouterr().err == ""
