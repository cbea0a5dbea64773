"""What follows a convolution, as one operation each, forward and backward, by the kernels.

Each gives what PyTorch's operations give, for images that `build.takes`.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from tenfold.training.kernels.build import library


def norm_gelu(x: Tensor, norm: nn.BatchNorm2d, shortcut: Tensor | None = None, pool: bool = False) -> Tensor:
    """GELU(norm(x) + shortcut), x first max-pooled to half the side with `pool`: N×C×H×W, of the dtype of x.

    As in training: by the batch's own statistics, and the running ones are updated.
    """
    answer: Tensor = _NormGelu.apply(x, norm.weight, norm.bias, shortcut, norm, pool)
    return answer


def bias_relu(x: Tensor, bias: Tensor) -> Tensor:
    """ReLU(x + bias) for N×C×H×W; `x` must need no gradient, and may be written over."""
    assert not x.requires_grad
    answer: Tensor = _BiasReLU.apply(x, bias)
    return answer


@dataclass(frozen=True)
class _Statistics:
    """Per channel, float32: of what is normalised; scale and shift make the norm of it."""

    mean: Tensor
    reciprocal_std: Tensor
    scale: Tensor
    shift: Tensor


class _NormGelu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, shortcut: Tensor | None, norm: nn.BatchNorm2d, pool: bool
    ) -> Tensor:
        x = _channels_last(x)
        shortcut = None if shortcut is None else _channels_last(shortcut.to(x.dtype))
        seen, which, sums, pivot = _pool_sums(x) if pool else (x, None, *_sums(x))
        statistics = _statistics(sums, pivot, seen.numel() // seen.shape[1], norm)
        y = torch.empty_like(seen)
        rows, channels = seen.numel() // seen.shape[1], seen.shape[1]
        library().call("norm_gelu", x.dtype, seen, rows, channels, statistics.scale, statistics.shift, shortcut, y)
        if any(ctx.needs_input_grad):
            ctx.save_for_backward(seen, which, shortcut)
            ctx.statistics, ctx.sides = statistics, x.shape[2:]
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        seen, which, shortcut = ctx.saved_tensors
        gradient, statistics = _channels_last(gradient), ctx.statistics
        channels, rows = seen.shape[1], seen.numel() // seen.shape[1]
        per_channel = (statistics.scale, statistics.shift, statistics.mean)
        sums = torch.empty(2, channels, dtype=torch.float64)
        library().call("gradient_sums", seen.dtype, seen, gradient, shortcut, rows, channels, *per_channel, sums)
        total, products = sums.float()
        of_weight = products * statistics.reciprocal_std if ctx.needs_input_grad[1] else None
        of_x = of_shortcut = None
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[3]:
            of_x = _new_images(seen, *ctx.sides)
            of_shortcut = None if shortcut is None else torch.empty_like(seen)
            slope = -statistics.scale * statistics.reciprocal_std.square() * products / rows
            offset = -statistics.scale * total / rows
            images = (len(seen), *ctx.sides, channels)
            library().call(
                "input_gradient", seen.dtype, seen, gradient, shortcut, which, *images, *per_channel, slope, offset,
                of_x, of_shortcut,
            )  # fmt: skip
        return of_x, of_weight, total, of_shortcut, None, None


class _BiasReLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        y = _channels_last(x)
        channels = y.shape[1]
        library().call("bias_relu", y.dtype, y, y.numel() // channels, channels, bias.float(), y)
        ctx.save_for_backward(y)
        return y.detach() if y is x else y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        (y,) = ctx.saved_tensors
        channels, total = y.shape[1], torch.empty(y.shape[1], dtype=torch.float64)
        rows = y.numel() // channels
        library().call("bias_relu_gradient", y.dtype, y, _channels_last(gradient), rows, channels, total)
        return None, total.float()


def _pool_sums(x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The largest of each 2×2 pixels of N×C×H×W; which they are, uint8; sums 2×C, float64, about a pivot, float32 C."""
    count, channels, height, width = x.shape
    pooled = _new_images(x, height // 2, width // 2)
    which = torch.empty(pooled.numel(), dtype=torch.uint8)
    sums, pivot = torch.empty(2, channels, dtype=torch.float64), _pivot(x)
    library().call("pool_sums", x.dtype, x, count, height, width, channels, pivot, pooled, which, sums)
    return pooled, which, sums, pivot


def _sums(x: Tensor) -> tuple[Tensor, Tensor]:
    channels = x.shape[1]
    sums, pivot = torch.empty(2, channels, dtype=torch.float64), _pivot(x)
    library().call("sums", x.dtype, x, x.numel() // channels, channels, pivot, sums)
    return sums, pivot


def _pivot(x: Tensor) -> Tensor:
    """A number of each channel's own size: its first pixel."""
    return x[0, :, 0, 0].float()


@torch.no_grad()
def _statistics(sums: Tensor, pivot: Tensor, count: int, norm: nn.BatchNorm2d) -> _Statistics:
    """Statistics of `count` numbers a channel; the norm's running ones are updated."""
    assert norm.running_mean is not None and norm.running_var is not None and norm.num_batches_tracked is not None
    assert norm.momentum is not None
    from_pivot = sums[0] / count
    variance = (sums[1] / count - from_pivot.square()).clamp_min_(0)
    mean = from_pivot + pivot
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), norm.momentum)
    norm.running_var.lerp_((variance * count / max(1, count - 1)).to(norm.running_var.dtype), norm.momentum)
    norm.num_batches_tracked += 1
    reciprocal_std = (variance + norm.eps).rsqrt()
    scale = norm.weight * reciprocal_std
    shift = norm.bias - mean * scale
    return _Statistics(mean.float(), reciprocal_std.float(), scale.float(), shift.float())


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _new_images(like: Tensor, height: int, width: int) -> Tensor:
    """Room for N×C×height×width numbers, channels last in memory."""
    return like.new_empty(len(like), height, width, like.shape[1]).permute(0, 3, 1, 2)
