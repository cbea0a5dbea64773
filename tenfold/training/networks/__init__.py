"""The networks: as plain data (`specs`), which needs no torch, and their modules, one a file.

`register_network` adds others.
"""

from tenfold.training.networks.base import NETWORKS, AnyNetwork, NetworkSpec, register_network
from tenfold.training.networks.specs import EfficientNetLite0Spec, ReferenceSpec, WhitenedSpec

__all__ = [
    "NETWORKS",
    "AnyNetwork",
    "EfficientNetLite0Spec",
    "NetworkSpec",
    "ReferenceSpec",
    "WhitenedSpec",
    "register_network",
]
