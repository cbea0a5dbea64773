"""Convolutions with fewer products beside PyTorch's own in float64: answers and all gradients."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold.training import convolution
from tenfold.training.convolution import Conv3x3, TwoByTwo, Winograd

WAYS = [(TwoByTwo, 2), (Winograd, 2), (Winograd, 4), (Winograd, 8), (Winograd, 14), (Winograd, 16)]


def draw(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64).to(dtype)


def difference(ours: Tensor | None, theirs: Tensor | None) -> float:
    """Relative, of the whole tensor."""
    assert ours is not None and theirs is not None and ours.shape == theirs.shape
    return ((ours.double() - theirs).norm() / theirs.norm()).item()


def both(
    way: type[TwoByTwo | Winograd], x: Tensor, weight: Tensor, bias: Tensor | None, dtype: torch.dtype
) -> list[tuple[Tensor | None, Tensor | None]]:
    """Answer and gradients of input, weight and bias, and what PyTorch's convolution has for each in float64."""
    mine = [None if t is None else t.detach().requires_grad_(t.requires_grad) for t in (x, weight, bias)]
    peers = [None if t is None else t.detach().double().requires_grad_(t.requires_grad) for t in (x, weight, bias)]
    cast = [None if t is None else t.to(dtype) for t in mine]
    answer = way.apply(*cast)
    expected = F.conv2d(*peers, padding=1)
    gradient = draw(*expected.shape, dtype=dtype)
    answer.backward(gradient)
    expected.backward(gradient.double())
    assert answer.dtype == dtype and answer.is_contiguous(memory_format=torch.channels_last)
    assert all(m.grad is None or m.grad.dtype == m.dtype for m in mine if m is not None)
    return [(answer, expected), *((m.grad, p.grad) for m, p in zip(mine, peers, strict=True) if m is not None)]


@pytest.mark.parametrize("channels_last", [True, False])
@pytest.mark.parametrize(("way", "side"), WAYS)
def test_the_same_sums(way: type[TwoByTwo | Winograd], side: int, channels_last: bool) -> None:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = draw(7, 6, side, side).to(memory_format=layout).requires_grad_()
    weight = draw(5, 6, 3, 3).to(memory_format=layout).requires_grad_()
    bias = draw(5).requires_grad_()
    for ours, theirs in both(way, x, weight, bias, torch.float64):
        assert difference(ours, theirs) <= 1e-12


@pytest.mark.parametrize(("way", "side"), WAYS)
def test_rounding_in_bfloat16(way: type[TwoByTwo | Winograd], side: int) -> None:
    """Weights stay float32 and get a gradient of it; errors are those of a few roundings of 0.2 % each."""
    x = draw(32, 64, side, side, dtype=torch.bfloat16).requires_grad_()
    weight, bias = (
        draw(48, 64, 3, 3, dtype=torch.float32).requires_grad_(),
        draw(48, dtype=torch.float32).requires_grad_(),
    )
    for ours, theirs in both(way, x, weight, bias, torch.bfloat16):
        assert difference(ours, theirs) <= 0.008


def by_one_matrix(x: Tensor, weight: Tensor) -> Tensor:
    """F(2×2, 3×3) of the whole batch: sums and answers by one matrix each, built here once more, in bfloat16."""
    side, tiles = x.shape[2], x.shape[2] // 2
    sums, answers = torch.zeros(4, tiles, side + 2), torch.zeros(tiles, 2, 4, tiles)
    for tile in range(tiles):
        sums[:, tile, 2 * tile : 2 * tile + 4] = torch.tensor(
            [[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]]
        )
        answers[tile, :, :, tile] = torch.tensor([[1, 1, 1, 0], [0, 1, -1, -1]])
    sums, answers = sums[:, :, 1:-1], answers.reshape(side, 4, tiles)
    to_sums = torch.einsum("uap,vbq->uvabpq", sums, sums).reshape(-1, side**2).bfloat16()
    to_answers = torch.einsum("pua,qvb->pquvab", answers, answers).reshape(side**2, -1).bfloat16()
    taps = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]])
    filters = torch.kron(taps, taps).bfloat16() @ weight.permute(2, 3, 0, 1).reshape(9, -1)
    pixels = (to_sums @ x.permute(2, 3, 0, 1).reshape(side**2, -1)).view(16, -1, x.shape[1])
    products = torch.bmm(pixels, filters.view(16, *weight.shape[:2]).mT)
    return (to_answers @ products.view(16 * tiles**2, -1)).view(side, side, len(x), -1).permute(2, 3, 0, 1)


@pytest.mark.parametrize("side", [4, 8])
def test_in_bfloat16_the_bits_stay(side: int) -> None:
    """The recipes' published figures were measured with them."""
    x, weight = (draw(*shape, dtype=torch.bfloat16) for shape in ((20, 64, side, side), (48, 64, 3, 3)))
    assert torch.equal(Winograd.apply(x, weight, None), by_one_matrix(x, weight))


@pytest.mark.parametrize("side", [4, 8, 16])
def test_rounding_in_float32(side: int) -> None:
    x = draw(32, 64, side, side, dtype=torch.float32).requires_grad_()
    weight, bias = draw(48, 64, 3, 3, dtype=torch.float32).requires_grad_(), None
    for ours, theirs in both(Winograd, x, weight, bias, torch.float32):
        assert difference(ours, theirs) <= 6e-6


@pytest.mark.parametrize("images", [1, 3, 7])
@pytest.mark.parametrize(("side", "products"), [(6, 16 * 9), (8, 36 * 4)])
def test_a_batch_in_pieces_is_the_same_batch(
    monkeypatch: pytest.MonkeyPatch, side: int, products: int, images: int
) -> None:
    monkeypatch.setattr(convolution, "_PIECE", dict.fromkeys((2, 4), images * products * 6))  # of at most 6 channels
    x, weight = draw(7, 6, side, side).requires_grad_(), draw(5, 6, 3, 3).requires_grad_()
    for ours, theirs in both(Winograd, x, weight, None, torch.float64):
        assert difference(ours, theirs) <= 1e-12


@pytest.mark.parametrize("way", [TwoByTwo, Winograd])
@pytest.mark.parametrize("trained", [(True, False), (False, True)])
def test_only_what_is_trained_gets_a_gradient(way: type[TwoByTwo | Winograd], trained: tuple[bool, bool]) -> None:
    x, weight = draw(7, 6, 2, 2).requires_grad_(trained[0]), draw(5, 6, 3, 3).requires_grad_(trained[1])
    (answer, expected), *gradients = both(way, x, weight, None, torch.float64)
    assert difference(answer, expected) <= 1e-12
    for (ours, theirs), wanted in zip(gradients, trained, strict=True):
        assert difference(ours, theirs) <= 1e-12 if wanted else ours is None


@pytest.mark.parametrize(
    ("dtype", "shape", "channels", "way"),
    [
        (torch.bfloat16, (16, 64, 2, 2), 32, "TwoByTwoBackward"),
        (torch.bfloat16, (16, 128, 4, 4), 256, "WinogradBackward"),
        (torch.bfloat16, (16, 256, 8, 8), 256, "WinogradBackward"),
        (torch.bfloat16, (15, 256, 4, 4), 256, "ConvolutionBackward0"),
        (torch.bfloat16, (15, 64, 2, 2), 32, "ConvolutionBackward0"),
        (torch.bfloat16, (16, 64, 4, 4), 256, "ConvolutionBackward0"),
        (torch.bfloat16, (16, 128, 8, 8), 256, "ConvolutionBackward0"),
        (torch.bfloat16, (16, 256, 5, 5), 256, "ConvolutionBackward0"),
        (torch.bfloat16, (16, 256, 4, 8), 256, "ConvolutionBackward0"),
        (torch.float32, (48, 128, 4, 4), 256, "WinogradBackward"),
        (torch.float32, (12, 128, 8, 8), 128, "ConvolutionBackward0"),
        (torch.float32, (16, 128, 8, 8), 128, "WinogradBackward"),
        (torch.float32, (16, 128, 16, 16), 128, "WinogradBackward"),
        (torch.float32, (47, 128, 4, 4), 256, "ConvolutionBackward0"),
        (torch.float32, (16, 64, 16, 16), 256, "WinogradBackward"),
        (torch.float32, (16, 64, 16, 16), 128, "ConvolutionBackward0"),
        (torch.float32, (48, 128, 6, 6), 128, "ConvolutionBackward0"),
        (torch.float32, (16, 128, 4, 16), 128, "ConvolutionBackward0"),
    ],
)
def test_the_layer_takes_the_way_that_its_shape_asks_for(
    dtype: torch.dtype, shape: tuple[int, ...], channels: int, way: str
) -> None:
    torch.manual_seed(0)
    layer, x = Conv3x3(shape[1], channels), draw(*shape, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
        answer = layer(x)
    assert answer.dtype == dtype and type(answer.grad_fn).__name__ == way
    exact = F.conv2d(x.double(), layer.weight.double(), layer.get_parameter("bias").double(), padding=1)
    assert difference(answer, exact) <= {torch.bfloat16: 0.01, torch.float32: 6e-6}[dtype]


@pytest.mark.parametrize("way", [TwoByTwo, Winograd])
def test_a_second_derivative_is_refused_instead_of_wrong(way: type[TwoByTwo | Winograd]) -> None:
    x, weight = draw(3, 6, 2, 2).requires_grad_(), draw(5, 6, 3, 3).requires_grad_()
    (first,) = torch.autograd.grad(way.apply(x, weight, None).pow(3).sum(), weight, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.square().sum().backward()


@pytest.mark.parametrize(
    ("x", "said"),
    [
        (torch.zeros(16, 6, 2, 2, dtype=torch.uint8), "dtype|type"),
        (torch.zeros(16, 6, 2, 2, dtype=torch.float64), "dtype|type"),
        (torch.zeros(16, 7, 2, 2), "7 channels"),
    ],
)
def test_what_pytorch_refuses_is_refused(x: Tensor, said: str) -> None:
    with pytest.raises(RuntimeError, match=said):
        Conv3x3(6, 5)(x)


def test_an_image_without_a_batch_is_answered_as_by_pytorch() -> None:
    layer, x = Conv3x3(6, 5), torch.ones(6, 2, 2)
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, layer.bias, padding=1))


def test_few_images_are_exact_without_autocast() -> None:
    layer, x = Conv3x3(128, 128, bias=False), draw(16, 128, 4, 4, dtype=torch.float32)
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, padding=1))


def test_float64_is_as_defined() -> None:
    layer, x = Conv3x3(128, 128, bias=False).double(), draw(48, 128, 4, 4)
    assert torch.equal(layer(x), F.conv2d(x, layer.weight, padding=1))
