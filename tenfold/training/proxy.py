"""Which images of a batch are worth their time: a small network, trained beside the large one, leaves out the easier.

It scores every batch as it comes, augmented, by its own loss, so that an image may be hard today and easy tomorrow. The
idea is that of the proxy in airbench's 96 % recipe (Keller Jordan, airbench96_faster, 2024), which trains the small
network first and keeps its choices; here both learn side by side. In a long run an image's own last loss says little
(docs/log.md has both).
"""

import torch
from torch import Tensor
from torch.profiler import record_function

from tenfold.errors import DivergedError
from tenfold.training.augment import derive_seed, downsample
from tenfold.training.device import DeviceConfig
from tenfold.training.loss import image_losses
from tenfold.training.model import make_network
from tenfold.training.optim import begin_step, restore_training, training_state
from tenfold.training.optimizers import Optimizer
from tenfold.training.pruning import class_minimum, top_loss_indices
from tenfold.training.schedule import Schedule

LEARNS_EVERY = 4
"""Steps. To tell hard from easy it need not be good, and learning costs about twice what answering does."""


class ProxyModel:
    """A network of the recipe's `proxy_widths` that sees batches at `low_res_size` pixels.

    `some` of the training images, normalised float N×3×H×W, are what its first layer is set by.
    """

    def __init__(self, schedule: Schedule, classes: int, some: Tensor, seed: int, device_config: DeviceConfig):
        recipe = schedule.recipe
        self.schedule, self.device_config, self.size = schedule, device_config, recipe.low_res_size
        self.smoothing = recipe.label_smoothing
        spec = recipe.network.proxy(recipe.proxy_widths)
        assert spec is not None, "the recipe checks it"
        first_weights = derive_seed(seed, "judge")  # the key from when a proxy was called so: a seed keeps its bits
        self.network = make_network(spec, classes, downsample(some, self.size), first_weights, device_config.device)
        self.optimizers: list[Optimizer] = []

    def select(self, step: int, batch: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
        """Where in a batch of full size (float32 D×3×H×W, labels int64 D) its hardest images are: int64 B, ascending.

        weights: factors of the images' losses, float32 D.

        Of every class some are among them (`top_loss_indices`). At every fourth step it learns from these, so that
        steps are asked for in order and once each. Raises `DivergedError` where its loss is not finite.
        """
        with record_function("proxy"):  # its place in a profile
            self.optimizers = begin_step(self.optimizers, self.network, self.schedule, step)
            learns = step % LEARNS_EVERY == 0
            with torch.set_grad_enabled(learns):
                losses = self._losses(batch, labels, weights)
            if not torch.isfinite(losses).all():
                raise DivergedError(f"the proxy's loss is not finite at step {step}: a lower learning rate may do")
            count = self.schedule.batch_size
            minimum = class_minimum(labels, count / len(labels))
            selected = top_loss_indices(losses.detach(), labels, count, minimum)
            if learns:
                self._learn(losses[selected].mean())
        return selected

    def _losses(self, batch: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
        """Each image's loss, float32 D; the norms go by this batch, as in training, so old statistics do no harm."""
        with self.device_config.autocast():
            logits = self.network(downsample(batch, self.size))
        return image_losses(logits.float(), labels, weights, self.smoothing)

    def _learn(self, loss: Tensor) -> None:
        loss.backward()
        for optimizer in self.optimizers:
            optimizer.step()
        self.network.zero_grad()

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint must hold."""
        return training_state(self.network, self.optimizers)

    def restore(self, state: dict[str, Tensor], step: int) -> None:
        """Go back to the `state` after `step` steps. Raises as `restore_training` does."""
        self.optimizers = restore_training(state, self.network, self.schedule, step)
