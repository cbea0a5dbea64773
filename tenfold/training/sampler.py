"""Which images come next: passes over the training images in random order, the later ones without the easiest.

An image that the network already gets right with confidence teaches it little. So each pass after the first may leave
out the images whose loss was smallest when they were last seen, which costs no computation (the idea of data pruning
by a proxy's loss is in airbench's 96 % recipe, Keller Jordan, 2024; here the network itself is the proxy). An epoch
stays as many images as there are, whoever is seen.

A loss grows stale: the network may forget an image that it no longer sees. Of every class a share stays in each pass
(`pruning.py`); within a class, images take turns by themselves, since who is seen becomes easier than who is not.

Where a proxy looks at the batches (`proxy.py`), none is left out here: every pass deals all images, and a step gets as
many more as the proxy will leave out.
"""

import torch
from torch import Tensor

from tenfold.training.augment import AugmentParams
from tenfold.training.pruning import class_minimum, top_loss_indices
from tenfold.training.recipe import Recipe

_NEVER_SEEN = 1e30  # harder than anything seen, and finite, as checkpoints want it


class Sampler:
    """Deals out N images, labels int64 N, in batches of B, or of D > B for a proxy to leave the easier ones out.

    All it remembers is the images' last losses and the pass's choice.
    """

    def __init__(self, recipe: Recipe, labels: Tensor, size: int, seed: int, batch_size: int, device: torch.device):
        count = len(labels)
        self.recipe, self.count, self.size, self.seed, self.device = recipe, count, size, seed, device
        self.by_losses = recipe.prune_fraction > 0
        candidates = round(batch_size / (1 - recipe.proxy_prune_fraction))
        self.candidate_batch_size = min(count, candidates) if recipe.uses_proxy else batch_size
        self.labels = labels.to(device)
        self.class_minimum = class_minimum(self.labels, 1 - recipe.prune_fraction)
        hard = max(batch_size, round(count * (1 - recipe.prune_fraction)), int(self.class_minimum.sum()))
        self.hard = hard if self.by_losses else count
        self.losses = torch.full((count,), _NEVER_SEEN, device=device)
        self.keep_mask = torch.ones(count, dtype=torch.bool, device=device)
        self._pass: tuple[int, AugmentParams, Tensor] | None = None

    def locate(self, step: int) -> tuple[int, int]:
        """The pass that `step` belongs to, and its number within that pass; both from 0."""
        first, later = self.count // self.candidate_batch_size, self.hard // self.candidate_batch_size
        if step < first:
            return 0, step
        number, index = divmod(step - first, later)
        return number + 1, index

    def next_indices(self, step: int) -> tuple[AugmentParams, Tensor]:
        """The pass's parameters, and the images of `step`: int64 B, or D for a proxy. Steps go in order."""
        number, index = self.locate(step)
        if self._pass is None or self._pass[0] != number:
            if number and index == 0:
                self._choose()
            params = self.recipe.pipeline.sample(self.count, self.size, self.seed, number).to(self.device)
            self._pass = number, params, params.order[self.keep_mask[params.order]]
        _, params, order = self._pass
        return params, order[index * self.candidate_batch_size : (index + 1) * self.candidate_batch_size]

    def update_losses(self, indices: Tensor, losses: Tensor) -> None:
        """Remember the losses (float B) of the images just seen."""
        self.losses[indices] = losses

    def _choose(self) -> None:
        if self.by_losses:
            self.keep_mask.zero_()
            self.keep_mask[top_loss_indices(self.losses, self.labels, self.hard, self.class_minimum)] = True

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: nothing where no image is left out by its loss."""
        return {"losses": self.losses, "keep_mask": self.keep_mask} if self.by_losses else {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to a `state`. Raises `KeyError` or `RuntimeError` where it does not fit."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
        self._pass = None
