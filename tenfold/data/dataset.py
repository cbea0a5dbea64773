"""What every source of pixels ends in: a `Dataset`."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from tenfold.console import plural
from tenfold.data.stored import Images, StoredImages, rows_of
from tenfold.errors import DataError

SKIP_BAD = "1%"
"""How many of a folder's image files may be skipped unless the user says otherwise; at least one in any case."""


def _is_array(value: object) -> bool:
    return isinstance(value, np.ndarray)


def _is_images(value: object) -> bool:
    if not isinstance(value, np.ndarray | StoredImages):
        return False
    return value.dtype == np.uint8 and value.ndim == 4 and value.shape[3] == 3


def _describe(value: object) -> str:
    """Kind and shape of what was given instead."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {'×'.join(map(str, value.shape)) or 'scalar'}"
    return type(value).__name__


@dataclass(frozen=True, repr=False)
class Split:
    """Images and labels that belong together.

    images: uint8, N×H×W×3, RGB; may be memory-mapped and read-only, or stay in a file (`StoredImages`), which
    NumPy's `asarray` reads as a whole, and an index in parts.
    labels: an unsigned integer type, N, each in [0, K).
    names: the images' files, text, N, below the folder that they are from; None where they are from none.
    digests: SHA-256 of these files, text, N.
    groups: text, N; images of one group belong in one split, "" is none; None where there are no groups.
    weights: factors of the images' losses in training, float64, N, 0 or more; None where all are 1.
    numbers: which ones of the original images these are, int64 N; None where all are there.
    """

    images: Images
    labels: np.ndarray
    names: np.ndarray | None = None
    digests: np.ndarray | None = None
    groups: np.ndarray | None = None
    weights: np.ndarray | None = None
    numbers: np.ndarray | None = None

    def __post_init__(self) -> None:
        images, labels = self.images, self.labels
        if not _is_images(images):
            raise DataError(f"images must be a uint8 array N×H×W×3, not {_describe(images)}")
        if not (_is_array(labels) and labels.dtype.kind in "ui" and labels.shape == (len(images),)):
            raise DataError(f"labels must be {len(images):,} integers, one an image, not {_describe(labels)}")
        for name in ("names", "digests", "groups", "weights", "numbers"):
            values = getattr(self, name)
            if values is not None and not (_is_array(values) and values.shape == (len(images),)):
                raise DataError(f"{name} must be an array of {len(images):,}, one an image, not {_describe(values)}")
        if self.weights is not None and not (np.isfinite(self.weights).all() and (self.weights >= 0).all()):
            raise DataError("weights must be finite numbers of 0 or more")

    def __repr__(self) -> str:
        return f"Split({plural(len(self), 'image')} of {self.images.shape[2]}×{self.images.shape[1]} pixels)"

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: slice | np.ndarray) -> "Split":
        columns: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        chosen: dict[str, Any] = {name: None if c is None else rows_of(c, index) for name, c in columns.items()}
        return replace(self, **chosen)


@dataclass(frozen=True)
class Origin:
    """The folder that a data set was read from, and how, so that it is found again and known if it changed.

    sha256: of the names, splits, classes and contents of its images. size: in pixels; resize: one of `resize.RESIZES`.
    bit_depth: how many bits of its 16-bit values were brought to 8; runs made before there was a choice took all.
    skip_bad: how many files were allowed to be unreadable, see `entries.most_bad`; skipped: how many were.
    labels: path of the label file that names the images, "" where folders do; labels_sha256: of its content;
    label_columns: how its columns are called, as `--label-columns` takes it. uncorrected_sha256: as sha256, before
    corrections, "" where there are none.
    """

    path: str
    sha256: str
    size: int
    resize: str
    bit_depth: int = 16
    skip_bad: str = SKIP_BAD
    skipped: int = 0
    labels: str = ""
    labels_sha256: str = ""
    label_columns: str = ""
    uncorrected_sha256: str = ""

    def options(self, name: Callable[[Path], str]) -> list[str]:
        """The words by which another command reads the images in the same way; name: how the label file is written."""
        skip_bad = ["--skip-bad", self.skip_bad] if self.skip_bad != SKIP_BAD else []
        labels = ["--labels", name(Path(self.labels))] if self.labels else []
        columns = ["--label-columns", self.label_columns] if self.label_columns else []
        return ["--size", str(self.size), "--resize", self.resize, *skip_bad, *labels, *columns]


@dataclass(frozen=True)
class AppliedCorrections:
    """What corrections changed in a data set: counts of training and of test images.

    content: of their file, or b"" where it is not at hand; sha256: of that content.
    """

    content: bytes
    relabelled_train: int = 0
    relabelled_test: int = 0
    dropped_train: int = 0
    dropped_test: int = 0
    kept: int = 0
    unsure: int = 0
    sha256: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha256", self.sha256 or hashlib.sha256(self.content).hexdigest())

    @property
    def changes_test(self) -> bool:
        """Whether the test images, or their labels, are others than before."""
        return bool(self.relabelled_test or self.dropped_test)

    def sentences(self) -> list[str]:
        """What was changed, for people."""
        relabelled, dropped = self.relabelled_train + self.relabelled_test, self.dropped_train + self.dropped_test
        found = [
            f"corrections: {plural(relabelled, 'label')} changed ({self.relabelled_test:,} of test images), "
            f"{plural(dropped, 'image')} left out ({plural(self.dropped_test, 'test image')}); "
            f"{plural(self.kept, 'label')} confirmed, {self.unsure:,} unsure"
        ]
        if self.changes_test:
            found.append("scores on a corrected test set are not comparable with those on the published one")
        return found

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> "AppliedCorrections":
        """Read what `to_dict` wrote, without the file's content."""
        counts = [field.name for field in fields(cls) if field.name not in ("content", "sha256")]
        return cls(b"", **{name: int(value.get(name, 0)) for name in counts}, sha256=str(value.get("sha256", "")))

    def to_dict(self) -> dict[str, Any]:
        """The counts, and the SHA-256 of the file, ready for JSON."""
        return {name: value for name, value in vars(self).items() if name != "content"}


@dataclass(frozen=True, repr=False)
class Dataset:
    """A named data set: K class names in label order, what to train on, and what to score on.

    val_size: how many images at the end of `train` are validation images because the folder says so. corrections: what
    was changed in it.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split
    val_size: int = 0
    origin: Origin | None = None
    corrections: AppliedCorrections | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "classes", tuple(self.classes))  # a list is as good
        for name, part in (("train", self.train), ("test", self.test)):
            if not isinstance(part, Split):
                raise DataError(f"{name} must be a tenfold.Split, not {type(part).__name__}")
            if len(part) and int(part.labels.min()) < 0:
                raise DataError(f"{name} has label {part.labels.min()}: labels count from 0")
            if len(part) and int(part.labels.max()) >= len(self.classes):
                classes = plural(len(self.classes), "class")
                raise DataError(f"{name} has label {part.labels.max()}, which is too large for {classes}")

    def __repr__(self) -> str:
        counts = f"{len(self.train):,} training and {len(self.test):,} test images"
        size = f"{self.train.images.shape[2]}×{self.train.images.shape[1]}"
        return f"Dataset({self.name!r}, {plural(len(self.classes), 'class')}, {counts} of {size} pixels)"

    @property
    def resize(self) -> str:
        """How images of other shapes were brought to size."""
        return self.origin.resize if self.origin else "stretch"

    @property
    def bit_depth(self) -> int:
        """How many bits of 16-bit values were brought to 8."""
        return self.origin.bit_depth if self.origin else 16

    @property
    def skipped(self) -> int:
        """How many images were left out because they cannot be read."""
        return self.origin.skipped if self.origin else 0

    def with_classes(self, classes: tuple[str, ...]) -> "Dataset":
        """Number the labels as in `classes`, where these hold all of the data's own; else it stays as it is."""
        if not set(self.classes) <= set(classes):
            return self
        wide_enough = np.promote_types(self.train.labels.dtype, np.min_scalar_type(len(classes)))
        numbers = np.array([classes.index(name) for name in self.classes], wide_enough)
        train, test = (replace(part, labels=numbers[part.labels]) for part in (self.train, self.test))
        return replace(self, classes=classes, train=train, test=test)


def to_bytes(pixels: np.ndarray) -> np.ndarray:
    """Floats in [0, 1], those beyond clipped, to the nearest uint8 in [0, 255]; any shape."""
    return (np.clip(pixels, 0, 1) * 255 + 0.5).astype(np.uint8)
