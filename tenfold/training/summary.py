"""What a network looks like: its layers, output shapes and parameter counts."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Layer:
    """A row of the summary: dotted name, kind, output shape without the batch, numbers held (buffers of norms too)."""

    name: str
    kind: str
    shape: tuple[int, ...]
    parameters: int


def count_parameters(model: nn.Module, trainable: bool = False) -> int:
    """Count weights and, as Keras does, the norms' moving means and variances; or only what is trained."""
    if trainable:
        return sum(p.numel() for p in model.parameters() if p.requires_grad)
    moving = sum(b.numel() for b in model.buffers() if b.is_floating_point())
    return sum(p.numel() for p in model.parameters()) + moving


def fold_blocks(layers: list[Layer], most: int) -> list[Layer]:
    """The layers, or, of more than so many, one row for all that are in one block (`blocks.3.…`) of several."""
    if len(layers) <= most:
        return layers
    blocks: dict[str, list[Layer]] = {}
    for layer in layers:
        name = ".".join(layer.name.split(".")[:2])
        blocks.setdefault(name, []).append(layer)
    return [_fold(name, parts) if len(parts) > 1 else parts[0] for name, parts in blocks.items()]


def _fold(name: str, parts: list[Layer]) -> Layer:
    return Layer(name, f"{len(parts)} layers", parts[-1].shape, sum(layer.parameters for layer in parts))


def summarize(model: nn.Module, size: int = 32) -> list[Layer]:
    """List the layers that hold numbers, in the order in which an image meets them."""
    layers: list[Layer] = []

    def note(name: str) -> Any:
        def hook(module: nn.Module, _inputs: Any, output: Tensor) -> None:
            layers.append(Layer(name, type(module).__name__, tuple(output.shape[1:]), count_parameters(module)))

        return hook

    leaves = [(name, module) for name, module in model.named_modules() if not any(module.children())]
    hooks = [module.register_forward_hook(note(name)) for name, module in leaves]
    training = model.training
    device = next(model.parameters()).device
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, size, size, device=device))
    model.train(training)
    for hook in hooks:
        hook.remove()
    return layers
