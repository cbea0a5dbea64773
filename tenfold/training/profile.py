"""Where the time of a training step goes: every convolution and direction within steps, and all else by kind.

The ceiling is the rate of a large matrix product on the same machine, in the numbers that the recipe trains in. Each
convolution is timed as it is in the step, forward (casts of its weights too) and backward; of the rest, what PyTorch's
profiler counts in whole steps by kind. Dense layers are small and left out; a proxy, where the recipe has one, is a row
by itself. The size of a product is that of the definition, also where `convolution` needs fewer multiplications.
"""

import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity

from tenfold.data.dataset import Dataset, Split
from tenfold.errors import UsageError
from tenfold.training.fitting import device_for
from tenfold.training.recipe import Recipe
from tenfold.training.speed import matmul_gflops
from tenfold.training.trainer import Trainer

STEPS = 8
WARM_UP = 4

# Names of operations, by what they are for. Convolutions have rows of their own, a direction each.
KINDS = {
    "kernels": ("NormGelu", "BiasReLU"),  # pooling, norms and activations in one
    "activations": ("aten::gelu", "relu", "clamp_min", "threshold_backward", "hardtanh", "aten::clamp"),
    "pooling": ("max_pool2d", "avg_pool2d"),
    "norms": ("batch_norm",),
}


LEFT = "loss, casts, copies"
"""What a whole step takes more than its parts; each is timed alone, so that it may even be less than nothing."""


@dataclass(frozen=True)
class Part:
    """A part of the step: milliseconds, and for products their size in GFLOP."""

    name: str
    direction: str
    milliseconds: float
    gflop: float | None = None

    @property
    def rate(self) -> float | None:
        """GFLOP/s."""
        return None if self.gflop is None else self.gflop / self.milliseconds * 1e3


@dataclass(frozen=True)
class StepProfile:
    """A step of `batch_size` images: its parts, its time, and the machine's ceiling in GFLOP/s of `dtype`."""

    parts: tuple[Part, ...]
    batch_size: int
    milliseconds: float
    ceiling: float
    dtype: str

    @property
    def gflop(self) -> float:
        """The convolutions' products that the step needs, together."""
        return sum(part.gflop or 0.0 for part in self.parts)

    @property
    def rate(self) -> float:
        """The whole step's GFLOP/s."""
        return self.gflop / self.milliseconds * 1e3

    @property
    def share_of_ceiling(self) -> float:
        """The whole step's rate over the ceiling."""
        return self.rate / self.ceiling


def profile_step(recipe: Recipe, train: Split, classes: int, dtype: str = "auto") -> StepProfile:
    """Profile a full-size step of `recipe` on the CPU, early in training, when every layer is trained.

    dtype: as for `tenfold.train`. Raises `UsageError` where the recipe has too few steps to take some.
    """
    data = Dataset("profile", tuple(map(str, range(classes))), train, train[:0])
    trainer = Trainer(replace(_all_trained(recipe), val_size=0), data, device=device_for(recipe, "cpu", dtype))
    if trainer.schedule.total < WARM_UP + 2 * STEPS + 1:
        raise UsageError(f"{recipe.name} has only {trainer.schedule.total} steps: too few to profile")
    for _ in range(WARM_UP):
        trainer.train_step()
    device_config = trainer.device_config
    before = matmul_gflops(device_config.dtype)
    # a proxy learns at some steps only, which the mean has and the median has not
    middle = statistics.median if trainer.proxy is None else statistics.fmean
    milliseconds = 1e3 * middle(_seconds(trainer.train_step))
    ceiling = (before + matmul_gflops(device_config.dtype)) / 2
    parts = (*_products(trainer), *_rest(trainer))
    left = milliseconds - sum(part.milliseconds for part in parts)
    parts = (*parts, Part(LEFT, "", left))
    return StepProfile(parts, trainer.schedule.batch_size, milliseconds, ceiling, device_config.dtype_name)


def _all_trained(recipe: Recipe) -> Recipe:
    """The recipe at full size throughout, with no layer at rest: a short one would come to that while it is timed."""
    bias_trained = max(recipe.whiten_bias_epochs, recipe.epochs)
    return replace(recipe, low_res_fraction=0.0, freeze_fraction=0.0, whiten_bias_epochs=bias_trained)


def _seconds(action: Callable[[], object]) -> list[float]:
    """What `action` takes, a few times."""
    taken = []
    for _ in range(STEPS):
        began = time.perf_counter()
        action()
        taken.append(time.perf_counter() - began)
    return taken


def _products(trainer: Trainer) -> Iterator[Part]:
    """Time each convolution in the directions that a step takes."""
    layers = {name: layer for name, layer in trainer.network.named_modules() if isinstance(layer, nn.Conv2d)}
    watches = {name: _Watch(layer) for name, layer in layers.items()}
    for _ in range(STEPS):
        trainer.train_step()
    for name, watch in watches.items():
        yield from watch.parts(name)
        watch.remove()


@dataclass
class _Watch:
    """Times a convolution within steps: by hooks around its forward and its node of the graph."""

    layer: nn.Conv2d
    forward: list[float] = field(default_factory=list)
    backward: list[float] = field(default_factory=list)
    gflop: float = 0.0
    """Of one direction."""
    directions: int = 0
    """Backward: to the input, to the weights, or both."""

    def __post_init__(self) -> None:
        before, after = self.layer.register_forward_pre_hook, self.layer.register_forward_hook
        self._hooks = [before(self._enter), after(self._leave)]
        self._began = 0.0

    def _enter(self, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.directions = inputs[0].requires_grad + self.layer.weight.requires_grad
        self._start()

    def _leave(self, layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        self.forward.append(self._elapsed())
        self.gflop = 2e-9 * output.numel() * self.layer.weight[0].numel()
        if output.grad_fn is not None:
            output.grad_fn.register_prehook(self._start)
            output.grad_fn.register_hook(lambda *_: self.backward.append(self._elapsed()))

    def _start(self, *_: Any) -> None:
        self._began = time.perf_counter()

    def _elapsed(self) -> float:
        return time.perf_counter() - self._began

    def parts(self, name: str) -> Iterator[Part]:
        """Its rows: medians over the steps."""
        yield Part(name, "forward", 1e3 * statistics.median(self.forward), self.gflop)
        if self.directions:
            yield Part(name, "backward", 1e3 * statistics.median(self.backward), self.gflop * self.directions)

    def remove(self) -> None:
        """Leave the layer as it was."""
        for hook in self._hooks:
            hook.remove()


def _rest(trainer: Trainer) -> Iterator[Part]:
    """Time what is no convolution: the batch, then by kind of operation, then the optimizers, and a proxy."""
    yield Part("batch and augmentation", "", 1e3 * statistics.median(_seconds(trainer.next_candidates)))
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")  # else the profiler talks to standard error
    with torch.profiler.profile(activities=[ProfilerActivity.CPU]) as watched:
        for _ in range(STEPS):
            trainer.train_step()
    spent = {(kind, direction): 0.0 for kind in KINDS for direction in ("forward", "backward")}
    named = {"optimizers": 0.0} | ({"proxy": 0.0} if trainer.proxy is not None else {})
    for event in watched.events() or ():
        if _within(event, "proxy"):
            continue
        if event.key in named:
            named[event.key] += event.cpu_time_total / 1e3 / STEPS
        kind = next((kind for kind, names in KINDS.items() if any(name in event.key for name in names)), None)
        if kind and event.key.startswith(("aten::", "_")):
            direction = "backward" if "backward" in event.key.lower() else "forward"
            spent[kind, direction] += event.self_cpu_time_total / 1e3 / STEPS
    for (kind, direction), milliseconds in spent.items():
        if milliseconds:
            yield Part(kind, direction, milliseconds)
    for name, milliseconds in named.items():
        yield Part(name, "", milliseconds)


def _within(event: FunctionEvent, name: str) -> bool:
    """Whether something of that name caused the event."""
    above = event.cpu_parent
    while above is not None and above.key != name:
        above = above.cpu_parent
    return above is not None
