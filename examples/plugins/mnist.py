"""The data set MNIST, read from its IDX files.

TENFOLD_PLUGINS=mnist.py tenfold data download mnist --from FOLDER
TENFOLD_PLUGINS=mnist.py tenfold train --data mnist
"""

import gzip
import math
import struct
from pathlib import Path

import numpy as np

import tenfold
from tenfold.errors import DataError

FILES = {
    "train_images": "train-images-idx3-ubyte",
    "train_labels": "train-labels-idx1-ubyte",
    "test_images": "t10k-images-idx3-ubyte",
    "test_labels": "t10k-labels-idx1-ubyte",
}


def read_mnist(folder: Path) -> dict[str, np.ndarray]:
    """Read the four files, packed (.gz) or not: images uint8 N×28×28×3, labels uint8 N."""
    arrays = {name: read_idx(_find(folder, file)) for name, file in FILES.items()}
    return {name: _as_rgb(array) if name.endswith("images") else array for name, array in arrays.items()}


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of bytes: two zeros, type 8, the number of axes, their lengths, the values."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        zero, kind, axes = struct.unpack_from(">HBB", content)
        shape = struct.unpack_from(f">{axes}I", content, 4)
        values = np.frombuffer(content, np.uint8, offset=4 + 4 * axes)
    except (OSError, EOFError, ValueError, struct.error) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if (zero, kind) != (0, 8) or len(values) != math.prod(shape):
        raise DataError(f"{path} is not an IDX file of bytes, or it is cut short")
    return values.reshape(shape)


def _find(folder: Path, file: str) -> Path:
    for path in (folder / file, folder / f"{file}.gz"):
        if path.is_file():
            return path
    raise DataError(f"{folder} has no {file} and no {file}.gz")


def _as_rgb(images: np.ndarray) -> np.ndarray:
    return images[..., None].repeat(3, axis=-1)


tenfold.register_dataset(
    tenfold.DatasetEntry(
        name="mnist",
        title="MNIST",
        classes=tuple("0123456789"),
        shape=(28, 28, 3),
        train=60_000,
        test=10_000,
        sources=("http://yann.lecun.com/exdb/mnist",),
        format="four IDX files, gzip-compressed or not",
        licence="CC BY-SA 3.0",
        citation="LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to document recognition, 1998",
        read=read_mnist,
    )
)
