"""Features of a network, against its layers called one by one."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from tenfold.training.augment import Normalization
from tenfold.training.device import DeviceConfig
from tenfold.training.features import activations
from tenfold.training.networks import WhitenedSpec
from tenfold.training.networks.whitened import ConvGroup, WhitenedConvNet
from tests.support.networks import PIXELS, make_network

CPU = DeviceConfig(torch.device("cpu"), torch.float32, 1, ())
IMAGES = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8))


def normalized(images: torch.Tensor, normalization: Normalization) -> torch.Tensor:
    return ((images / 255 - torch.tensor(normalization.mean)) / torch.tensor(normalization.std)).permute(0, 3, 1, 2)


def test_features_early_features_and_logits_in_one_pass() -> None:
    network = make_network(WhitenedSpec(widths=(16, 32)), 10, 32)
    assert isinstance(network, WhitenedConvNet)
    group = network.groups[0]
    assert isinstance(group, ConvGroup)
    seen = activations(network, IMAGES, PIXELS, CPU)
    with torch.no_grad():
        first = network.first_activation(network.patch(normalized(IMAGES, PIXELS)))
        early = F.gelu(group.norms[0](F.max_pool2d(group.convs[0](first), 2))).mean((2, 3))
        features = F.adaptive_max_pool2d(network.groups(first), 1).flatten(1)
    assert seen.early is not None and seen.early.shape == (5, 16)
    torch.testing.assert_close(seen.early, early, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen.features, features, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(seen.logits, network.head(features).detach() * network.scale, atol=1e-4, rtol=1e-4)


def test_a_network_that_names_no_layer_has_no_early_features() -> None:
    network = make_network(WhitenedSpec(widths=(8, 8), depth=1), 3, 32)
    assert activations(network, IMAGES, PIXELS, CPU).early is None  # type: ignore[arg-type]


def test_nothing_is_left_behind_in_the_network() -> None:
    network = make_network(WhitenedSpec(widths=(8, 8)), 3, 32)
    activations(network, IMAGES, PIXELS, CPU)  # type: ignore[arg-type]
    assert not any(module._forward_pre_hooks for module in network.modules() if isinstance(module, nn.Module))
