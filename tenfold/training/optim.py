"""Optimizers and schedules. Here, and only here, epochs become steps.

All rates in a recipe are for the mean loss of a batch, or per image where it says so.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.training.device import cpu_has_bfloat16
from tenfold.training.networks import Network
from tenfold.training.recipe import Recipe


@dataclass(frozen=True)
class Schedule:
    """The recipe's stages in steps: `ends` holds the step at which each stage is over."""

    recipe: Recipe
    batch_size: int
    steps_per_epoch: int
    ends: tuple[int, ...]

    @property
    def total(self) -> int:
        """Steps of the whole run."""
        return self.ends[-1]

    def stage(self, step: int) -> int:
        """Number of the stage that `step` belongs to, from 0."""
        return next(i for i, end in enumerate(self.ends) if step < end or end == self.total)

    def starts_stage(self, step: int) -> bool:
        """Whether `step` is the first of its stage, where the optimizers begin afresh."""
        return step == 0 or (step in self.ends and step < self.total)

    def learning_rate(self, step: int) -> float:
        """The learning rate of `step`: a straight line through the stage."""
        index = self.stage(step)
        stage, begin = self.recipe.stages[index], self.ends[index - 1] if index else 0
        done = (step - begin) / (self.ends[index] - begin)
        return stage.learning_rate + (stage.final_learning_rate - stage.learning_rate) * done

    def factor(self, step: int) -> float:
        """The learning rate as a share of the stage's first."""
        return self.learning_rate(step) / self.recipe.stages[self.stage(step)].learning_rate

    def whitening_factor(self, step: int) -> float:
        """Factor of the first layer's bias: it falls to zero within the recipe's `whiten_bias_epochs`."""
        end = self.recipe.whiten_bias_epochs * self.steps_per_epoch
        return max(0.0, 1 - step / end) if end else 0.0

    def small(self, step: int) -> bool:
        """Whether `step` sees the images shrunk."""
        return step < self.recipe.low_res_fraction * self.total

    def frozen(self, step: int) -> bool:
        """Whether the first group stays as it is at `step`."""
        return step >= (1 - self.recipe.freeze_fraction) * self.total

    def epoch(self, step: int) -> float:
        """How many epochs are done after `step` steps."""
        return step / self.steps_per_epoch


def make_schedule(recipe: Recipe, images: int) -> Schedule:
    """Count the steps of `recipe` over `images` training images; a batch is never larger than the data set."""
    batch_size = min(recipe.batch_size, images)
    per_epoch = images // batch_size
    ends: list[int] = []
    epochs = 0.0
    for stage in recipe.stages:
        epochs += stage.epochs
        ends.append(max(round(epochs * per_epoch), (ends[-1] if ends else 0) + 1))
    return Schedule(recipe, batch_size, per_epoch, tuple(ends))


class Optimizer:
    """Groups of parameters with their settings, and tensors that belong to each parameter.

    PyTorch's own base class imports TorchDynamo and SymPy when it is first used: a second of a short run.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]):
        self.param_groups = [{**group, "initial_lr": group["lr"]} for group in groups]
        self.state: dict[nn.Parameter, dict[str, Tensor]] = {}

    def step(self) -> None:
        """Update every parameter that has a gradient."""
        raise NotImplementedError

    def states(self) -> dict[str, Tensor]:
        """All tensors by the number of their parameter and their own name: `3.momentum_buffer`."""
        numbers = {p: number for number, p in enumerate(self._parameters())}
        return {f"{numbers[p]}.{name}": tensor for p, state in self.state.items() for name, tensor in state.items()}

    def restore(self, states: Mapping[str, Tensor]) -> None:
        """Go back to `states`. Raises `IndexError` or `ValueError` where they belong to other parameters."""
        parameters = self._parameters()
        self.state = {}
        for key, tensor in states.items():
            number, _, name = key.partition(".")
            p = parameters[int(number)]
            if tensor.shape not in (p.shape, ()):
                raise ValueError(f"optimizer state {key} is {tuple(tensor.shape)}, not {tuple(p.shape)}")
            # in the parameter's own memory format, as it would be without an interruption
            kept = torch.empty_like(p).copy_(tensor) if tensor.ndim else tensor.clone()
            self.state.setdefault(p, {})[name] = kept

    def _with_momentum(self) -> Iterator[tuple[dict[str, Any], nn.Parameter, Tensor, Tensor]]:
        """Every parameter that has a gradient: its group, itself, the gradient, and its momentum so far."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    if p not in self.state:
                        self.state[p] = {"momentum_buffer": torch.zeros_like(p)}
                    yield group, p, p.grad, self.state[p]["momentum_buffer"]

    def _parameters(self) -> list[nn.Parameter]:
        return [p for group in self.param_groups for p in group["params"]]


def make_optimizers(recipe: Recipe, model: Network, stage: int, batch_size: int) -> list[Optimizer]:
    """Return fresh optimizers for a stage; each group keeps its full rate as `initial_lr`."""
    rate = recipe.stages[stage].learning_rate
    # what the loop freezes on its way keeps its place, so that states keep their numbers
    late = {id(p) for p in (*model.early_parameters(), *model.first_parameters())}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad or id(p) in late}
    if recipe.optimizer == "adam":
        optimizers: list[Optimizer] = [KerasAdam(trained.values(), rate, recipe.l2, model.l2_parameters())]
    else:
        filters = [p for p in trained.values() if p.ndim == 4]
        optimizers = [_nesterov(recipe, model, trained, batch_size), Muon(filters, lr=rate, momentum=recipe.momentum)]
    return optimizers


def _nesterov(recipe: Recipe, model: Network, trained: dict[str, nn.Parameter], batch_size: int) -> "Nesterov":
    def group(rate: float, kind: str, params: list[nn.Parameter]) -> dict[str, Any]:
        # the decay is wanted independent of the rate, by which the step multiplies it
        decay = recipe.weight_decay / rate if rate else 0.0
        return {"params": params, "lr": rate * batch_size, "weight_decay": decay, "kind": kind}

    early = {id(p) for p in model.early_parameters()}
    whitening = [p for p in trained.values() if id(p) in early]
    head = [p for p in trained.values() if p.ndim == 2]
    biases = [p for p in trained.values() if p.ndim == 1 and id(p) not in early]
    groups = [
        group(recipe.bias_lr, "whitening", whitening),
        group(recipe.bias_lr, "bias", biases),
        group(recipe.head_lr, "head", head),
    ]
    return Nesterov([g for g in groups if g["params"]], recipe.sgd_momentum)


def set_rates(optimizers: Iterable[Optimizer], schedule: Schedule, step: int) -> None:
    """Give every group the rate of `step`."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            whitening = group.get("kind") == "whitening"
            factor = schedule.whitening_factor(step) if whitening else schedule.factor(step)
            group["lr"] = group["initial_lr"] * factor


def begin_step(optimizers: list[Optimizer], network: Network, schedule: Schedule, step: int) -> list[Optimizer]:
    """The optimizers of `step` at its rates: fresh ones where a stage begins."""
    if schedule.starts_stage(step):
        optimizers = make_optimizers(schedule.recipe, network, schedule.stage(step), schedule.batch_size)
    set_rates(optimizers, schedule, step)
    return optimizers


def freeze(network: Network, schedule: Schedule, step: int) -> None:
    """Say which parameters `step` trains: what has a rate of 0 needs no gradient, and nor does what comes before it."""
    frozen = schedule.frozen(step)
    for parameter in network.first_parameters():
        parameter.requires_grad_(not frozen)
    if schedule.whitening_factor(step) == 0:
        for parameter in network.early_parameters():
            parameter.requires_grad_(False)


def training_state(network: Network, optimizers: Iterable[Optimizer]) -> dict[str, Tensor]:
    """What training a network has come to, by name: `network.head.weight`, `optimizer.0.3.momentum_buffer`."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for i, optimizer in enumerate(optimizers):
        tensors |= {f"optimizer.{i}.{name}": tensor for name, tensor in optimizer.states().items()}
    return tensors


def restore_training(tensors: Mapping[str, Tensor], network: Network, schedule: Schedule, step: int) -> list[Optimizer]:
    """Give `network` back its `training_state`, and return the optimizers as they were after `step` steps.

    Raises `IndexError`, `RuntimeError` or `ValueError` where it does not fit.
    """
    network.load_state_dict(tensors_below("network.", tensors))
    # at a stage's end the optimizers are about to be replaced, so those of the stage just ended will do
    stage = schedule.stage(max(step - 1, 0))
    optimizers = make_optimizers(schedule.recipe, network, stage, schedule.batch_size)
    for i, optimizer in enumerate(optimizers):
        optimizer.restore(tensors_below(f"optimizer.{i}.", tensors))
    return optimizers


def tensors_below(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


class Nesterov(Optimizer):
    """Stochastic gradient descent with Nesterov's momentum and weight decay, as PyTorch's SGD computes it."""

    def __init__(self, groups: Iterable[dict[str, Any]], momentum: float):
        super().__init__(groups)
        self.momentum = momentum

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group, p, gradient, buffer in self._with_momentum():
            l2_parameters = gradient.add(p, alpha=group["weight_decay"])
            buffer.mul_(self.momentum).add_(l2_parameters)
            p.sub_(l2_parameters.add_(buffer, alpha=self.momentum), alpha=group["lr"])


class Muon(Optimizer):
    """Momentum whose direction is orthogonalised, for convolution filters seen as matrices C_out × (C_in·h·w).

    Keller Jordan et al., "Muon", 2024, as in airbench: each filter matrix is rescaled to a norm of √C_out before its
    step, so that the rate alone sets how fast it turns.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float):
        super().__init__([{"params": list(params), "lr": lr}])
        self.momentum = momentum

    @torch.no_grad()
    def step(self) -> None:
        """Update every filter that has a gradient."""
        for group, p, gradient, buffer in self._with_momentum():
            buffer.mul_(self.momentum).add_(gradient)
            direction = gradient.add(buffer, alpha=self.momentum)
            p.mul_(math.sqrt(len(p)) / p.norm())
            p.add_(orthogonalize(direction.flatten(1)).view(p.shape), alpha=-group["lr"])


def orthogonalize(matrix: Tensor, steps: int = 3) -> Tensor:
    """Bring all singular values of a matrix near 1 by a quintic Newton–Schulz iteration; same shape.

    It is computed in bfloat16, or in float32 on a CPU that has none. The coefficients (Keller Jordan, 2024) have the
    steepest slope at zero for which the values stay within about [0.7, 1.2]; three steps suffice for training.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = (matrix.T if tall else matrix).to(_fast_dtype(matrix.device))
    x = x / (x.norm() + 1e-7)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.T if tall else x).to(matrix.dtype)


def _fast_dtype(device: torch.device) -> torch.dtype:
    return torch.float32 if device.type == "cpu" and not cpu_has_bfloat16() else torch.bfloat16


class KerasAdam(Optimizer):
    """Adam with the bias corrections folded into the rate, as Keras has it: eps is added to the uncorrected √v.

    Kingma and Ba, 2015, the formulation before their section 2.1; Keras's constants. The gradient of `l2` times the sum
    of squares of the `l2_parameters` is added here, on the way, instead of being computed and kept beforehand.
    """

    def __init__(
        self, params: Iterable[nn.Parameter], lr: float, l2: float = 0.0, l2_parameters: Iterable[Tensor] = ()
    ):
        super().__init__([{"params": list(params), "lr": lr, "beta1": 0.9, "beta2": 0.999, "eps": 1e-7}])
        self.l2, self.l2_parameters = l2, {id(p) for p in l2_parameters}

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            self._update([p for p in params if id(p) not in self.l2_parameters], group, 0.0)
            self._update([p for p in params if id(p) in self.l2_parameters], group, 2 * self.l2)

    def _update(self, params: list[nn.Parameter], group: dict[str, Any], decay: float) -> None:
        """One pass over parameters, gradients and both averages, by PyTorch's own kernel.

        It goes through memory in order, so that a gradient must lie as its parameter does; autograd's do.
        """
        if not params:
            return
        states = [self._state(p) for p in params]
        for state in states:
            state["step"] += 1
        # the kernel adds eps to the corrected √v: this much there is what Keras's eps is on the uncorrected one
        eps = group["eps"] / math.sqrt(1 - group["beta2"] ** float(states[0]["step"]))
        torch._fused_adam_(
            list[Tensor](params),
            [p.grad for p in params if p.grad is not None],
            [state["m"] for state in states],
            [state["v"] for state in states],
            [],
            [state["step"].to(params[0].device) for state in states],  # counted on the host
            lr=group["lr"],
            beta1=group["beta1"],
            beta2=group["beta2"],
            weight_decay=decay,
            eps=eps,
            amsgrad=False,
            maximize=False,
        )

    def _state(self, p: nn.Parameter) -> dict[str, Tensor]:
        if p not in self.state:
            self.state[p] = {"step": torch.zeros(()), "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
        return self.state[p]
