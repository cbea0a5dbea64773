"""Max pooling to half the side on the CPU, without the indices that PyTorch's own keeps: 8 bytes for every answer.

Which pixel of a patch was the largest is kept as two differences in the numbers' own type, and its gradient is what two
comparisons let through. Answers and gradients are PyTorch's to the bit, whichever of equal pixels it takes included.
Shapes: N images, C channels, H×W pixels.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def max_pool(x: Tensor) -> Tensor:
    """The largest of every 2×2 pixels: N×C×H×W to N×C×H/2×W/2, what is left of an odd side dropped."""
    if x.device.type != "cpu" or x.shape[2] % 2 or x.shape[3] % 2:
        return F.max_pool2d(x, 2)
    answer: Tensor = MaxPool2x2.apply(x)
    return answer


class MaxPool2x2(torch.autograd.Function):
    """Max pooling of 2×2 pixels, first of neighbours in a row, then of the rows; sides are even."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Map N×C×H×W to N×C×H/2×W/2."""
        left, right = _columns(x)
        rows = torch.maximum(left, right)
        upper, lower = _rows(rows)
        if ctx.needs_input_grad[0]:
            ctx.save_for_backward(right - left, lower - upper)
        return torch.maximum(upper, lower)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """The gradient of each answer, at the pixel that was the largest: of equal ones the first, row by row."""
        rightward, downward = ctx.saved_tensors
        of_rows = torch.empty_like(rightward)
        _pass_on(gradient, downward, *_rows(of_rows))
        n, channels, height, half = rightward.shape
        of_input = gradient.new_empty(n, height, 2 * half, channels).permute(0, 3, 1, 2)
        _pass_on(of_rows, rightward, *_columns(of_input))
        return of_input


def _columns(images: Tensor) -> tuple[Tensor, Tensor]:
    return images[:, :, :, 0::2], images[:, :, :, 1::2]


def _rows(images: Tensor) -> tuple[Tensor, Tensor]:
    return images[:, :, 0::2], images[:, :, 1::2]


def _pass_on(gradient: Tensor, difference: Tensor, first: Tensor, second: Tensor) -> None:
    """Write `gradient` into `second` where the difference is positive, and elsewhere into `first`; zeros otherwise."""
    torch.ops.aten.threshold_backward(gradient, difference, 0, grad_input=second)
    torch.sub(gradient, second, out=first)
