"""What ranks do in tests: a short training, and one of them that is struck."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

from tenfold.training import recorder
from tenfold.training.device import select_device
from tenfold.training.distributed import DistContext, joined
from tenfold.training.networks import WhitenedSpec
from tenfold.training.recipe import Stage
from tenfold.training.recipes import FAST89
from tenfold.training.trainer import Trainer
from tests.support.few_shapes import few_shapes
from tests.support.forks import command

STEPS = 60
RECIPE = replace(
    FAST89,
    name="ranks",
    network=WhitenedSpec(widths=(8, 16)),
    stages=(Stage(4.0, 0.002, 0.0),),  # at greater rates, differences in the last bit grow tenfold a step
    batch_size=99,  # two ranks have shares of different sizes
    head_lr=0.1,
    bias_lr=0.01,
    whiten_bias_epochs=0.5,
)


def losses(dist: DistContext, proxy_widths: tuple[int, ...]) -> list[float]:
    """Of the first steps, in float32 throughout.

    Norms keep their first statistics: these are what ranks differ in from one process. The optimizer's bfloat16 would
    make differences of 1e-7, from the order of sums, a thousand times as large within ten steps.
    """
    torch.set_num_threads(1)
    data = few_shapes(16, 100)
    by_proxy = {"prune_fraction": 0.0, "proxy_prune_fraction": RECIPE.prune_fraction} if proxy_widths else {}
    recipe = replace(RECIPE, proxy_widths=proxy_widths, **by_proxy)
    trainer = Trainer(recipe, data, device=select_device("cpu", torch.float32), dist=dist)
    for module in trainer.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    with patch("tenfold.training.optimizers.bfloat16_pays", lambda: False):
        while trainer.step < STEPS:
            trainer.train_step()
    return [loss for loss, _ in trainer.log[:STEPS].tolist()]


def print_losses(*proxy_widths: int) -> None:
    """As a rank."""
    with joined() as dist:
        print(losses(dist, proxy_widths))


def run_struck(rank: int, step: int, number: int, *words: str | Path) -> None:
    """The command, saving a checkpoint after every step; at a step, a rank sends a signal to itself."""
    train_step = Trainer.train_step
    recorder.CHECKPOINT_SECONDS, recorder.CHECKPOINT_SHARE = 0.0, 1e9

    def struck(trainer: Trainer) -> None:
        if (trainer.dist.rank, trainer.step) == (rank, step):
            os.kill(os.getpid(), number)
        train_step(trainer)

    with patch.object(Trainer, "train_step", struck):
        command(*words)


if __name__ == "__main__":
    run_struck(*map(int, sys.argv[1:4]), *sys.argv[4:])
