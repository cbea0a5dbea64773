"""The networks, one a file: its spec, its module, and what may be done with it. `register_network` adds others."""

from tenfold.training.networks.base import NETWORKS, AnyNetwork, Network, NetworkSpec, register_network, zeros_around
from tenfold.training.networks.efficientnet_lite0 import EfficientNetLite0Spec
from tenfold.training.networks.pretrained import PretrainedWeights
from tenfold.training.networks.reference import ReferenceSpec
from tenfold.training.networks.whitened import WhitenedSpec

__all__ = [
    "NETWORKS",
    "AnyNetwork",
    "EfficientNetLite0Spec",
    "Network",
    "NetworkSpec",
    "PretrainedWeights",
    "ReferenceSpec",
    "WhitenedSpec",
    "register_network",
    "zeros_around",
]
