"""Networks whose norms have seen something, with the answers of plain PyTorch: what exporters are held against."""

import numpy as np
import torch
from torch import nn

from tenfold.serving.export import Source
from tenfold.serving.model_file import ModelMetadata
from tenfold.training.augment import Normalization
from tenfold.training.model import build
from tenfold.training.networks import WhitenedSpec
from tenfold.training.recipes import REFERENCE
from tenfold.training.weights import Model

PIXELS = Normalization((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
SPECS = [
    (WhitenedSpec(widths=(16, 32), first_activation="relu"), PIXELS, 10, 32, 1.0),
    (WhitenedSpec(widths=(8, 8, 8), depth=3, residual=True, whitening=2, whitening_pairs=4), PIXELS, 3, 45, 2.5),
    (WhitenedSpec(widths=(8, 8), whitening=4, whitening_pairs=4, stride=2), PIXELS, 3, 33, 1.0),
    (REFERENCE.network, Normalization(), 10, 32, 1.0),
    (REFERENCE.network, Normalization(), 2, 64, 0.25),
]


def make_network(spec: WhitenedSpec, classes: int, size: int) -> nn.Module:
    """A network whose norms have seen something: means and variances far from those of a new one."""
    torch.manual_seed(0)
    network = build(spec, classes, size)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.5, 0.5)  # type: ignore[union-attr,operator]
            module.running_var.uniform_(0.5, 2)  # type: ignore[union-attr,operator]
            nn.init.uniform_(module.bias, -0.5, 0.5)
    return network.eval()


def make_source(
    spec: WhitenedSpec, normalization: Normalization, classes: int, size: int, temperature: float
) -> Source:
    """A network whose norms have seen something, and its probabilities of random images by plain torch."""
    network, names = make_network(spec, classes, size), tuple(f"class {i}" for i in range(classes))
    images = np.random.default_rng(0).integers(0, 256, (5, size, size, 3), dtype=np.uint8)
    scaled = (images / 255 - np.array(normalization.mean)) / np.array(normalization.std)
    with torch.no_grad():
        logits = network(torch.from_numpy(scaled).float().permute(0, 3, 1, 2))
    about = ModelMetadata(names, size, "stretch", temperature, None, None, False, {})
    expected = torch.softmax(logits / temperature, 1).numpy()
    return Source(Model(network, names, size, normalization), None, about, images, expected)  # type: ignore[arg-type]
