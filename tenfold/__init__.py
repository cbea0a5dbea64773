"""tenfold: trains small-image classifiers, fast, and scores them honestly.

The public names are resolved on first use, so that importing tenfold imports no torch.
"""

from importlib import import_module
from typing import Any

_HOMES = {
    "Dataset": "tenfold.data",
    "Split": "tenfold.data",
    "load": "tenfold.data",
    "DatasetEntry": "tenfold.data",
    "register_dataset": "tenfold.data",
    "Recipe": "tenfold.training.recipe",
    "RECIPES": "tenfold.training.recipe",
    "find_recipe": "tenfold.training.recipe_files",
    "Network": "tenfold.training.networks",
    "NetworkSpec": "tenfold.training.networks",
    "register_network": "tenfold.training.networks",
    "Augmentation": "tenfold.training.augment",
    "Epoch": "tenfold.training.augment",
    "register_augmentation": "tenfold.training.augment",
    "build": "tenfold.training.model",
    "select_device": "tenfold.training.device",
    "Trainer": "tenfold.training.trainer",
    "Callback": "tenfold.training.callbacks",
    "register_callback": "tenfold.training.callbacks",
    "EarlyStopping": "tenfold.training.callbacks",
    "train": "tenfold.api.training",
    "resume": "tenfold.api.training",
    "Run": "tenfold.api.run",
    "Metrics": "tenfold.api.run",
    "Predictor": "tenfold.api.predictor",
    "compare": "tenfold.api.comparison",
    "evaluate": "tenfold.evaluation.evaluate",
    "export": "tenfold.serving.export",
    "Exporter": "tenfold.serving.exporters",
    "register_exporter": "tenfold.serving.exporters",
    "open_model": "tenfold.serving.runtime",
    "TenfoldError": "tenfold.errors",
}
__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("tenfold")
    if name not in _HOMES:
        raise AttributeError(f"module 'tenfold' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
