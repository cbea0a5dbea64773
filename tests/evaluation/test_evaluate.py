"""Scores of a run, each worked out again from its weights, and the files and pictures they become."""

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tenfold.data.dataset import Dataset, Split
from tenfold.data.shapes import make_shapes
from tenfold.errors import DataError, ModelError, UsageError
from tenfold.evaluation import outputs
from tenfold.evaluation.audit import Subject, run_audit
from tenfold.evaluation.calibration import calibrate
from tenfold.evaluation.evaluate import evaluate, rewrite_scores, write_scores
from tenfold.evaluation.report import write_report
from tenfold.training.augment import Normalization
from tenfold.training.device import DeviceConfig
from tenfold.training.fingerprint import note_origin
from tenfold.training.infer import predict_logits
from tenfold.training.model import build
from tenfold.training.networks import WhitenedSpec
from tenfold.training.provenance import FoundData
from tenfold.training.recipe import Recipe
from tenfold.training.recipes import FAST89, REFERENCE
from tenfold.training.run import Run
from tenfold.training.train import train
from tenfold.training.weights import describe_model

CPU = DeviceConfig(torch.device("cpu"), torch.float32, 1, ())
DATASET = make_shapes(train=60, test=50)
PIXELS = Normalization((0.4, 0.5, 0.6), (0.25, 0.25, 0.25))
RECIPE = replace(FAST89, name="mine", network=WhitenedSpec(widths=(8,), whitening_pairs=4), label_smoothing=0.2)
RECIPE = replace(RECIPE, tta="six", tta_fraction=0.5)
MakeRun = Callable[[Recipe], Run]


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[MakeRun]:
    """A run whose network was never trained, ten classes of shapes."""
    made: list[Run] = []

    def make(recipe: Recipe) -> Run:
        env = {"seed": 3, "data": "shapes", "device": "cpu", "dtype": "float32"} | note_origin(DATASET)
        run = Run.create(tmp_path / recipe.name, recipe, env)
        torch.manual_seed(0)
        network = build(recipe.network)
        run.save_model(network, describe_model(recipe.network, DATASET.classes, 32, PIXELS))
        run.write_manifest()
        made.append(run)
        return run

    yield make
    for run in made:
        run.unlock()


def test_images_of_another_size_are_refused(make_run: MakeRun) -> None:
    """The network would take them, and be scored on what it never saw."""
    with pytest.raises(DataError, match=r"the images of shapes are 16 pixels a side, those of .*mine 32"):
        evaluate(make_run(RECIPE), make_shapes(train=60, test=50, size=16), CPU)


def cross_entropy_by_hand(logits: np.ndarray, labels: np.ndarray, smoothing: float) -> float:
    shifted = logits.astype(np.float64) - logits.max(1, keepdims=True)
    logs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    targets = np.eye(10)[labels] * (1 - smoothing) + smoothing / 10
    return float(-(targets * logs).sum(1).mean())


def test_scores_are_those_of_the_test_images(make_run: MakeRun) -> None:
    run = make_run(RECIPE)
    model = run.load_model(CPU)
    images, labels = torch.from_numpy(DATASET.test.images), DATASET.test.labels
    single, averaged = (x.numpy() for x in predict_logits(model.network, images, PIXELS, CPU, "six", 0.5))
    assert (single != averaged).any(axis=1).sum() == 25  # the unsure half
    evaluation = evaluate(run, DATASET, CPU)
    np.testing.assert_array_equal(evaluation.logits, averaged)
    scores = evaluation.scores
    assert scores.test_accuracy == (averaged.argmax(1) == labels).mean()
    assert scores.test_accuracy_single_view == (single.argmax(1) == labels).mean()
    assert scores.test_loss == pytest.approx(cross_entropy_by_hand(averaged, labels, 0.2))
    assert scores.test_cross_entropy == pytest.approx(cross_entropy_by_hand(averaged, labels, 0.0))
    assert (scores.run, scores.recipe, scores.epochs) == (str(run.path), "mine", RECIPE.epochs)
    assert scores.parameters == (8 * 27 + 8) + 8 * 8 * 9 * 2 + 4 * 8 * 2 + 8 * 10
    assert scores.val_accuracy is None


def test_scores_are_fields_whose_keys_in_json_stay(make_run: MakeRun) -> None:
    """They were a dictionary of any keys. A folder's have a key more."""
    scores = evaluate(make_run(RECIPE), DATASET, CPU).scores
    with pytest.raises(dataclasses.FrozenInstanceError):
        scores.test_accuracy = 1.0  # type: ignore[misc]
    accuracies = [f"test_accuracy{more}" for more in ("", "_interval", "_top5", "_single_view")]
    alike = ["balanced_accuracy", "balanced_accuracy_interval", "macro_f1"]
    losses = ["test_loss", "test_cross_entropy", "ece", "ece_single_view"]
    assert list(json.loads(json.dumps(scores.to_dict()))) == [
        *("run", "recipe", "parameters", "epochs", "test_images", *accuracies, *alike, *losses),
        *("val_accuracy", "val_accuracy_single_view", "calibration"),
    ]
    assert dataclasses.replace(scores, skipped_images=0).to_dict() == scores.to_dict() | {"skipped_images": 0}
    assert scores.to_dict()["test_accuracy_interval"] == list(scores.test_accuracy_interval)


def test_the_loss_of_reference_includes_the_l2_terms(make_run: MakeRun) -> None:
    run = make_run(REFERENCE.with_val_size(0))
    dataset = dataclasses.replace(DATASET, test=DATASET.test[:10])
    scores = evaluate(run, dataset, CPU).scores
    network = run.load_model(CPU).network
    kernels = [p.detach().double() for name, p in network.named_parameters() if ".convs." in name and p.ndim == 4]
    l2 = 1e-4 * sum(float((kernel**2).sum()) for kernel in kernels)
    assert len(kernels) == 13 and l2 > 0.1
    assert scores.test_loss - scores.test_cross_entropy == pytest.approx(l2, rel=1e-4)
    assert scores.test_accuracy == scores.test_accuracy_single_view
    assert scores.parameters == 17_001_930


def test_validation_accuracy_is_that_of_the_images_held_out(make_run: MakeRun) -> None:
    run = make_run(RECIPE.with_val_size(20))
    held = DATASET.train[40:]
    as_test = dataclasses.replace(DATASET, test=held)
    scores, expected = evaluate(run, DATASET, CPU).scores, evaluate(run, as_test, CPU).scores
    assert scores.val_accuracy == expected.test_accuracy
    assert scores.val_accuracy_single_view == expected.test_accuracy_single_view


def test_its_own_data_are_compared_once(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before, what was found as the run's own was compared with it again."""
    run = make_run(RECIPE)
    expected = evaluate(run, DATASET, CPU).scores
    monkeypatch.setattr("tenfold.evaluation.evaluate.is_own", None)
    monkeypatch.setattr("tenfold.evaluation.evaluate.find_data", lambda _: FoundData(DATASET, True))
    again = evaluate(run, device_config=CPU)
    assert again.own and again.scores == expected


def test_data_of_other_classes_are_refused(make_run: MakeRun) -> None:
    other = Dataset("mine", (*DATASET.classes[:9], "blob"), DATASET.train, DATASET.test)
    with pytest.raises(DataError, match=r"mine has other classes than .* was trained on: disk, ring, .*heart"):
        evaluate(make_run(RECIPE), other, CPU)


def test_other_classes_are_named_but_not_by_the_hundred(make_run: MakeRun) -> None:
    run = make_run(RECIPE)
    names = tuple(f"class {i}" for i in range(300))
    torch.manual_seed(0)
    run.save_model(build(RECIPE.network, 300), describe_model(RECIPE.network, names, 32, PIXELS))
    run.write_manifest()
    with pytest.raises(DataError, match=r"class 19 and 280 more; not among them: disk, "):
        evaluate(run, DATASET, CPU)


def test_data_without_labelled_test_images_are_refused(make_run: MakeRun) -> None:
    empty = dataclasses.replace(DATASET, test=DATASET.test[:0])
    with pytest.raises(DataError, match="shapes has no test images with labels"):
        evaluate(make_run(RECIPE), empty, CPU)


def forbid_inference(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.setattr(outputs, "logits_for", fail)


def test_the_logits_are_kept_and_used_again(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(RECIPE.with_val_size(20))
    first = evaluate(run, DATASET, CPU)
    write_scores(run, first, {})
    run.verify("logits/test.safetensors", "logits/val.safetensors")
    forbid_inference(monkeypatch)
    second = evaluate(run, DATASET, CPU)
    assert second.scores == first.scores and not second.test.fresh
    np.testing.assert_array_equal(second.test.single, first.test.single)


@pytest.mark.parametrize("change", ["images", "dtype", "views", "damage"])
def test_kept_logits_of_something_else_are_not_used(
    make_run: MakeRun, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the key, or without `verify`, the old scores came back."""
    run = make_run(RECIPE)
    first = evaluate(run, DATASET, CPU)
    write_scores(run, first, {})
    dataset, device_config = DATASET, CPU
    if change == "images":
        dataset = dataclasses.replace(DATASET, test=DATASET.test[::-1])
    elif change == "dtype":
        device_config = replace(CPU, dtype=torch.bfloat16)
    elif change == "views":
        (run.path / "recipe.json").write_text(replace(RECIPE, tta="one").to_json())
    else:
        flip_a_bit(run.path / "logits" / "test.safetensors")
    again = evaluate(run, dataset, device_config)
    assert again.test.fresh
    assert ("damaged" in capsys.readouterr().err) == (change == "damage")
    np.testing.assert_array_equal((again.logits != first.logits).any(), change != "damage")


def test_the_calibration_is_that_of_a_single_view_of_the_validation_images(make_run: MakeRun) -> None:
    run = make_run(RECIPE.with_val_size(20))
    scores = evaluate(run, DATASET, CPU).scores
    model = run.load_model(CPU)

    def single(part: Split) -> np.ndarray:
        return predict_logits(model.network, torch.from_numpy(np.array(part.images)), PIXELS, CPU).single.numpy()

    held_out = DATASET.train[40:]
    fitted = calibrate(single(held_out), held_out.labels)
    assert scores.calibration == fitted.measure(single(DATASET.test), DATASET.test.labels)
    assert scores.calibration and scores.calibration.images == 20


def test_other_data_are_scored_with_the_runs_own_calibration(make_run: MakeRun) -> None:
    run = make_run(RECIPE.with_val_size(20))
    results = write_scores(run, evaluate(run, DATASET, CPU), {})
    other = make_shapes(seed=1, train=1, test=30)
    scores = evaluate(run, other, CPU).scores
    assert scores.calibration
    assert scores.calibration.temperature == results["calibration"]["temperature"]
    assert scores.calibration.ece_after != results["calibration"]["ece_after"]
    assert scores.val_accuracy is None and scores.test_images == 30


def test_scores_of_other_data_do_not_replace_the_runs_own(make_run: MakeRun) -> None:
    """`evaluate` took any data for the run's own unless `own=False` was said, and `write_scores` wrote them."""
    run = make_run(RECIPE.with_val_size(20))
    write_scores(run, evaluate(run, DATASET, CPU), {})
    before = {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()}
    other = make_shapes(seed=1, train=60, test=30)
    evaluation = evaluate(run, other, CPU)
    assert not evaluation.own and evaluate(run, DATASET, CPU).own
    for keep in (
        lambda: write_scores(run, evaluation, {}),
        lambda: rewrite_scores(run, evaluation),
        lambda: write_report(run, other, evaluation),
        lambda: run_audit(Subject(run, other, evaluation), CPU),
    ):
        with pytest.raises(UsageError, match=r"of other data than .*mine was trained on: the run keeps only its own"):
            keep()
    assert {path: path.read_bytes() for path in run.path.rglob("*") if path.is_file()} == before
    with pytest.raises(UsageError, match=r"validation images of .*mine: leave it out with other data \(shapes\)"):
        evaluate(run, other, CPU, target_error=0.05)


@pytest.mark.parametrize("wrong", [1.5, 0.0, -0.1, 0.0009, 0.51, float("nan"), True, "0.05"])
def test_a_target_error_out_of_its_bounds_is_refused(make_run: MakeRun, tmp_path: Path, wrong: Any) -> None:
    """As on the command line. 0.0 stood for the run's own, 1.5 was noted and ended in a traceback of `math`."""
    run, said = make_run(RECIPE.with_val_size(20)), r"target_error must be a number from 0\.001 to 0\.5 "
    with pytest.raises(UsageError, match=said):
        evaluate(run, DATASET, CPU, target_error=wrong)
    with pytest.raises(UsageError, match=said):
        train(RECIPE, DATASET, tmp_path / "new", target_error=wrong)
    with pytest.raises(UsageError, match=said):
        calibrate(np.eye(10), np.arange(10), wrong)
    assert not (tmp_path / "new").exists()
    fitted = evaluate(run, DATASET, CPU, target_error=0.5).scores.calibration
    assert fitted and fitted.target_error == 0.5


def test_scoring_again_keeps_the_times_and_mends_the_rest(make_run: MakeRun) -> None:
    run = make_run(RECIPE)
    evaluation = evaluate(run, DATASET, CPU)
    written = write_scores(run, evaluation, {"train_seconds": 1.5})
    assert rewrite_scores(run, evaluation) == written
    flip_a_bit(run.path / "results.json")
    with pytest.raises(ModelError, match=r"results\.json is damaged"):
        rewrite_scores(run, evaluation)


def test_a_damaged_run_is_not_scored(make_run: MakeRun) -> None:
    run = make_run(RECIPE)
    path = run.path / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        evaluate(run, DATASET, CPU)


def test_scores_are_written_and_sealed(make_run: MakeRun) -> None:
    run = make_run(RECIPE)
    evaluation = evaluate(run, DATASET, CPU)
    results = write_scores(run, evaluation, {"train_seconds": 1.5})
    assert json.loads((run.path / "results.json").read_text()) == results
    assert results == evaluation.scores.to_dict() | {
        "train_seconds": 1.5,
        "seed": 3,
        "data": "shapes",
        "device": "cpu",
        "dtype": "float32",
    }
    run.verify("results.json", "predictions.csv")
    assert run.scored
    frame = pd.read_csv(run.path / "predictions.csv")
    assert frame["true"].tolist() == [DATASET.classes[label] for label in DATASET.test.labels]
    assert frame["predicted"].tolist() == [DATASET.classes[index] for index in evaluation.logits.argmax(1)]
    shares = np.exp(evaluation.logits - evaluation.logits.max(1, keepdims=True)).astype(np.float64)
    best = (shares / shares.sum(1, keepdims=True)).max(1)
    np.testing.assert_allclose(frame["probability"], best, rtol=1e-5)


@pytest.fixture
def scored(make_run: MakeRun) -> Run:
    run = make_run(RECIPE)
    write_scores(run, evaluate(run, DATASET, CPU), {})
    row = {"epoch": 1.0, "stage": 1, "learning_rate": 0.1, "train_loss": 2.0, "train_accuracy": 0.2}
    epochs = pd.DataFrame([row | {"val_loss": np.nan, "val_accuracy": np.nan, "seconds": 1.0}])
    epochs.to_csv(run.path / "metrics.csv", index=False)
    steps = pd.DataFrame({"step": [1, 2], "epoch": [0.5, 1.0], "loss": [2.2, 1.8], "accuracy": [0.1, 0.3]})
    steps.to_csv(run.path / "steps.csv", index=False)
    run.write_manifest()
    return run


def test_pictures_are_drawn_and_sealed(scored: Run) -> None:
    run = scored
    report = write_report(run, DATASET, evaluate(run, DATASET, CPU))
    paths = report.files
    stems = {path.stem for path in paths}
    assert {"history", "gallery", "misclassified", "confusion", "per_class", "reliability", "report"} == stems
    for path in (path for path in paths if path.suffix == ".png"):
        with Image.open(path) as picture:
            assert picture.format == "PNG" and min(picture.size) > 300
    run.verify(*(path.relative_to(run.path).as_posix() for path in paths))
    assert Path(report) == paths[-1] == run.path / "report.html"
    assert repr(report) == f"Report('{run.path / 'report.html'}', 6 plots)"


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_drawing_does_not_seal_damage(scored: Run) -> None:
    """Without `rewrite_in_manifest`, which leaves other digests alone: the flipped weights counted as sound."""
    evaluation = evaluate(scored, DATASET, CPU)
    flip_a_bit(scored.path / "model.safetensors")
    write_report(scored, DATASET, evaluation)
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        evaluate(scored, DATASET, CPU)


@pytest.mark.parametrize("name", ["results.json", "metrics.csv", "steps.csv"])
def test_nothing_is_drawn_from_damaged_files(scored: Run, name: str) -> None:
    """Without `verify`: wrong pictures, or pandas' errors."""
    evaluation = evaluate(scored, DATASET, CPU)
    flip_a_bit(scored.path / name)
    with pytest.raises(ModelError, match=name):
        write_report(scored, DATASET, evaluation)
