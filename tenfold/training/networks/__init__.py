"""The networks, one a file: its spec, its module, and what may be done with it. `register_network` adds others."""

from tenfold.training.networks.base import NETWORKS, AnyNetwork, Network, NetworkSpec, register_network
from tenfold.training.networks.reference import ReferenceSpec
from tenfold.training.networks.whitened import WhitenedSpec

__all__ = ["NETWORKS", "AnyNetwork", "Network", "NetworkSpec", "ReferenceSpec", "WhitenedSpec", "register_network"]
