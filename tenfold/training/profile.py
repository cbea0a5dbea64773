"""Where the time of a training step goes: every convolution and direction alone, and the whole step beside the ceiling.

The ceiling is the rate of a large matrix product on the same machine, in the numbers that the recipe trains in. Each
convolution's three products (the output, the gradient to its input, that to its weights) are timed alone on tensors of
the step's own shapes, casts of weights included; of the rest, what PyTorch's profiler counts in whole steps by kind.
Dense layers are small and left out; a proxy, where the recipe has one, is a row by itself. The size of a product is
that of the definition, also where `convolution` needs fewer multiplications.
"""

import copy
import os
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity

from tenfold.data.dataset import Dataset, Split
from tenfold.errors import UsageError
from tenfold.training.device import DeviceConfig
from tenfold.training.fitting import device_for
from tenfold.training.recipe import Recipe
from tenfold.training.speed import matmul_gflops
from tenfold.training.trainer import Trainer

STEPS = 8
WARM_UP = 4

# Names of PyTorch's operations, by what they are for. Convolutions have rows of their own, a direction each.
KINDS = {
    "activations": ("gelu", "relu", "clamp_min", "threshold_backward", "hardtanh", "aten::clamp"),
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
    """Time each convolution alone, in every direction that the step takes."""
    inputs = _inputs(trainer)
    for name, layer in trainer.network.named_modules():
        if isinstance(layer, nn.Conv2d):
            yield from _convolution(name, layer, *inputs[name], trainer.device_config)


def _inputs(trainer: Trainer) -> dict[str, tuple[torch.Size, bool]]:
    """Shapes of the convolutions' inputs, and whether a step needs the gradient to them."""
    found: dict[str, tuple[torch.Size, bool]] = {}
    convolutions = [(name, layer) for name, layer in trainer.network.named_modules() if isinstance(layer, nn.Conv2d)]

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _layer, inputs: found.update({name: (inputs[0].shape, inputs[0].requires_grad)})

    hooks = [layer.register_forward_pre_hook(note(name)) for name, layer in convolutions]
    trainer.train_step()
    for hook in hooks:
        hook.remove()
    return found


def _convolution(
    name: str, layer: nn.Conv2d, shape: torch.Size, to_input: bool, device_config: DeviceConfig
) -> Iterator[Part]:
    directions = ["forward"]
    directions += ["to the input"] if to_input else []
    directions += ["to the weights"] if layer.weight.requires_grad else []
    for direction in directions:
        action, answers = _alone(layer, shape, direction, device_config)
        action()
        yield Part(name, direction, 1e3 * statistics.median(_seconds(action)), 2e-9 * answers * layer.weight[0].numel())


def _alone(
    layer: nn.Conv2d, shape: torch.Size, direction: str, device_config: DeviceConfig
) -> tuple[Callable[[], object], int]:
    """What computes one direction of a layer and nothing else, and how many numbers the layer answers."""
    layer = copy.deepcopy(layer).requires_grad_(False)
    inputs = torch.randn(shape).to(device_config.dtype, memory_format=torch.channels_last)
    wanted = {"to the input": inputs, "to the weights": layer.weight}.get(direction)
    if wanted is not None:
        wanted.requires_grad_()

    def forward() -> Tensor:
        with device_config.autocast():
            return layer(inputs)

    answer = forward()
    if wanted is None:
        return forward, answer.numel()
    gradient = torch.randn_like(answer)
    return lambda: torch.autograd.grad(answer, wanted, gradient, retain_graph=True), answer.numel()


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
        if kind and event.key.startswith("aten::"):
            direction = "backward" if "backward" in event.key else "forward"
            spent[kind, direction] += event.self_cpu_time_total / 1e3 / STEPS
    for (kind, direction), milliseconds in spent.items():
        yield Part(kind, direction, milliseconds)
    for name, milliseconds in named.items():
        yield Part(name, "", milliseconds)


def _within(event: FunctionEvent, name: str) -> bool:
    """Whether something of that name caused the event."""
    above = event.cpu_parent
    while above is not None and above.key != name:
        above = above.cpu_parent
    return above is not None
