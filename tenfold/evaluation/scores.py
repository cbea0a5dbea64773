"""What a test set says of a run in numbers: the part of results.json that `tenfold evaluate` computes."""

from dataclasses import asdict, dataclass
from typing import Any, Self

import torch

from tenfold.data.dataset import AppliedCorrections
from tenfold.evaluation import metrics
from tenfold.evaluation.calibration import Calibration
from tenfold.evaluation.outputs import LogitsCache
from tenfold.training.model import l2_penalty
from tenfold.training.run import STOPPED, Run
from tenfold.training.summary import count_parameters
from tenfold.training.weights import Model


@dataclass(frozen=True)
class Scores:
    """The scores of a run on a test set. Accuracies and calibration errors (`ece`) in [0, 1], losses in nats.

    test_accuracy: with the recipe's test-time augmentation; test_accuracy_single_view: without. test_accuracy_top5:
    None for five classes or fewer. balanced_accuracy: mean recall of the classes; macro_f1: their mean F1. Intervals:
    95 %. test_loss: with label smoothing and L2 terms; test_cross_entropy: without. val_accuracy: with test-time
    augmentation. It, val_accuracy_single_view and calibration: None without validation images, as are the accuracies on
    other data than the run's own. skipped_images: of a folder, those
    that could not be read. corrections: what they changed in the data, if there were some.
    """

    run: str
    recipe: str
    parameters: int
    epochs: float
    test_images: int
    test_accuracy: float
    test_accuracy_interval: tuple[float, float]
    test_accuracy_top5: float | None
    test_accuracy_single_view: float
    balanced_accuracy: float
    balanced_accuracy_interval: tuple[float, float]
    macro_f1: float
    test_loss: float
    test_cross_entropy: float
    ece: float
    ece_single_view: float
    val_accuracy: float | None = None
    val_accuracy_single_view: float | None = None
    calibration: Calibration | None = None
    skipped_images: int | None = None
    corrections: AppliedCorrections | None = None

    @classmethod
    def compute(cls, run: Run, model: Model, test: LogitsCache, **known: Any) -> Self:
        """Score the logits of test images. known: fields that they do not say, by name."""
        recipe, labels = run.recipe, test.labels
        matrix = metrics.confusion_matrix(labels, test.averaged.argmax(1), len(model.classes))
        right = int(matrix.trace())
        with torch.no_grad():
            l2 = float(l2_penalty(model.network, recipe.l2))
        return cls(
            run=str(run.path),
            recipe=recipe.name,
            parameters=count_parameters(model.network),
            epochs=run.env.get(STOPPED, recipe.trained_epochs),
            test_images=len(labels),
            test_accuracy=metrics.accuracy(test.averaged, labels),
            test_accuracy_interval=metrics.wilson_interval(right, len(labels)),
            test_accuracy_top5=metrics.top_k_accuracy(test.averaged, labels, 5) if len(model.classes) > 5 else None,
            test_accuracy_single_view=metrics.accuracy(test.single, labels),
            balanced_accuracy=metrics.balanced_accuracy(matrix),
            balanced_accuracy_interval=metrics.balanced_interval(matrix),
            macro_f1=metrics.macro_f1(matrix),
            test_loss=metrics.cross_entropy(test.averaged, labels, recipe.label_smoothing) + l2,
            test_cross_entropy=metrics.cross_entropy(test.averaged, labels),
            ece=metrics.expected_calibration_error(test.averaged, labels),
            ece_single_view=metrics.expected_calibration_error(test.single, labels),
            **known,
        )

    def to_dict(self) -> dict[str, Any]:
        """All fields by name, ready for JSON; `skipped_images` for folders only, `corrections` where there are some."""
        own = {
            "test_accuracy_interval": list(self.test_accuracy_interval),
            "balanced_accuracy_interval": list(self.balanced_accuracy_interval),
            "calibration": self.calibration and self.calibration.to_dict(),
            "corrections": self.corrections and self.corrections.to_dict(),
        }
        values = asdict(self) | own
        absent = {name for name in ("skipped_images", "corrections") if values[name] is None}
        return {name: value for name, value in values.items() if name not in absent}
