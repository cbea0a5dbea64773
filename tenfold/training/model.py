"""From a spec to a network that is ready for training, and the L2 term of its loss."""

from typing import TypeVar

import torch
from torch import Tensor, nn

from tenfold.training.networks import NetworkSpec
from tenfold.training.networks.module import Network


def build(spec: NetworkSpec, classes: int = 10, size: int = 32) -> Network:
    """Build the network of `spec` for `classes` classes and `size`×`size` images, in channels-last layout.

    Weights are drawn from torch's global generator. Raises `UsageError` where the images are too small for the depth.
    """
    return channels_last(spec.build(classes, size))


def make_network(spec: NetworkSpec, classes: int, images: Tensor, seed: int, device: torch.device) -> Network:
    """Build the network of `spec` for training on images such as these (normalised float N×3×H×W, on the CPU).

    Its weights are drawn from `seed` on the CPU, so that they are the same on every device. Raises as `build` does.
    """
    torch.manual_seed(seed)
    network = build(spec, classes, images.shape[2])
    network.initialize_from(images)
    return network.to(device).train()


N = TypeVar("N", bound=nn.Module)


def channels_last(network: N) -> N:
    """Lay the filters out with channels last, in place; files keep no memory format, so this follows every load."""
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def l2_penalty(network: Network, weight: float) -> Tensor | float:
    """The L2 term of the loss: `weight` times the sum of squares of its `l2_parameters`."""
    kernels = network.l2_parameters() if weight else []
    if not kernels:
        return 0.0
    # by way of every filter's norm, which unlike squares need no memory
    return weight * torch.cat([torch.linalg.vector_norm(kernel, dim=(1, 2, 3)) for kernel in kernels]).square().sum()
