"""tenfold: trains small-image classifiers, fast, and scores them honestly.

The public names are resolved on first use, so that importing tenfold imports no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the same for type checkers and editors
    from tenfold.api.comparison import compare as compare
    from tenfold.api.predictor import Predictor as Predictor
    from tenfold.api.run import Metrics as Metrics
    from tenfold.api.run import Run as Run
    from tenfold.api.training import resume as resume
    from tenfold.api.training import train as train
    from tenfold.data import Dataset as Dataset
    from tenfold.data import DatasetEntry as DatasetEntry
    from tenfold.data import Split as Split
    from tenfold.data import load as load
    from tenfold.data import register_dataset as register_dataset
    from tenfold.errors import TenfoldError as TenfoldError
    from tenfold.evaluation.calibration import Calibration as Calibration
    from tenfold.evaluation.evaluate import Evaluation as Evaluation
    from tenfold.evaluation.explain import Explanation as Explanation
    from tenfold.evaluation.findings import Audit as Audit
    from tenfold.serving.exporters import Exporter as Exporter
    from tenfold.serving.exporters import register_exporter as register_exporter
    from tenfold.training.augment import Augmentation as Augmentation
    from tenfold.training.augment import Epoch as Epoch
    from tenfold.training.augment import register_augmentation as register_augmentation
    from tenfold.training.callbacks import Callback as Callback
    from tenfold.training.callbacks import EarlyStopping as EarlyStopping
    from tenfold.training.callbacks import EpochMetrics as EpochMetrics
    from tenfold.training.callbacks import register_callback as register_callback
    from tenfold.training.device import select_device as select_device
    from tenfold.training.model import build as build
    from tenfold.training.networks import NetworkSpec as NetworkSpec
    from tenfold.training.networks import register_network as register_network
    from tenfold.training.networks.module import Network as Network
    from tenfold.training.recipe import Recipe as Recipe
    from tenfold.training.recipe_files import find_recipe as find_recipe
    from tenfold.training.recipes import RECIPES as RECIPES
    from tenfold.training.trainer import Trainer as Trainer

    __version__: str

_HOMES = {
    "Dataset": "tenfold.data",
    "Split": "tenfold.data",
    "load": "tenfold.data",
    "DatasetEntry": "tenfold.data",
    "register_dataset": "tenfold.data",
    "Recipe": "tenfold.training.recipe",
    "RECIPES": "tenfold.training.recipes",
    "find_recipe": "tenfold.training.recipe_files",
    "Network": "tenfold.training.networks.module",
    "NetworkSpec": "tenfold.training.networks",
    "register_network": "tenfold.training.networks",
    "Augmentation": "tenfold.training.augment",
    "Epoch": "tenfold.training.augment",
    "register_augmentation": "tenfold.training.augment",
    "build": "tenfold.training.model",
    "select_device": "tenfold.training.device",
    "Trainer": "tenfold.training.trainer",
    "EpochMetrics": "tenfold.training.callbacks",
    "Callback": "tenfold.training.callbacks",
    "register_callback": "tenfold.training.callbacks",
    "EarlyStopping": "tenfold.training.callbacks",
    "train": "tenfold.api.training",
    "resume": "tenfold.api.training",
    "Run": "tenfold.api.run",
    "Metrics": "tenfold.api.run",
    "Calibration": "tenfold.evaluation.calibration",
    "Evaluation": "tenfold.evaluation.evaluate",
    "Audit": "tenfold.evaluation.findings",
    "Explanation": "tenfold.evaluation.explain",
    "Predictor": "tenfold.api.predictor",
    "compare": "tenfold.api.comparison",
    "Exporter": "tenfold.serving.exporters",
    "register_exporter": "tenfold.serving.exporters",
    "TenfoldError": "tenfold.errors",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("tenfold")
    if name not in _HOMES:
        raise AttributeError(f"module 'tenfold' has no attribute {name!r}")
    try:
        home = import_module(_HOMES[name])
    except ModuleNotFoundError:
        from tenfold import extras

        extras.require("train", extras.TRAIN)
        raise
    return getattr(home, name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
