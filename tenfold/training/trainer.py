"""Training in memory: one loop for all recipes, no disk.

All randomness is keyed by (seed, purpose, epoch or step), so the state of a run is its tensors and a step number, and
a run resumed from them ends bit-identical.
"""

import math
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.profiler import record_function

from tenfold.data.dataset import Dataset, Split
from tenfold.errors import DivergedError, ModelError, UsageError, one_line
from tenfold.training.augment import Normalization, derive_seed, downsample, make_batch
from tenfold.training.callbacks import Callback, EpochMetrics, report_exception
from tenfold.training.checkpoint import Checkpoint
from tenfold.training.device import DeviceConfig
from tenfold.training.distributed import SINGLE_PROCESS, DistContext
from tenfold.training.fitting import as_recipe, device_for, normalization_for
from tenfold.training.holdout import split
from tenfold.training.images import ImageTensor, as_images, rows_of
from tenfold.training.imbalance import oversample
from tenfold.training.infer import predict_logits
from tenfold.training.logistic_head import BEFORE_FINE_TUNING, set_logistic_head
from tenfold.training.loss import batch_loss, image_losses, loss_weights
from tenfold.training.model import l2_penalty, make_network
from tenfold.training.optim import begin_step, freeze, restore_training, tensors_below, training_state
from tenfold.training.optimizers import Optimizer
from tenfold.training.proxy import ProxyModel
from tenfold.training.recipe import Recipe
from tenfold.training.sampler import Sampler
from tenfold.training.schedule import make_schedule
from tenfold.training.signals import DeferredSignals


class Trainer:
    """Trains a recipe's network on a data set, in memory: `Trainer(recipe, data, callbacks).fit()`.

    recipe: a `Recipe`, or the name or file of one; it is taken as it is. The data set's own validation images, or the
    recipe's, are held out of `data.train`; `data.test` is never looked at. device: a name, as `select_device` takes it,
    or what that returns. dist: this process among those that train together. log_dir: where callbacks may write files.
    Raises `UsageError` where the recipe does not fit the images, `DataError` where there are none.
    """

    def __init__(
        self,
        recipe: str | Path | Recipe,
        data: Dataset,
        callbacks: Iterable[Callback] = (),
        *,
        seed: int = 0,
        device: str | DeviceConfig = "auto",
        dist: DistContext = SINGLE_PROCESS,
        log_dir: Path | None = None,
    ):
        if not isinstance(data, Dataset):
            raise UsageError(f"data must be a tenfold.Dataset, as tenfold.load returns it, not {type(data).__name__}")
        recipe = as_recipe(recipe)
        self.recipe = recipe = recipe.with_val_size(data.val_size) if data.val_size else recipe
        self.data, self.seed, self.dist, self.log_dir = data, seed, dist, log_dir
        self.device_config = device if isinstance(device, DeviceConfig) else device_for(recipe, dist.device(device))
        self.callbacks = list(callbacks) if dist.first else []
        self.should_stop = False
        """Set it to end training after the current step."""
        self.interrupted = False
        """Whether Ctrl-C or SIGTERM ends training after the current step, here or in another process."""
        train, val = split(data, recipe, seed)
        self._set_up(*to_tensors(train), len(data.classes), loss_weights(train, recipe.class_weight))
        self.val, self.groups = to_tensors(val) if val else None, train.groups

    def _set_up(self, images: ImageTensor, labels: Tensor, classes: int, weights: Tensor | None) -> None:
        """Make network, schedule and sampler for images uint8 N×H×W×3, labels int64 N and `loss_weights`."""
        recipe, seed, device_config = self.recipe, self.seed, self.device_config
        if (recipe.low_res_fraction or recipe.uses_proxy) and recipe.low_res_size > images.shape[1]:
            raise UsageError(f"low_res_size: {recipe.low_res_size} is more than the images' {images.shape[1]} pixels")
        if recipe.translate >= images.shape[1]:
            raise UsageError(f"a shift of {recipe.translate} pixels is too large for images of {images.shape[1]}")
        self.normalization = normalization_for(recipe, images)
        self.schedule = make_schedule(recipe, len(images))
        some = _some(recipe, images, self.normalization)
        self.network = make_network(recipe.network, classes, some, derive_seed(seed, "weights"), device_config.device)
        self.class_counts = labels.bincount(minlength=classes).tolist()
        cycle = oversample(labels, recipe.oversample)
        self.times = cycle.bincount()
        """How often each image comes in a cycle, int64 N."""
        if len(cycle) > len(labels):
            images, labels, weights = rows_of(images, cycle), labels[cycle], None if weights is None else weights[cycle]
        self.images, self.labels = images.to(device_config.device), labels.to(device_config.device)
        self.weights = None if weights is None else weights.to(device_config.device)
        self.optimizers: list[Optimizer] = []
        self.head_is_set = recipe.head_init == "random"
        self.step = 0
        self.log = torch.zeros(self.schedule.total, 2)  # loss and accuracy of every step's batch
        self.epochs: list[EpochMetrics] = []
        self.seconds = 0.0
        self.sampler = Sampler(recipe, labels, images.shape[1], seed, self.schedule.batch_size, device_config.device)
        leaves_out = self.sampler.candidate_batch_size > self.schedule.batch_size  # a small data set has none to spare
        self.proxy = ProxyModel(self.schedule, classes, some, seed, device_config) if leaves_out else None

    @property
    def done(self) -> bool:
        """Whether every step was taken."""
        return self.step >= self.schedule.total

    def fit(self) -> "Trainer":
        """Take all steps that are left; return itself. Ctrl-C and SIGTERM are answered after the current step.

        Raises `DivergedError` where a loss is not finite, and what callbacks raise.
        """
        self.interrupted = False
        self.initialize_head()
        with DeferredSignals() as signals:
            try:
                self._fit(signals)
            except BaseException as error:
                report_exception(self.callbacks, self, error)
                raise
            if self.interrupted:
                signals.raise_pending()
        return self

    def initialize_head(self) -> None:
        """Fit the head of a pretrained network to the training images' features (`head_init`), if it is not set yet."""
        if not self.head_is_set:
            strength = None if self.recipe.fine_tune == "off" else BEFORE_FINE_TUNING
            once = slice(sum(self.class_counts))  # behind them are those of rare classes again
            images, labels, weights = rows_of(self.images, once), self.labels[once], self._weights_of(once)
            if len(self.labels) > len(labels):
                times = (self.times / self.times.float().mean()).to(self.labels.device)
                weights = times if weights is None else weights * times
            where = self.normalization, self.device_config
            set_logistic_head(self.network, images, labels, *where, strength, weights, self.groups)
            self.head_is_set = True

    def _fit(self, signals: DeferredSignals) -> None:
        for callback in self.callbacks:
            callback.on_fit_start(self)
        self.should_stop = self.dist.any(self.should_stop)
        while not self.done and not self.should_stop and not self.interrupted:
            self.train_step()
            self._after_step()
            self.should_stop = self.dist.any(self.should_stop)
            self.interrupted = self.dist.any(signals.waiting)
        if self.should_stop:
            self._end_part_of_epoch()
        for callback in self.callbacks:
            callback.on_fit_end(self)

    def _after_step(self) -> None:
        for callback in self.callbacks:
            callback.on_step_end(self)
        if self._ends_epoch():
            self._after_epoch()

    def _after_epoch(self) -> None:
        for callback in self.callbacks:
            callback.on_epoch_end(self, self.epochs[-1])

    def _end_part_of_epoch(self) -> None:
        """Where training stops within an epoch, that is the last one."""
        epoch = self.schedule.epoch(self.step)
        if self.step and (not self.epochs or self.epochs[-1].epoch != epoch):
            self._end_epoch()
            self._after_epoch()

    def _ends_epoch(self) -> bool:
        return self.step % self.schedule.steps_per_epoch == 0 or self.done

    def train_step(self) -> None:
        """Take one training step; end the epoch where one ends. Raises `DivergedError` before a bad update."""
        began = time.perf_counter()
        self._set_up_step()
        self.log[self.step] = torch.tensor(self._update())
        self.step += 1
        self.seconds += time.perf_counter() - began
        if self._ends_epoch():
            self._end_epoch()

    def _set_up_step(self) -> None:
        """Fresh optimizers where a stage begins, this step's rates, and what is trained at all by now."""
        self.optimizers = begin_step(self.optimizers, self.network, self.schedule, self.step)
        freeze(self.network, self.schedule, self.step)

    def _update(self) -> tuple[float, float]:
        """Forward, backward, update; return the batch's loss and accuracy."""
        batch, labels, indices = self.next_batch()
        torch.manual_seed(derive_seed(self.seed, "dropout", self.step * self.dist.count + self.dist.rank))
        with self.device_config.autocast():
            logits = self.network(batch)
        logits = logits.float()
        weights = self._weights_of(indices)
        if self.sampler.prunes:
            self._update_losses(indices, image_losses(logits.detach(), labels, weights))
        share = len(labels) / self.schedule.batch_size  # 1 for a process that is alone
        loss = batch_loss(logits, labels, weights, self.recipe.label_smoothing) * share
        value, accuracy = self._figures(loss.detach(), (logits.argmax(1) == labels).float().mean() * share)
        if not math.isfinite(value):
            epoch = self.schedule.epoch(self.step)
            raise DivergedError(f"loss is {value} at step {self.step}, epoch {epoch:.2f}: a lower learning rate may do")
        loss.backward()
        self._share_gradients()
        with record_function("optimizers"):  # its place in a profile
            for optimizer in self.optimizers:
                optimizer.step()
        self.network.zero_grad()
        return value, accuracy

    def _weights_of(self, indices: Tensor | slice) -> Tensor | None:
        return None if self.weights is None else self.weights[indices]

    def _update_losses(self, indices: Tensor, losses: Tensor) -> None:
        whole = self.schedule.batch_size
        self.sampler.update_losses(self.dist.all_gather(indices, whole), self.dist.all_gather(losses, whole))

    def _figures(self, loss: Tensor, accuracy: Tensor) -> tuple[float, float]:
        """Loss, with its L2 terms, and accuracy of the whole batch, of this rank's shares of them."""
        figures = torch.stack((loss, accuracy))
        self.dist.all_reduce([figures])
        with torch.no_grad():  # of its gradient the optimizer takes care
            figures[0] += l2_penalty(self.network, self.recipe.l2)
        value, share = figures.tolist()
        return value, share

    def _share_gradients(self) -> None:
        """Let all ranks have the whole batch's gradients, and the mean of their norms' statistics."""
        if self.dist.count == 1:
            return
        norms = [module for module in self.network.modules() if isinstance(module, nn.BatchNorm2d)]
        statistics = [
            tensor for norm in norms for tensor in (norm.running_mean, norm.running_var) if tensor is not None
        ]
        for tensor in statistics:
            tensor.div_(self.dist.count)
        self.dist.all_reduce([p.grad for p in self.network.parameters() if p.grad is not None] + statistics)

    def next_batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """This rank's share of the step to come: float32 B×3×H×W, labels and image numbers (both int64 B).

        A proxy may learn meanwhile: with one, ask once a step.
        """
        batch, indices = self.next_candidates()
        if self.proxy is not None:
            selected = self._select(self.proxy, batch, indices)
            selected = selected[self.dist.shard(len(selected))]
            batch, indices = batch[selected], indices[selected]
        if self.schedule.small(self.step):
            batch = downsample(batch, self.recipe.low_res_size)
        return batch, self.labels[indices], indices

    def _select(self, proxy: ProxyModel, batch: Tensor, indices: Tensor) -> Tensor:
        """Where the images are that the first rank's proxy leaves in; those of the other ranks are never asked."""
        known = (self.labels[indices], self._weights_of(indices))
        selected = proxy.select(self.step, batch, *known).tolist() if self.dist.first else None
        return torch.tensor(self.dist.broadcast(selected), device=indices.device)

    def next_candidates(self) -> tuple[Tensor, Tensor]:
        """The images of the step to come at full size, float32 B×3×H×W, and their numbers, int64 B.

        With a proxy, all D that it will pick from; without, this rank's share.
        """
        params, indices = self.sampler.next_indices(self.step)
        if self.proxy is None:
            indices = indices[self.dist.shard(len(indices))]
        return make_batch(self.images, self.normalization, params, indices), indices

    def _end_epoch(self) -> None:
        began = time.perf_counter()
        per_epoch, last = self.schedule.steps_per_epoch, self.step - 1
        loss, accuracy = self.log[last // per_epoch * per_epoch : self.step].mean(0).tolist()
        val_loss, val_accuracy = self._validate()
        self.seconds += time.perf_counter() - began
        metrics = EpochMetrics(
            epoch=self.schedule.epoch(self.step),
            stage=self.schedule.stage(last) + 1,
            learning_rate=self.schedule.learning_rate(last),
            train_loss=loss,
            train_accuracy=accuracy,
            val_loss=val_loss,
            val_accuracy=val_accuracy,
            seconds=self.seconds - sum(epoch.seconds for epoch in self.epochs),
        )
        self.epochs.append(metrics)

    def _validate(self) -> tuple[float, float]:
        if self.val is None:
            return math.nan, math.nan
        images, labels = self.val
        logits = predict_logits(self.network, images, self.normalization, self.device_config).single
        loss = F.cross_entropy(logits, labels, label_smoothing=self.recipe.label_smoothing)
        with torch.no_grad():
            loss = loss + float(l2_penalty(self.network, self.recipe.l2))
        return loss.item(), (logits.argmax(1) == labels).float().mean().item()

    # --- to disk and back ---

    def checkpoint(self) -> Checkpoint:
        """Everything that the next step depends on, and the log. Raises `DivergedError` where it is not finite."""
        tensors = training_state(self.network, self.optimizers)
        if self.proxy is not None:
            tensors |= {f"proxy.{name}": tensor for name, tensor in self.proxy.state().items()}
        tensors |= {f"sampler.{name}": tensor for name, tensor in self.sampler.state().items()}
        tensors["log"] = self.log[: self.step]
        bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
        if bad:  # the loss was still finite, its gradient was not
            raise DivergedError(f"{bad[0]} is not finite after step {self.step}: a lower learning rate may do")
        # a snapshot: training continues in the tensors themselves
        cpu = {name: tensor.detach().contiguous().cpu().clone() for name, tensor in tensors.items()}
        return Checkpoint(self.step, cpu, {"seconds": self.seconds, "epochs": list(map(asdict, self.epochs))})

    def restore(self, checkpoint: Checkpoint) -> None:
        """Go back to a checkpoint of the same recipe, data and seed. Raises `ModelError` where it does not fit."""
        try:
            self.optimizers = restore_training(checkpoint.tensors, self.network, self.schedule, checkpoint.step)
            if self.proxy is not None:
                self.proxy.restore(tensors_below("proxy.", checkpoint.tensors), checkpoint.step)
            self.sampler.restore(tensors_below("sampler.", checkpoint.tensors))
            self.step, self.seconds, self.head_is_set = checkpoint.step, checkpoint.notes["seconds"], True
            self.epochs = [EpochMetrics(**row) for row in checkpoint.notes["epochs"]]
            self.log[: self.step] = checkpoint.tensors["log"]
        except (KeyError, IndexError, RuntimeError, TypeError, ValueError) as error:
            which = f"the checkpoint of step {checkpoint.step}"
            raise ModelError(f"{which} does not fit this recipe: {one_line(error)}") from error


def _some(recipe: Recipe, images: ImageTensor, normalization: Normalization) -> Tensor:
    """The images that first layers are set by, from all over N×H×W×3: float32 M×3×H×W."""
    count = recipe.network.initial_images
    return normalization.normalize(images[:: max(1, len(images) // count)][:count])


def to_tensors(part: Split) -> tuple[ImageTensor, Tensor]:
    """Copy a split into memory, but for stored images: images uint8 N×H×W×3, labels int64 N."""
    return as_images(part.images), torch.from_numpy(part.labels.astype(np.int64))
