"""What processes of `forks` find imported. Nothing here may start a thread: a fork has but one."""

import importlib
import os

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # else Arrow's allocator starts one

import psutil
import pytest

from tests.support import struck
from tests.support.coarse_plots import use_coarse_plots
from tests.support.few_shapes import TEST, few_shapes, use_few_shapes

OWN = ("tenfold.api.training", "tenfold.cli", "tenfold.evaluation.report", "tenfold.serving.export")
OTHERS = ("rich.progress", "rich.table", "scipy.stats", "sklearn.metrics", "torch")

for name in OWN + OTHERS:
    importlib.import_module(name)
use_few_shapes(pytest.MonkeyPatch())
use_coarse_plots(pytest.MonkeyPatch())
for sizes in ((32, TEST), struck.SHAPES):
    few_shapes(*sizes)
assert psutil.Process().num_threads() == 1
