"""Kernels of our own for the memory-bound parts of a training step on the CPU, in plain C, compiled at first use.

`kernels.c` and `blocks.h` are the kernels, `build` compiles and loads them, `activation` is how networks use them.
Where there is no compiler, or with `TENFOLD_KERNELS=off`, PyTorch's operations do the same.
"""

from tenfold.training.kernels.activation import bias_relu, norm_gelu
from tenfold.training.kernels.build import library, takes

__all__ = ["bias_relu", "library", "norm_gelu", "takes"]
