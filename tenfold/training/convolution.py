"""3×3 convolutions on the CPU with fewer multiplications than the definition has.

`Conv3x3` is the layer; it takes the shortest way to the same sums for the shape at hand. Shapes: N images of C_in
channels and H×W pixels, with a pixel of zeros around them; K = C_out channels come out.
"""

from functools import cache, reduce
from itertools import product
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class Conv3x3(nn.Conv2d):
    """A 3×3 convolution with a pixel of zeros around the image."""

    def __init__(self, channels_in: int, channels_out: int, bias: bool = True):
        super().__init__(channels_in, channels_out, kernel_size=3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Map N×C_in×H×W to N×K×H×W, in autocast's dtype where that is on."""
        return convolve(x, self.weight, self.bias)


def convolve(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Convolve N×C_in×H×W with K×C_in×3×3, zeros around, by the way that is the fastest for so many: N×K×H×W."""
    mixed = x.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    dtype = torch.get_autocast_dtype("cpu") if mixed else x.dtype
    way = _shorter_way(x, weight, dtype) if mixed or weight.dtype == dtype else None
    if way is None:
        return F.conv2d(x, weight, bias, padding=1)
    answer: Tensor = way.apply(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype))
    return answer


def _shorter_way(x: Tensor, weight: Tensor, dtype: torch.dtype) -> "type[TwoByTwo | Winograd] | None":
    """The way that was measured to be faster than PyTorch's convolution: docs/log.md, 2026-11-23."""
    if x.device.type != "cpu" or x.ndim != 4 or x.shape[1] != weight.shape[1] or len(x) < _FEWEST_IMAGES:
        return None
    height, width = x.shape[2:]
    if height == width == 2:
        return TwoByTwo
    least = _FEWEST_CHANNELS.get(height) if height == width and dtype == torch.bfloat16 else None
    return Winograd if least and min(weight.shape[:2]) >= least else None


_FEWEST_IMAGES = 16
"""For fewer, rearranging the weights costs more than the products that are saved."""
_FEWEST_CHANNELS = {4: 128, 8: 256}
"""In and out, by the side of the image: the more pixels, the more channels it takes to pay."""


# --- 2×2 pixels --------------------------------------------------------------------------------------------------

_PLACES = {
    (down, right): [
        (row, column)
        for row, column in product(range(2), repeat=2)
        if row + down in (0, 1) and column + right in (0, 1)
    ]
    for down, right in product((-1, 0, 1), repeat=2)
}
"""The output pixels of 2×2, by row and column, that see a pixel so far down and to the right."""

Gradients = tuple[Tensor | None, Tensor | None, Tensor | None]
"""Of input, weight and bias, where they are asked for."""


class TwoByTwo(torch.autograd.Function):
    """A 3×3 convolution of 2×2 pixels as one matrix product: every pixel sees all four.

    It multiplies 16 blocks instead of 36, of which 20 are zeros, and takes less than half the time on a CPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Map N×C_in×2×2 to N×K×2×2."""
        channels, channels_in = weight.shape[:2]
        matrix = weight.new_empty(2, 2, channels, 2, 2, channels_in)
        for (down, right), places in _PLACES.items():
            for row, column in places:
                matrix[row, column, :, row + down, column + right] = weight[:, :, 1 + down, 1 + right]
        pixels = x.permute(0, 2, 3, 1).flatten(1)
        ctx.save_for_backward(pixels, matrix)
        answer = F.linear(pixels, matrix.view(4 * channels, -1), None if bias is None else bias.repeat(4))
        return answer.view(-1, 2, 2, channels).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        """Gradients of input, weight and bias."""
        pixels, matrix = ctx.saved_tensors
        channels, channels_in = matrix.shape[2], matrix.shape[5]
        rows = gradient.permute(0, 2, 3, 1).flatten(1)
        of_input = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            of_input = (rows @ matrix.view(4 * channels, -1)).view(-1, 2, 2, channels_in).permute(0, 3, 1, 2)
        if ctx.needs_input_grad[1]:
            of_matrix = (rows.T @ pixels).view(matrix.shape)
            of_weight = _new_images(matrix, channels, channels_in, 3)
            for (down, right), places in _PLACES.items():
                parts = [of_matrix[row, column, :, row + down, column + right] for row, column in places]
                of_weight[:, :, 1 + down, 1 + right] = reduce(torch.add, parts)
        if ctx.needs_input_grad[2]:
            of_bias = gradient.sum((0, 2, 3))
        return of_input, of_weight, of_bias


# --- larger images, of an even side ------------------------------------------------------------------------------

_PIECE = 1 << 21
"""As many products are computed at a time, so that they are still in the processor's cache when they are summed."""

# F(2×2, 3×3) along one side: four sums of four pixels, four of three weights, and two answers of their four products.
_OF_PIXELS = torch.tensor([[1.0, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
_OF_WEIGHTS = torch.tensor([[1.0, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
_OF_PRODUCTS = torch.tensor([[1.0, 1, 1, 0], [0, 1, -1, -1]])
_OF_TAPS = torch.kron(_OF_WEIGHTS, _OF_WEIGHTS)
"""From the 9 weights of a filter to their 16 sums, along both sides."""


class Winograd(torch.autograd.Function):
    """A 3×3 convolution by Winograd's F(2×2, 3×3): 16 products for every 2×2 pixels instead of 36.

    S. Winograd, "Arithmetic complexity of computations", 1980; for networks Lavin and Gray, 2015. For every 2×2 pixels
    of the answer, 16 sums of the pixels around them are multiplied with 16 sums of weights, all channels at once, and
    the answer is made of sums of those products. Pixels come first here, S²×N·C, so that all sums are one product with
    a constant matrix. In bfloat16 an answer's rounding error is about 2.5 times that of the definition.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Map N×C_in×S×S to N×K×S×S; S is even."""
        channels = len(weight)
        to_sums, to_answers = _constants(x.shape[2], x.dtype)
        filters = _sum_weights(weight)
        y = _new_images(x, len(x), channels, x.shape[2])
        for seen, answer in zip(*_pieces(channels, x, y), strict=True):
            _images_first(to_answers, torch.bmm(_pixels_first(to_sums, seen), filters.mT), answer)
        if bias is not None:
            y += bias.view(-1, 1, 1)
        ctx.save_for_backward(x, filters)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Gradients:
        """Gradients of input, weight and bias."""
        x, filters = ctx.saved_tensors
        channels, channels_in = filters.shape[1:]
        to_sums, to_answers = _constants(x.shape[2], x.dtype)
        of_input, of_filters = _new_images(x, len(x), channels_in, x.shape[2]), None
        exact = torch.promote_types(x.dtype, torch.float32)  # many small parts are added up
        for seen, piece, of_seen in zip(*_pieces(channels, x, gradient, of_input), strict=True):
            of_products = _pixels_first(to_answers.T, piece)
            if ctx.needs_input_grad[0]:
                _images_first(to_sums.T, torch.bmm(of_products, filters), of_seen)
            if ctx.needs_input_grad[1]:
                part = torch.bmm(of_products.mT, _pixels_first(to_sums, seen))
                of_filters = part if of_filters is None else of_filters.to(exact).add_(part)
        of_weight = None if of_filters is None else _gradient_of_weight(of_filters.to(x.dtype))
        of_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return of_input if ctx.needs_input_grad[0] else None, of_weight, of_bias


@cache
def _constants(side: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The matrices from the S² pixels to the 16·(S/2)² sums, and from as many products to the S² answers."""
    tiles = side // 2
    sums, answers = torch.zeros(4, tiles, side + 2), torch.zeros(2, tiles, 4, tiles)
    for tile in range(tiles):
        sums[:, tile, 2 * tile : 2 * tile + 4] = _OF_PIXELS
        answers[:, tile, :, tile] = _OF_PRODUCTS
    sums = sums[:, :, 1:-1]  # the pixels around are zeros
    both = torch.einsum("uap,vbq->uvabpq", sums, sums).reshape(16 * tiles**2, side**2)
    answers = answers.transpose(0, 1).reshape(side, 4, tiles)
    back = torch.einsum("pua,qvb->pquvab", answers, answers).reshape(side**2, 16 * tiles**2)
    return both.to(dtype), back.to(dtype)


def _sum_weights(weight: Tensor) -> Tensor:
    """The 16 sums of K×C×3×3 weights: 16×K×C."""
    return (_OF_TAPS.to(weight.dtype) @ weight.permute(2, 3, 0, 1).reshape(9, -1)).view(16, *weight.shape[:2])


def _gradient_of_weight(of_filters: Tensor) -> Tensor:
    """From the gradient of the 16 sums, 16×K×C, to that of the weights, K×C×3×3."""
    _, channels, channels_in = of_filters.shape
    taps = (_OF_TAPS.T.to(of_filters.dtype) @ of_filters.view(16, -1)).view(3, 3, channels, channels_in)
    return taps.permute(2, 3, 0, 1).contiguous(memory_format=torch.channels_last)


def _new_images(like: Tensor, count: int, channels: int, side: int) -> Tensor:
    """Room for N×C×S×S numbers of the dtype of `like`, channels last in memory."""
    return like.new_empty(count, side, side, channels).permute(0, 3, 1, 2)


def _pieces(channels: int, x: Tensor, *others: Tensor) -> list[tuple[Tensor, ...]]:
    """Split all tensors alike into so few images at a time that their products are not too many."""
    products = 4 * x.shape[2] ** 2 * max(channels, x.shape[1])
    return [tensor.split(max(1, _PIECE // products)) for tensor in (x, *others)]


def _pixels_first(matrix: Tensor, images: Tensor) -> Tensor:
    """Multiply a matrix, 16·(S/2)²×S², with the pixels of N×C×S×S images: 16×(S/2)²·N×C."""
    sums = matrix @ images.permute(2, 3, 0, 1).reshape(matrix.shape[1], -1)
    return sums.view(16, -1, images.shape[1])


def _images_first(matrix: Tensor, products: Tensor, images: Tensor) -> None:
    """Multiply a matrix, S²×16·(S/2)², with 16×(S/2)²·N×C products, and write that into N×C×S×S images."""
    count, channels, height, width = images.shape
    pixels = matrix @ products.view(matrix.shape[1], -1)
    images.copy_(pixels.view(height, width, count, channels).permute(2, 3, 0, 1))
