"""How long training is about to take and how much memory, by one step on a few images: said before it begins.

Where images are small, as recipes are made for, nothing is measured: it would take longer than what it tells is worth.
"""

import copy
import time
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from tenfold.console import log_info, warn
from tenfold.machine import free_memory, peak_memory
from tenfold.training.trainer import Trainer

LARGE_SIDE = 64
"""Pixels a side: with larger images training from scratch takes minutes to hours, and gigabytes."""
_IMAGES = 16
_GIGABYTE = 1e9


@dataclass(frozen=True)
class Cost:
    """What a training step costs an image: seconds, and bytes that are kept for the backward pass."""

    seconds: float
    bytes: int


def announce(trainer: Trainer) -> None:
    """Log what fine-tuning, or training on large images, is about to cost; warn where the memory is not there."""
    fine_tunes = trainer.recipe.head_init == "logistic"
    if trainer.done or not (fine_tunes or trainer.images.shape[1] > LARGE_SIDE):
        return
    cost, batch = measure_cost(trainer), -(-trainer.schedule.batch_size // trainer.dist.count)
    left = trainer.schedule.total - trainer.step
    seconds = _steps_at_full_size(trainer) * batch * cost.seconds
    memory = peak_memory() + batch * cost.bytes
    log_info(
        f"{'fine-tuning' if fine_tunes else 'training'}: {left * trainer.schedule.batch_size:,} passes of an image, "
        f"about {seconds:.0f} s and {memory / _GIGABYTE:.1f} GB of memory"
    )
    free = free_memory() + peak_memory()
    if trainer.device_config.device.type == "cpu" and memory > free:
        do = "--size brings the images to fewer pixels, and a recipe's batch_size takes fewer at a time"
        warn(f"training takes about {memory / _GIGABYTE:.1f} GB of memory, and {free / _GIGABYTE:.1f} are there: {do}")


def _steps_at_full_size(trainer: Trainer) -> float:
    """Steps that are left, those on shrunk images counted by their pixels."""
    share = (trainer.recipe.low_res_size / trainer.images.shape[1]) ** 2
    steps = range(trainer.step, trainer.schedule.total)
    return sum(share if trainer.schedule.small(step) else 1.0 for step in steps)


def measure_cost(trainer: Trainer) -> Cost:
    """Take a step with a copy of the network on a few images."""
    count = min(_IMAGES, trainer.schedule.batch_size, len(trainer.images))
    images, labels = trainer.normalization.normalize(trainer.images[:count]), trainer.labels[:count]
    network, seconds = copy.deepcopy(trainer.network), 0.0  # norms would note the batch
    kept: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> Any:
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    for _ in range(2):  # the first one sets up
        began = time.perf_counter()
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), trainer.device_config.autocast():
            loss = F.cross_entropy(network(images).float(), labels)
        total = sum(kept.values())
        loss.backward()
        loss.item()
        kept.clear()
        seconds = time.perf_counter() - began
    return Cost(seconds / count, total // count)
