"""A run that nobody trained, with logits that are drawn: quick to make, and its true scores are known."""

from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import torch

from tenfold.data.dataset import Dataset
from tenfold.data.shapes import make_shapes
from tenfold.evaluation import evaluate as evaluation
from tenfold.evaluation.evaluate import Evaluation, write_scores
from tenfold.evaluation.report import write_report
from tenfold.files import write_text
from tenfold.training.augment import Normalization
from tenfold.training.device import DeviceConfig
from tenfold.training.fingerprint import note_origin
from tenfold.training.infer import Logits
from tenfold.training.model import build
from tenfold.training.networks import WhitenedSpec
from tenfold.training.recipes import FAST89
from tenfold.training.run import Run
from tenfold.training.weights import describe_model

CPU = DeviceConfig(torch.device("cpu"), torch.float32, 1, ())
RECIPE = replace(FAST89, network=WhitenedSpec(widths=(8,), whitening_pairs=4), val_size=700)


def draw_logits(labels: np.ndarray, k: int, seed: int) -> Logits:
    """Right for about five images in six, the less sure the more often wrong."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(labels), k)).astype(np.float32)
    logits[np.arange(len(labels)), labels] += rng.gamma(3.0, 1.2, len(labels)).astype(np.float32)
    return Logits(torch.from_numpy(logits), torch.from_numpy(logits * 1.1))


def make_drawn_run(path: Path, dataset: Dataset, seed: int = 0, report: bool = True) -> Evaluation:
    """Write a whole run directory, by default with pictures and `report.html`, and leave it unlocked."""
    env = {"seed": seed, "data": "shapes", "device": "cpu", "dtype": "float32"} | note_origin(dataset)
    run = Run.create(path, replace(RECIPE, name=f"drawn{seed}"), env)
    network = build(RECIPE.network, len(dataset.classes))
    run.save_model(network, describe_model(RECIPE.network, dataset.classes, 32, Normalization((0.5,) * 3, (0.25,) * 3)))
    header = "epoch,stage,learning_rate,train_loss,train_accuracy,val_loss,val_accuracy,seconds"
    rows = "1.0,1,0.1,2.0,0.2,1.8,0.3,1.0\n2.0,1,0.1,1.0,0.6,1.1,0.5,1.0"
    write_text(path / "metrics.csv", f"{header}\n{rows}\n")
    write_text(path / "steps.csv", "step,epoch,loss,accuracy\n1,0.5,2.2,0.1\n2,1.0,1.8,0.3\n3,2.0,1.0,0.6\n")
    run.write_manifest()
    parts = {len(dataset.test): dataset.test, RECIPE.val_size: dataset.train[-RECIPE.val_size :]}

    def drawn(run_: Run, model: object, part: object, device_config: DeviceConfig, name: str) -> evaluation.LogitsCache:
        labels = parts[len(part)].labels.astype(np.int64)  # type: ignore[arg-type]
        logits = draw_logits(labels, len(dataset.classes), seed + 10 * (name == "val"))
        return evaluation.LogitsCache(logits.single.numpy(), logits.averaged.numpy(), labels, {}, fresh=True)

    with mock.patch.object(evaluation, "load_or_compute", drawn):
        evaluated = evaluation.evaluate(run, dataset, CPU)
    write_scores(run, evaluated, {"train_seconds": 1.0})
    if report:
        write_report(run, dataset, evaluated)
    run.unlock()
    return evaluated


def hostile_dataset(test: int = 900) -> Dataset:
    """Drawn shapes whose class names would be markup, code or too long, were they not shown as text."""
    names = (
        "<img src=x onerror=alert(1)>",
        '"><script>alert(2)</script>',
        "</script><script>alert(3)",
        "{{ 7 * 7 }}",
        "a & b &amp; c",
        "' onmouseover='alert(4)",
        "x" * 60,
        "\u202eright to left\u0007",
        "猫",
        "]]><!--",
    )
    return replace(make_shapes(train=800, test=test), classes=names)
