"""Saliency maps of a network's prediction by two methods.

The first is integrated gradients (Sundararajan, Taly and Yan, 2017) as captum computes them, from the mean colour of
the training images (black where the recipe does not normalize) to the image; its values sum to the logit's gain. The
second is occlusion (Zeiler and Fergus, 2014): how much the logit falls when a square is covered. Gradients ask
about pixels, occlusion about squares, so the two agree on what matters, not in detail.

Shapes: N images of S×S pixels, K classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tenfold.evaluation.metrics import probabilities
from tenfold.training.weights import Model

STEPS = 32
"""Points between the mean colour and the image at which gradients are taken."""
_PATCH_SHARE = 4
"""The covered square's side is a quarter of the image's; squares are half of that apart."""


@dataclass(frozen=True, repr=False)
class Explanation:
    """The network's prediction for one image, and its saliency maps.

    label: the class that is explained. probabilities: float K, of a single view. saliency, occlusion: float32 S×S,
    evidence for that class (positive) and against it, in units of its logit. agreement: Spearman's rank correlation of
    the two, in [−1, 1], saliency averaged over squares as large as the covered ones.
    """

    label: int
    probabilities: np.ndarray
    saliency: np.ndarray
    occlusion: np.ndarray
    agreement: float

    def __repr__(self) -> str:
        probability = f"{self.probabilities[self.label]:.4f}"
        return f"Explanation(label={self.label}, probability={probability}, agreement={self.agreement:.2f})"


def explain(
    model: Model, images: np.ndarray, temperature: float = 1.0, labels: Sequence[int] | None = None
) -> Iterator[Explanation]:
    """Explain the predictions for uint8 N×S×S×3, one by one, in float32 on the CPU; temperature divides the logits.

    labels: N classes to explain; by default the predictions without TTA.
    """
    network = model.network.to("cpu").eval()
    for number, image in enumerate(images):
        pixels = model.normalization.normalize(torch.from_numpy(np.array(image[None]))).contiguous()
        with torch.no_grad():
            logits = network(pixels).float()
        label = int(logits.argmax()) if labels is None else labels[number]
        saliency, occlusion = _integrate(network, pixels, label), _occlude(network, pixels, label)
        shares = probabilities(logits.numpy(), temperature)[0]
        yield Explanation(label, shares, saliency, occlusion, agree(saliency, occlusion))


def _integrate(network: nn.Module, pixels: Tensor, label: int) -> np.ndarray:
    from captum.attr import IntegratedGradients

    found = IntegratedGradients(network).attribute(pixels, target=label, n_steps=STEPS)
    return found[0].sum(0).detach().float().numpy()


def _occlude(network: nn.Module, pixels: Tensor, label: int) -> np.ndarray:
    from captum.attr import Occlusion

    side = patch_side(pixels.shape[-1])
    step = max(1, side // 2)
    with torch.no_grad():
        found = Occlusion(network).attribute(
            pixels, (3, side, side), strides=(3, step, step), target=label, perturbations_per_eval=64
        )
    return found[0].mean(0).float().numpy()


def patch_side(size: int) -> int:
    """Side of the covered square in pixels."""
    return max(2, size // _PATCH_SHARE)


def agree(saliency: np.ndarray, occlusion: np.ndarray) -> float:
    """Spearman's rank correlation of two maps, the first averaged over squares; 0 where one of them is flat."""
    from scipy.ndimage import uniform_filter
    from scipy.stats import spearmanr

    smooth = uniform_filter(saliency, patch_side(len(saliency)), mode="nearest")
    if np.ptp(smooth) == 0 or np.ptp(occlusion) == 0:
        return 0.0
    return float(spearmanr(smooth.ravel(), occlusion.ravel()).statistic)


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Paint a map S×S over the greyed image uint8 S×S×3: orange is evidence for the class, blue against it."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(heat, len(heat) / 32)
    strength = np.clip(np.abs(smooth) / (np.quantile(np.abs(smooth), 0.99) or 1), 0, 1)[..., None] ** 0.7
    grey = 0.3 + 0.6 * image.mean(axis=2, keepdims=True) / 255
    colour = np.where(smooth[..., None] > 0, (0.84, 0.37, 0.0), (0.0, 0.45, 0.7))
    return ((grey * (1 - 0.8 * strength) + colour * 0.8 * strength) * 255 + 0.5).astype(np.uint8)
