"""A network's features of images: the inputs of its layer `head`, and early ones. Shapes: N images, F features."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tenfold.training.augment import Normalization
from tenfold.training.device import DeviceConfig
from tenfold.training.images import ImageTensor
from tenfold.training.infer import OnBatch, predict_logits
from tenfold.training.networks.module import Network


class Activations(NamedTuple):
    """What a network computes of N images, float32 on the CPU.

    features: N×F, the inputs of the layer `head`. early: N×C, the mean over all pixels of each channel that the layer
    `Network.early_layer` gets; None for a network that names none. logits: N×K of a single view.
    """

    features: Tensor
    early: Tensor | None
    logits: Tensor


def has_features(network: nn.Module) -> bool:
    """Whether the network has a linear layer called `head`, so that it has features."""
    return isinstance(getattr(network, "head", None), nn.Linear)


def extract_features(
    network: Network,
    images: ImageTensor,
    normalization: Normalization,
    device_config: DeviceConfig,
    on_batch: OnBatch = lambda share: None,
) -> Tensor:
    """Inputs of the layer `head` for uint8 N×H×W×3: float32 N×F on the CPU. `on_batch`: as for `predict_logits`."""
    return activations(network, images, normalization, device_config, on_batch).features


def activations(
    network: Network,
    images: ImageTensor,
    normalization: Normalization,
    device_config: DeviceConfig,
    on_batch: OnBatch = lambda share: None,
) -> Activations:
    """As `extract_features`, with the early features and the logits, in one pass."""
    with _inputs_of(network, "head", lambda x: x) as features, _early_inputs(network) as early:
        logits = predict_logits(network, images, normalization, device_config, on_batch=on_batch).single
    return Activations(torch.cat(features), torch.cat(early) if network.early_layer else None, logits)


def _early_inputs(network: Network) -> AbstractContextManager[list[Tensor]]:
    """Means of the channels, batch by batch; none for a network that names no layer."""
    layer = network.early_layer
    return _inputs_of(network, layer, lambda x: x.mean((2, 3))) if layer else nullcontext([])


@contextmanager
def _inputs_of(network: Network, name: str, reduce: Callable[[Tensor], Tensor]) -> Iterator[list[Tensor]]:
    """What a layer gets while the block runs, batch by batch, reduced at once to what is kept."""
    seen: list[Tensor] = []
    layer = network.get_submodule(name)
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(reduce(inputs[0].float()).cpu()))
    try:
        yield seen
    finally:
        hook.remove()
