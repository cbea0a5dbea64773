"""Which images come next: passes over the training images in random order, the later ones without the easiest.

An image that the network already gets right with confidence teaches it little. So each pass after the first may leave
out the images whose loss was smallest when they were last seen, which costs no computation (the idea of data pruning
by a proxy's loss is in airbench's 96 % recipe, Keller Jordan, 2024; here the network itself is the proxy). An epoch
stays as many images as there are, whoever is seen.
"""

import torch
from torch import Tensor

from tenfold.training.augment import Draws, draw_epoch
from tenfold.training.recipe import Recipe

_NEVER_SEEN = 1e30  # harder than anything seen, and finite, as checkpoints want it


class Sampler:
    """Deals out N images in batches of B; all it remembers is the images' last losses and the pass's choice."""

    def __init__(self, recipe: Recipe, count: int, size: int, seed: int, batch_size: int, device: torch.device):
        self.recipe, self.count, self.size, self.seed, self.batch_size = recipe, count, size, seed, batch_size
        self.device = device
        self.hard = max(batch_size, round(count * (1 - recipe.easy_share)))
        self.losses = torch.full((count,), _NEVER_SEEN, device=device)
        self.kept = torch.ones(count, dtype=torch.bool, device=device)
        self._pass: tuple[int, Draws, Tensor] | None = None

    def locate(self, step: int) -> tuple[int, int]:
        """The pass that `step` belongs to, and its number within that pass; both from 0."""
        first, later = self.count // self.batch_size, self.hard // self.batch_size
        if step < first:
            return 0, step
        number, index = divmod(step - first, later)
        return number + 1, index

    def deal(self, step: int) -> tuple[Draws, Tensor]:
        """The pass's draws, and the numbers (int64 B) of the images of `step`; steps are asked for in order."""
        number, index = self.locate(step)
        if self._pass is None or self._pass[0] != number:
            if number and index == 0:
                self._choose()
            draws = draw_epoch(self.recipe, self.count, self.size, self.seed, number).to(self.device)
            self._pass = number, draws, draws.order[self.kept[draws.order]]
        _, draws, order = self._pass
        return draws, order[index * self.batch_size : (index + 1) * self.batch_size]

    def note(self, chosen: Tensor, losses: Tensor) -> None:
        """Remember the losses (float B) of the images just seen."""
        self.losses[chosen] = losses

    def _choose(self) -> None:
        if self.recipe.easy_share:
            self.kept.zero_()
            self.kept[self.losses.argsort(descending=True, stable=True)[: self.hard]] = True

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold: nothing where no image is ever left out."""
        return {"losses": self.losses, "kept": self.kept} if self.recipe.easy_share else {}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Go back to a `state`. Raises `KeyError` or `RuntimeError` where it does not fit."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])
        self._pass = None
