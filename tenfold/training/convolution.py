"""3×3 convolutions on the CPU with fewer multiplications than the definition has.

`Conv3x3` is the layer; it takes the shortest way to the same sums for the shape at hand. Shapes: N images of C_in
channels and H×W pixels, with a pixel of zeros around them; K = C_out channels come out.
"""

from dataclasses import dataclass
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
    """The way that was measured to be faster than PyTorch's convolution: docs/log.md, 2026-11-23 and 2026-11-29."""
    if x.device.type != "cpu" or x.ndim != 4 or x.shape[1] != weight.shape[1] or len(x) < _FEWEST_IMAGES:
        return None
    height, width = x.shape[2:]
    if height == width == 2:
        return TwoByTwo
    least = _FEWEST_CHANNELS.get((dtype, height)) if height == width else None
    if not least or min(weight.shape[:2]) < least or weight.shape[0] * weight.shape[1] < _FEWEST_FILTERS:
        return None
    return None if dtype == torch.float32 and len(x) * height * width < _FEWEST_PIXELS else Winograd


_FEWEST_IMAGES = 16
"""For fewer, rearranging the weights costs more than the products that are saved."""
_FEWEST_PIXELS = 48 * 16
"""In float32, where there are more sums of weights, for the same reason."""
_FEWEST_CHANNELS = {
    (torch.bfloat16, 4): 128,
    (torch.bfloat16, 8): 256,
    (torch.float32, 4): 128,
    (torch.float32, 8): 128,
    (torch.float32, 16): 64,
}
"""In and out, by the side of the image: the more pixels, the more channels it takes to pay."""
_FEWEST_FILTERS = 128 * 128
"""In times out: of 64 channels, 256 must come out."""


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

# F(m×m, 3×3) along one side, by m: m + 2 sums of as many pixels, as many of three weights, and m answers of their
# products. The polynomials behind them meet at 0, ±1, infinity and, for m = 4, at ±2.
_OF_PIXELS = {
    2: [[1.0, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]],
    4: [
        [4.0, 0, -5, 0, 1, 0],
        [0, -4, -4, 1, 1, 0],
        [0, 4, -4, -1, 1, 0],
        [0, -2, -1, 2, 1, 0],
        [0, 2, -1, -2, 1, 0],
        [0, 4, 0, -5, 0, 1],
    ],
}
_OF_WEIGHTS = {
    2: [[1.0, 0, 0], [1 / 2, 1 / 2, 1 / 2], [1 / 2, -1 / 2, 1 / 2], [0, 0, 1]],
    4: [
        [1 / 4, 0, 0],
        [-1 / 6, -1 / 6, -1 / 6],
        [-1 / 6, 1 / 6, -1 / 6],
        [1 / 24, 1 / 12, 1 / 6],
        [1 / 24, -1 / 12, 1 / 6],
        [0, 0, 1.0],
    ],
}
_OF_PRODUCTS = {
    2: [[1.0, 1, 1, 0], [0, 1, -1, -1]],
    4: [[1.0, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]],
}
_PIECE = {2: 1 << 21, 4: 1 << 23}
"""As many products are computed at a time, by m: fewer stay in the processor's cache until they are summed, more share
the sums of weights, which are read once a piece. docs/log.md has what was measured."""

_EXACT = (torch.float32, torch.float64)
"""What sums of the larger tiles may be rounded to, and sums of many products."""

Matrices = tuple[Tensor, ...]
"""One matrix for both sides of an image at once, or one for its rows and one for its columns."""


@dataclass(frozen=True)
class Tiling:
    """The constants of F(m×m, 3×3) for images of S×S pixels, of which (S/m)² tiles of m×m make one.

    to_sums: from pixels to the (m + 2)² sums of every tile. to_answers: from as many products to pixels. of_weights:
    (m + 2)²×9, from a filter's weights to their sums. strips: rows of tiles whose sums stand one after another.
    """

    tile: int
    strips: int
    to_sums: Matrices
    to_answers: Matrices
    of_weights: Tensor

    @property
    def terms(self) -> int:
        """Sums of pixels, and products, of one tile and channel."""
        return (self.tile + 2) ** 2


class Winograd(torch.autograd.Function):
    """A 3×3 convolution by Winograd's F(m×m, 3×3): (m + 2)² products for every m×m pixels instead of 9·m².

    S. Winograd, "Arithmetic complexity of computations", 1980; for networks Lavin and Gray, 2015. For every m×m pixels
    of the answer, sums of the pixels around them are multiplied with sums of weights, all channels at once, and the
    answer is made of sums of those products. Pixels come first here, S²×N·C, so that all sums are products with
    constant matrices. In bfloat16 m is 2 and an answer's rounding error about 2.5 times that of the definition; in
    float32, where m is 4 if it divides S, the error is 4e-6 of the answer.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Map N×C_in×S×S to N×K×S×S; S is even."""
        channels = len(weight)
        tiling = _tiling(x.shape[2], x.dtype)
        filters = _sum_weights(tiling, weight)
        y = _new_images(x, len(x), channels, x.shape[2])
        for seen, answer in zip(*_pieces(tiling, channels, x, y), strict=True):
            _images_first(tiling.to_answers, _multiply(_pixels_first(tiling, tiling.to_sums, seen), filters.mT), answer)
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
        tiling = _tiling(x.shape[2], x.dtype)
        of_input, of_filters = _new_images(x, len(x), channels_in, x.shape[2]), None
        for seen, piece, of_seen in zip(*_pieces(tiling, channels, x, gradient, of_input), strict=True):
            of_products = _pixels_first(tiling, _transposed(tiling.to_answers), piece)
            if ctx.needs_input_grad[0]:
                _images_first(_transposed(tiling.to_sums), _multiply(of_products, filters), of_seen)
            if ctx.needs_input_grad[1]:
                for of_strip, strip in zip(of_products, _pixels_first(tiling, tiling.to_sums, seen), strict=True):
                    of_filters = _add_product(of_filters, of_strip.mT, strip)
        of_weight = None if of_filters is None else _gradient_of_weight(tiling, of_filters.to(x.dtype))
        of_bias = gradient.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None
        return of_input if ctx.needs_input_grad[0] else None, of_weight, of_bias


@cache
def _tiling(side: int, dtype: torch.dtype) -> Tiling:
    """Tiles of 2×2 pixels in bfloat16, which larger ones would round too much, and where 4×4 do not fit."""
    tile = 4 if side % 4 == 0 and dtype in _EXACT else 2
    sums, answers = _along_one_side(tile, side // tile)
    if tile == 2:
        strips = 1
        to_sums = [torch.einsum("aup,bvq->uvabpq", sums, sums).reshape(-1, side**2)]
        to_answers = [torch.einsum("pau,qbv->pquvab", answers, answers).reshape(side**2, -1)]
    else:  # one matrix would be nearly all zeros
        strips = side // tile
        to_sums = [sums.reshape(-1, side), sums.transpose(0, 1).reshape(-1, side)]
        to_answers = [answers.reshape(side, -1), answers.transpose(1, 2).reshape(side, -1)]
    return Tiling(
        tile,
        strips,
        tuple(matrix.to(dtype) for matrix in to_sums),
        tuple(matrix.to(dtype) for matrix in to_answers),
        torch.kron(*[torch.tensor(_OF_WEIGHTS[tile], dtype=torch.float64)] * 2).to(dtype),
    )


def _along_one_side(tile: int, tiles: int) -> tuple[Tensor, Tensor]:
    """From S pixels to the sums, tiles × (m + 2) × S, and from products to S answers, S × tiles × (m + 2)."""
    sums = torch.zeros(tiles, tile + 2, tile * tiles + 2, dtype=torch.float64)
    answers = torch.zeros(tiles, tile, tiles, tile + 2, dtype=torch.float64)
    for index in range(tiles):
        sums[index, :, tile * index : tile * (index + 1) + 2] = torch.tensor(_OF_PIXELS[tile])
        answers[index, :, index] = torch.tensor(_OF_PRODUCTS[tile])
    return sums[:, :, 1:-1], answers.flatten(0, 1)  # the pixels around are zeros


def _transposed(matrices: Matrices) -> Matrices:
    return tuple(matrix.T for matrix in matrices)


def _sum_weights(tiling: Tiling, weight: Tensor) -> Tensor:
    """The sums of K×C×3×3 weights: (m + 2)²×K×C."""
    sums = tiling.of_weights @ weight.permute(2, 3, 0, 1).reshape(9, -1)
    return sums.view(-1, *weight.shape[:2])


def _gradient_of_weight(tiling: Tiling, of_filters: Tensor) -> Tensor:
    """From the gradient of the sums, (m + 2)²×K×C, to that of the weights, K×C×3×3."""
    _, channels, channels_in = of_filters.shape
    taps = (tiling.of_weights.T @ of_filters.view(len(of_filters), -1)).view(3, 3, channels, channels_in)
    return taps.permute(2, 3, 0, 1).contiguous(memory_format=torch.channels_last)


def _new_images(like: Tensor, count: int, channels: int, side: int) -> Tensor:
    """Room for N×C×S×S numbers of the dtype of `like`, channels last in memory."""
    return like.new_empty(count, side, side, channels).permute(0, 3, 1, 2)


def _pieces(tiling: Tiling, channels: int, x: Tensor, *others: Tensor) -> list[tuple[Tensor, ...]]:
    """Split all tensors alike into so few images at a time that their products are not too many."""
    an_image = tiling.terms * (x.shape[2] // tiling.tile) ** 2 * max(channels, x.shape[1])
    return [tensor.split(max(1, _PIECE[tiling.tile] // an_image)) for tensor in (x, *others)]


def _pixels_first(tiling: Tiling, matrices: Matrices, images: Tensor) -> Tensor:
    """Multiply matrices with the pixels of N×C×S×S images: strips × (m + 2)² × tiles·N × C."""
    count, channels, height, width = images.shape
    pixels = images.permute(2, 3, 0, 1)
    if len(matrices) == 1:
        sums = matrices[0] @ pixels.reshape(height * width, -1)
    else:
        rows, columns = matrices
        sums = columns @ (rows @ pixels.reshape(height, -1)).view(-1, width, count * channels)
    return sums.view(tiling.strips, tiling.terms, -1, channels)


def _multiply(sums: Tensor, matrices: Tensor) -> Tensor:
    """Multiply strips × (m + 2)² × tiles·N × C sums, strip by strip, with as many matrices C×K."""
    products = sums.new_empty(*sums.shape[:3], matrices.shape[2])
    for strip, answer in zip(sums, products, strict=True):
        torch.bmm(strip, matrices, out=answer)
    return products


def _add_product(total: Tensor | None, a: Tensor, b: Tensor) -> Tensor:
    """Add the matrix products a @ b to `total`: in float32 at the least, since many small parts are added up."""
    if total is None:
        return torch.bmm(a, b)
    if a.dtype in _EXACT:
        return total.baddbmm_(a, b)
    return total.float().add_(torch.bmm(a, b))


def _images_first(matrices: Matrices, products: Tensor, images: Tensor) -> None:
    """Multiply matrices with strips × (m + 2)² × tiles·N × C products, and write that into N×C×S×S images."""
    count, channels, height, width = images.shape
    if len(matrices) == 1:
        pixels = matrices[0] @ products.view(matrices[0].shape[1], -1)
    else:
        rows, columns = matrices
        pixels = rows @ (columns @ products.view(rows.shape[1], columns.shape[1], -1)).view(rows.shape[1], -1)
    images.copy_(pixels.view(height, width, count, channels).permute(2, 3, 0, 1))
