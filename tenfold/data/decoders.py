"""From the bytes of one file of CIFAR-10 to pixels and labels.

Every decoder takes (content, rows) and gives a dict with "images" (uint8, rows×32×32×3, RGB), "labels" (uint8, rows)
or both. Content is not trusted: decoders are given bytes of bounded size, allocate in proportion to them, run nothing
that is in them, and raise whatever they like; the caller says which file it was.
"""

import io
import json
import pickle
from typing import Any

import numpy as np

from tenfold.errors import UsageError

Arrays = dict[str, np.ndarray]
"""Arrays by name; of a whole data set: train_images, test_images (uint8, N×32×32×3), train_labels, test_labels
(uint8, N)."""

SIDE = 32
PIXEL_BYTES = SIDE * SIDE * 3


def decode_binary(content: bytes, rows: int) -> Arrays:
    records = np.frombuffer(content, np.uint8).reshape(rows, 1 + PIXEL_BYTES)
    return {"labels": records[:, 0], "images": _from_planes(records[:, 1:])}


def decode_pickle(content: bytes, rows: int) -> Arrays:
    batch = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    raw = batch["data"].state[4]  # of (version, shape, dtype, is_fortran, bytes)
    pixels = np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, np.uint8)
    return {"labels": _labels(batch["labels"], rows), "images": _from_planes(pixels.reshape(rows, PIXEL_BYTES))}


def decode_png(content: bytes, rows: int) -> Arrays:
    """A PNG with one image a row, its 1,024 pixels side by side."""
    return {"images": _read_png(content, SIDE * SIDE, rows).reshape(rows, SIDE, SIDE, 3)}


def _read_png(content: bytes, width: int, height: int) -> np.ndarray:
    """Decode an 8-bit RGB PNG of that size; anything else is refused by its header, before Pillow sees it."""
    from PIL import Image

    header = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + width.to_bytes(4) + height.to_bytes(4) + b"\x08\x02"
    if not content.startswith(header):
        raise ValueError(f"not an RGB PNG of {width}×{height} pixels")
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        return np.asarray(image)


def decode_json(content: bytes, rows: int) -> Arrays:
    return {"labels": _labels(json.loads(content), rows)}


def _labels(values: list[int], rows: int) -> np.ndarray:
    labels = np.asarray(values)
    if labels.shape != (rows,) or labels.dtype.kind != "i" or labels.min() < 0 or labels.max() > 9:
        raise ValueError(f"not {rows} labels from 0 to 9")
    return labels.astype(np.uint8)


def _from_planes(planes: np.ndarray) -> np.ndarray:
    """N×3072 (a red, a green, a blue plane) to N×32×32×3."""
    return planes.reshape(-1, 3, SIDE, SIDE).transpose(0, 2, 3, 1)


class _Standin:
    """Stands where a pickle says NumPy array or dtype: keeps the state it is given, and computes nothing."""

    def __init__(self, *arguments: object) -> None:
        self.state: Any = None

    def __setstate__(self, state: object) -> None:
        self.state = state


_STANDINS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
}


# Python's own implementation rather than C's: its memory is bounded by the input, where a forged memo index makes the
# one in C allocate gigabytes. A batch has few opcodes, so it is as fast.
class _Unpickler(pickle._Unpickler):
    """An unpickler that builds numbers, text, lists and dicts, and `_Standin` for arrays; never anything else."""

    def find_class(self, module: str, name: str) -> type[_Standin]:
        if (module, name) in _STANDINS:
            return _Standin
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no batch of CIFAR-10 needs")


def decode_parquet(file: Any, images: np.ndarray, labels: np.ndarray) -> None:
    """Fill `images` and `labels` from a pyarrow `ParquetFile` with a PNG and a label a row."""
    if file.metadata.num_rows != len(labels):
        raise ValueError(f"{file.metadata.num_rows} rows instead of {len(labels)}")
    row = 0
    for batch in file.iter_batches(batch_size=1_000, columns=["img", "label"]):
        for image, label in zip(batch["img"].to_pylist(), batch["label"].to_pylist(), strict=True):
            images[row], labels[row] = _read_png(image["bytes"], SIDE, SIDE), label
            row += 1


def pyarrow_parquet() -> Any:
    """The module that reads parquet files; `UsageError` where it is not installed."""
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError("reading parquet files needs pyarrow: pip install pyarrow") from error
    return parquet
