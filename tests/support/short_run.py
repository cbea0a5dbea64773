"""A training run of twelve steps, for tests of what happens around it."""

from dataclasses import replace

from tenfold.data.shapes import make_shapes
from tenfold.training.networks import WhitenedSpec
from tenfold.training.recipe import Stage
from tenfold.training.recipes import FAST89

DATASET = make_shapes(train=120, test=40)
RECIPE = replace(
    FAST89,
    name="short",
    network=WhitenedSpec(widths=(8, 16), whitening_pairs=4),
    stages=(Stage(2.5, 0.1, 0.0),),
    batch_size=20,
    val_size=20,
)
