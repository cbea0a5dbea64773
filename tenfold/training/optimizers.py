"""The optimizers: Nesterov SGD, Muon, AdamW, and Adam as Keras computes it."""

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tenfold.training.precision import bfloat16_pays


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

    It is computed in bfloat16, or in float32 on a CPU that is no faster in it. The coefficients (Keller Jordan, 2024)
    have the steepest slope at zero for which the values stay within about [0.7, 1.2]; three steps suffice for training.
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
    return torch.float32 if device.type == "cpu" and not bfloat16_pays() else torch.bfloat16


class FusedAdam(Optimizer):
    """Base of both kinds of Adam: their state, and one pass over memory by PyTorch's own kernel."""

    def _fused_step(
        self, kernel: Callable[..., None], params: list[nn.Parameter], group: dict[str, Any], decay: float
    ) -> None:
        """Update parameters that have a gradient, which must lie in memory as its parameter does; autograd's do."""
        if not params:
            return
        states = [self._state(p) for p in params]
        for state in states:
            state["step"] += 1
        kernel(
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
            eps=self._eps(group, float(states[0]["step"])),
            amsgrad=False,
            maximize=False,
        )

    def _eps(self, group: dict[str, Any], step: float) -> float:
        """What the kernel adds to the corrected √v at a step, from 1."""
        del step
        return float(group["eps"])

    def _state(self, p: nn.Parameter) -> dict[str, Tensor]:
        if p not in self.state:
            self.state[p] = {"step": torch.zeros(()), "m": torch.zeros_like(p), "v": torch.zeros_like(p)}
        return self.state[p]


class KerasAdam(FusedAdam):
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
            plain = [p for p in params if id(p) not in self.l2_parameters]
            decayed = [p for p in params if id(p) in self.l2_parameters]
            self._fused_step(torch._fused_adam_, plain, group, 0.0)
            self._fused_step(torch._fused_adam_, decayed, group, 2 * self.l2)

    def _eps(self, group: dict[str, Any], step: float) -> float:
        """This much is on the corrected √v what Keras's eps is on the uncorrected one."""
        return float(group["eps"] / math.sqrt(1 - group["beta2"] ** step))


class AdamW(FusedAdam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, 2019), for fine-tuning."""

    def __init__(self, params: Iterable[nn.Parameter], lr: float, weight_decay: float):
        super().__init__([{"params": list(params), "lr": lr, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}])
        self.weight_decay = weight_decay

    @torch.no_grad()
    def step(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            self._fused_step(torch._fused_adamw_, params, group, self.weight_decay)
