"""What `tenfold.train` is asked to train on: a data set by name, a folder, a label file, a `Dataset`; corrected."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tenfold.console import log_info
from tenfold.data import Dataset, LabelFile, as_label_file, folder_of, load, load_images
from tenfold.data.corrections import Corrections, apply_corrections, read_corrections
from tenfold.data.listing import Listing
from tenfold.errors import UsageError

USUAL_DATA = "cifar10"


@dataclass(frozen=True)
class Source:
    """Images and labels, not loaded yet. images: a data set's name, a folder's path, or a `Dataset`."""

    images: str | Dataset
    labels: LabelFile | None = None
    corrections: Corrections | None = None

    @classmethod
    def of(
        cls,
        data: str | Path | Dataset | None,
        labels: str | Path | None = None,
        label_columns: str = "",
        corrections: str | Path | None = None,
    ) -> "Source":
        """Read the small files, so that what is wrong with them is said first. Raises `UsageError`, `DataError`."""
        label_file = as_label_file(labels, label_columns)
        read = None if corrections is None else read_corrections(Path(corrections))
        if isinstance(data, Dataset):
            if label_file:
                raise UsageError("labels are about a folder of images: a tenfold.Dataset has its own")
            return cls(data, None, read)
        if data is not None and not isinstance(data, str | Path):
            raise UsageError(f"data must be a name, a path or a tenfold.Dataset, not {type(data).__name__}")
        named = None if data is None else str(data)
        if label_file:
            return cls(folder_of(label_file, named), label_file, read)
        return cls(USUAL_DATA if named is None else named, None, read)

    @property
    def dataset(self) -> Dataset | None:
        """The data set that was made in Python, before corrections; None for one that is loaded."""
        return self.images if isinstance(self.images, Dataset) else None

    def pixels(self, size: int) -> int:
        """Pixels a side that the images will have where those of a folder are brought to `size`."""
        return self.dataset.train.images.shape[1] if self.dataset else size

    def load(self, size: int, resize: str, seed: int, skip_bad: str, listing: Listing | None = None) -> Dataset:
        """The data set, corrected, which is logged; listing: that of its folder, if it is known.

        Raises as `tenfold.load`, and `DataError` for wrong corrections.
        """
        images, labels = self.images, self.labels
        if not isinstance(images, Dataset):
            how: dict[str, Any] = {"size": size, "resize": resize, "skip_bad": skip_bad, "labels": labels}
            if listing:
                images = load_images(Path(images), seed, **how, listing=listing)
            else:
                images = load(images, seed=seed, **how)
        if self.corrections:
            images = apply_corrections(images, self.corrections)
            for sentence in images.corrections.sentences() if images.corrections else ():
                log_info(sentence)
        return images
