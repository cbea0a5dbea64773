"""Pooling without indices beside PyTorch's: answers and gradients, to the bit."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold.training.pooling import max_pool


def draw(dtype: torch.dtype, height: int = 8, width: int = 12) -> Tensor:
    """Whole numbers from -4 to 4 or so, so that most patches have equal pixels."""
    drawn = torch.randn(7, 6, height, width, generator=torch.Generator().manual_seed(0))
    return (2 * drawn).round().to(dtype)


def answer_and_gradient(x: Tensor, ours: bool) -> tuple[Tensor, Tensor]:
    x = x.clone(memory_format=torch.preserve_format).requires_grad_()
    answer = max_pool(x) if ours else F.max_pool2d(x, 2)
    answer.backward(torch.arange(1, answer.numel() + 1).view(answer.shape).to(x.dtype))
    assert x.grad is not None
    return answer.detach(), x.grad


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize(("height", "width"), [(8, 12), (2, 2), (7, 12), (8, 5)])
def test_as_pytorch_pools(dtype: torch.dtype, layout: torch.memory_format, height: int, width: int) -> None:
    """Of equal pixels the same one gets the gradient; with `>=` instead of `>` in the comparisons, others did."""
    x = draw(dtype, height, width).contiguous(memory_format=layout)
    (answer, gradient), (expected, of_expected) = answer_and_gradient(x, True), answer_and_gradient(x, False)
    assert torch.equal(answer, expected) and torch.equal(gradient, of_expected)
    assert answer.stride() == expected.stride() and answer.dtype == dtype


def test_the_gradient_by_hand() -> None:
    x = torch.tensor([[1.0, 5.0], [5.0, -2.0]]).view(1, 1, 2, 2).requires_grad_()
    max_pool(x).sum().backward()
    assert x.grad is not None
    assert x.grad.flatten().tolist() == [0, 1, 0, 0], "of the two fives the one in the upper row"


def test_no_gradient_keeps_nothing() -> None:
    assert max_pool(draw(torch.float32)).grad_fn is None
    with torch.no_grad():
        assert max_pool(draw(torch.float32).requires_grad_()).grad_fn is None


def test_not_a_number_comes_out() -> None:
    x = draw(torch.float32)
    x[0, 0, 1, 1] = torch.nan
    assert torch.isnan(max_pool(x)).sum() == 1
