"""Saliency maps of a network's prediction by two methods.

The first is integrated gradients (Sundararajan, Taly and Yan, 2017) as captum computes them, from the mean colour of
the training images (black where the recipe does not normalize) to the image; its values sum to the logit's gain. The
second is occlusion (Zeiler and Fergus, 2014): how much the logit falls when a square is covered. Gradients ask
about pixels, occlusion about squares, so the two agree on what matters, not in detail.

Shapes: N images of S×S pixels, K classes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tenfold.evaluation.metrics import probabilities
from tenfold.training.weights import Model

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STEPS = 32
"""Points between the mean colour and the image at which gradients are taken."""
_PATCH_SHARE = 4
"""The covered square's side is a quarter of the image's; squares are half of that apart."""


@dataclass(frozen=True, repr=False)
class Explanation:
    """The network's prediction for one image, and its saliency maps. In a notebook it shows its plot.

    label: the number of the class that is explained. probabilities: float K, of a single view. saliency, occlusion:
    float32 S×S, evidence for that class (positive) and against it, in units of its logit. agreement: Spearman's rank
    correlation of the two, in [−1, 1], saliency averaged over squares as large as the covered ones. image: uint8 S×S×3,
    as the network takes it. classes: K names. path: the name of the image.
    """

    label: int
    probabilities: np.ndarray
    saliency: np.ndarray
    occlusion: np.ndarray
    agreement: float
    image: np.ndarray
    classes: tuple[str, ...]
    path: str = ""

    def __repr__(self) -> str:
        probability = f"{self.probabilities[self.label]:.4f}"
        return f"Explanation({self.classes[self.label]!r}, probability={probability}, agreement={self.agreement:.2f})"

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The most probable classes with their probabilities, the best first."""
        best = np.argsort(-self.probabilities, kind="stable")[:count]
        return [(self.classes[number], float(self.probabilities[number])) for number in best]

    def to_dict(self, top: int = 5) -> dict[str, Any]:
        """What `tenfold explain --json` prints of it: path, label, probability, top, explained, agreement."""
        answers = [{"label": label, "probability": probability} for label, probability in self.top(top)]
        explained = {"explained": self.classes[self.label], "agreement": self.agreement}
        return {"path": self.path, **answers[0], "top": answers, **explained}

    def plot(self, top: int = 5) -> "Figure":
        """The image, both maps and the `top` predictions side by side."""
        from tenfold.evaluation import plots

        name = self.classes[self.label]
        panels = [
            ("input", self.image),
            (f"{name}: integrated gradients", overlay(self.image, self.saliency)),
            (f"{name}: occlusion", overlay(self.image, self.occlusion)),
        ]
        note = f"orange: evidence for {name}, blue: against it; agreement of the two maps {self.agreement:.2f}"
        return plots.explanation(panels, self.top(top), Path(self.path).name, note)

    def save(self, folder: Path | str, top: int = 5) -> Path:
        """Write the plot as a PNG file, named after the image and not there yet; return it. Raises `StorageError`."""
        from tenfold.evaluation import plots

        path = _free_name(Path(folder), Path(self.path).stem)
        plots.save(self.plot(top), path)
        return path

    def _repr_png_(self) -> bytes:
        from tenfold.evaluation import plots

        return plots.to_png(self.plot(), dpi=100)


def _free_name(folder: Path, stem: str) -> Path:
    """A file of that stem that is not there yet."""
    stem = stem.strip("-.") or "image"
    path, number = folder / f"{stem}.png", 2
    while path.exists():
        path, number = folder / f"{stem}-{number}.png", number + 1
    return path


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
        agreement = agree(saliency, occlusion)
        yield Explanation(label, shares, saliency, occlusion, agreement, image, model.classes)


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
