"""A plugin with the data set `few`: five hundred drawn shapes, for processes that Python starts."""

from dataclasses import replace

from tenfold.data.dataset import Dataset
from tenfold.data.entry import DatasetEntry, register_dataset
from tenfold.data.shapes import make_shapes

TRAIN, TEST = 400, 100


def make_few() -> Dataset:
    return replace(make_shapes(train=TRAIN, test=TEST), name="few")


register_dataset(
    DatasetEntry(
        name="few",
        title="few shapes",
        classes=make_shapes(train=1, test=1).classes,
        shape=(32, 32, 3),
        train=TRAIN,
        test=TEST,
        format="generated",
        licence="MIT",
        citation="none needed",
        make=make_few,
        usual=True,
    )
)
