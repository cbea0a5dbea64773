"""Which images come next: cycles through the training images in random order, the later ones without the easiest.

An image that the network already gets right with confidence teaches it little. So each cycle after the first may leave
out the images whose loss was smallest when they were last seen, which costs no computation (the idea of data pruning
by a proxy's loss is in airbench's 96 % recipe, Keller Jordan, 2024; here the network itself is the proxy). An epoch
stays as many images as there are, whoever is seen.

A loss grows stale: the network may forget an image that it no longer sees. Of every class a share stays in each cycle
(`pruning.py`); within a class, images take turns by themselves, since who is seen becomes easier than who is not.

Where a proxy looks at the batches (`proxy.py`), none is left out here: every cycle has all images, and a step gets as
many more as the proxy will leave out.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tenfold.training.augment import AugmentParams
from tenfold.training.pruning import class_minimum, top_loss_indices
from tenfold.training.recipe import Recipe

_NEVER_SEEN = 1e30  # harder than anything seen, and finite, as checkpoints want it


@dataclass(frozen=True)
class Cycle:
    """Once through the images that are kept. number: from 0. order: int64, M of N images."""

    number: int
    params: AugmentParams
    order: Tensor


class Sampler:
    """Yields N images, labels int64 N, in batches of B, or of D > B for a proxy to leave the easier ones out.

    Its state is the images' last `losses` and the `keep_mask` of this cycle, chosen by them as the cycle starts. All
    else follows from these, the seed and the number of the step.
    """

    def __init__(self, recipe: Recipe, labels: Tensor, size: int, seed: int, batch_size: int, device: torch.device):
        count = len(labels)
        self.recipe, self.count, self.size, self.seed, self.device = recipe, count, size, seed, device
        self.prunes = recipe.prune_fraction > 0
        candidates = round(batch_size / (1 - recipe.proxy_prune_fraction))
        self.candidate_batch_size = min(count, candidates) if recipe.uses_proxy else batch_size
        self.labels = labels.to(device)
        self.class_minimum = class_minimum(self.labels, 1 - recipe.prune_fraction)
        kept = max(batch_size, round(count * (1 - recipe.prune_fraction)), int(self.class_minimum.sum()))
        self.kept_count = kept if self.prunes else count
        self.losses = torch.full((count,), _NEVER_SEEN, device=device)
        self.keep_mask = torch.ones(count, dtype=torch.bool, device=device)
        self._cycle: Cycle | None = None

    def locate(self, step: int) -> tuple[int, int]:
        """The cycle that `step` belongs to, and its number within that cycle; both from 0."""
        first, later = self.count // self.candidate_batch_size, self.kept_count // self.candidate_batch_size
        if step < first:
            return 0, step
        number, index = divmod(step - first, later)
        return number + 1, index

    def next_indices(self, step: int) -> tuple[AugmentParams, Tensor]:
        """The cycle's parameters, and the images of `step`: int64 B, or D for a proxy. Steps go in order."""
        number, index = self.locate(step)
        if self._cycle is None or self._cycle.number != number:
            if number > 0 and index == 0:  # a run that resumes within a cycle has the mask of its checkpoint
                self._update_keep_mask()
            self._cycle = self._make_cycle(number)
        start = index * self.candidate_batch_size
        return self._cycle.params, self._cycle.order[start : start + self.candidate_batch_size]

    def _make_cycle(self, number: int) -> Cycle:
        params = self.recipe.pipeline.sample(self.count, self.size, self.seed, number).to(self.device)
        return Cycle(number, params, params.order[self.keep_mask[params.order]])

    def update_losses(self, indices: Tensor, losses: Tensor) -> None:
        """Remember the losses (float B) of the images just seen."""
        self.losses[indices] = losses

    def _update_keep_mask(self) -> None:
        if self.prunes:
            self.keep_mask.zero_()
            self.keep_mask[top_loss_indices(self.losses, self.labels, self.kept_count, self.class_minimum)] = True

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: nothing where no image is left out by its loss."""
        return {"losses": self.losses, "keep_mask": self.keep_mask} if self.prunes else {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to a `state`. Raises `KeyError` or `RuntimeError` where it does not fit."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
        self._cycle = None
