"""A network's features of images: the inputs of its layer `head`. Shapes: N images, F features."""

import torch
from torch import Tensor, nn

from tenfold.training.augment import Normalization
from tenfold.training.device import DeviceConfig
from tenfold.training.images import ImageTensor
from tenfold.training.infer import OnBatch, predict_logits
from tenfold.training.networks.module import Network


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
    return features_and_logits(network, images, normalization, device_config, on_batch)[0]


def features_and_logits(
    network: Network,
    images: ImageTensor,
    normalization: Normalization,
    device_config: DeviceConfig,
    on_batch: OnBatch = lambda share: None,
) -> tuple[Tensor, Tensor]:
    """As `extract_features`, with the logits of a single view, float32 N×K, in one pass."""
    seen: list[Tensor] = []
    head = network.get_submodule("head")
    hook = head.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].float().cpu()))
    try:
        logits = predict_logits(network, images, normalization, device_config, on_batch=on_batch).single
    finally:
        hook.remove()
    return torch.cat(seen), logits
