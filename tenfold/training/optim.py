"""Which optimizer trains what in each step, at which rate; and the state of training a network, to disk and back.

All rates in a recipe are for the mean loss of a batch, or per image where it says so.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from tenfold.training.networks.module import Network
from tenfold.training.optimizers import AdamW, KerasAdam, Muon, Nesterov, Optimizer
from tenfold.training.recipe import Recipe
from tenfold.training.schedule import Schedule


def make_optimizers(recipe: Recipe, model: Network, stage: int, batch_size: int) -> list[Optimizer]:
    """Return fresh optimizers for a stage; each group keeps its full rate as `initial_lr`."""
    rate = recipe.stages[stage].learning_rate
    # what the loop freezes on its way keeps its place, so that states keep their numbers
    late = {id(p) for p in (*model.early_parameters(), *model.first_parameters())}
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad or id(p) in late}
    if recipe.optimizer == "adam":
        optimizers: list[Optimizer] = [KerasAdam(trained.values(), rate, recipe.l2, model.l2_parameters())]
    elif recipe.optimizer == "adamw":
        optimizers = [AdamW(trained.values(), rate, recipe.weight_decay)]
    else:
        filters = [p for p in trained.values() if p.ndim == 4]
        optimizers = [_nesterov(recipe, model, trained, batch_size), Muon(filters, lr=rate, momentum=recipe.momentum)]
    return optimizers


def _nesterov(recipe: Recipe, model: Network, trained: dict[str, nn.Parameter], batch_size: int) -> Nesterov:
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
