"""The public Python API: what `tenfold.train` returns, that it is what the command does, and its errors."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient
from PIL import Image

import tenfold
from tenfold import _HOMES
from tenfold.api.comparison import train_both
from tenfold.data.shapes import make_shapes
from tenfold.errors import BusyError, DataError, ModelError, UsageError
from tenfold.training.lock import Lock
from tests.support.few_shapes import TEST
from tests.support.process import Invoke

FEW = make_shapes(train=120, test=60)
"""Fewer images than the data set `shapes` has, for speed."""


@pytest.fixture(scope="module")
def run(tiny_recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tenfold.Run:
    out = tmp_path_factory.mktemp("api") / "run"
    return tenfold.train(tiny_recipe, "shapes", out, seed=3, epochs=0.3, val_size=100, progress=False)


# --- the same as the command -----------------------------------------------------------------------------------------


@pytest.mark.slow
def test_train_in_python_ends_with_the_bits_of_the_command(
    run: tenfold.Run, tiny_recipe: Path, invoke: Invoke, tmp_path: Path
) -> None:
    words = [
        "train",
        "--recipe",
        tiny_recipe,
        "--data",
        "shapes",
        "--seed",
        "3",
        "--epochs",
        "0.3",
        "--val-size",
        "100",
    ]
    code, out, _ = invoke(*words, "--out", tmp_path / "run", "--json")
    assert code == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == (run.path / "model.safetensors").read_bytes()
    names = {path.relative_to(run.path).as_posix() for path in run.path.rglob("*") if path.is_file()}
    there = {path.relative_to(tmp_path / "run").as_posix() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    assert names - {name for name in names if "checkpoints" in name} <= there
    assert json.loads(out)["test_accuracy"] == run.metrics.test_accuracy


def test_metrics_are_those_of_results_json(run: tenfold.Run) -> None:
    results = json.loads((run.path / "results.json").read_text())
    found = json.loads(json.dumps(run.metrics.to_dict()))
    assert found == {name: results[name] for name in found}
    assert {"test_accuracy", "ece", "val_accuracy", "total_seconds", "parameters"} <= found.keys()
    calibration = run.metrics.calibration
    assert calibration and calibration.to_dict() == results["calibration"] and calibration.images == 100
    assert tenfold.Calibration.from_dict(results["calibration"]) == calibration


def test_history_and_predictions_are_tables(run: tenfold.Run) -> None:
    assert list(run.history.columns[:4]) == ["epoch", "stage", "learning_rate", "train_loss"]
    assert len(run.predictions) == run.metrics.test_images == TEST
    right = (run.predictions["true"] == run.predictions["predicted"]).mean()
    assert right == pytest.approx(run.metrics.test_accuracy)
    table = run.per_class
    assert list(table.index[-3:]) == ["accuracy", "macro avg", "weighted avg"] and table["support"].iloc[-1] == TEST
    recalls = (run.predictions["true"] == run.predictions["predicted"]).groupby(run.predictions["true"]).mean()
    assert table["recall"][recalls.index].to_list() == pytest.approx(recalls.to_list())


# --- the object ------------------------------------------------------------------------------------------------------


def test_a_run_is_scored_and_unlocked(run: tenfold.Run) -> None:
    Lock(run.path).check()
    assert run.scored and (run.path / "report.html").is_file() and (run.path / "model.onnx").is_file()
    run.verify()


def test_a_run_is_printed_on_one_line(run: tenfold.Run, tmp_path: Path) -> None:
    assert repr(run) == f"Run('{run.path}', recipe='tiny', test_accuracy={run.metrics.test_accuracy})"
    assert repr(FEW) == "Dataset('shapes', 10 classes, 120 training and 60 test images of 32×32 pixels)"
    assert repr(FEW.test) == "Split(60 images of 32×32 pixels)"
    assert repr(run.metrics.calibration).startswith("Calibration(temperature=")


def test_predict_takes_arrays_files_and_folders_alike(run: tenfold.Run, tmp_path: Path) -> None:
    images = FEW.test.images[:3]
    for number, pixels in enumerate(images):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    by_array = run.predict(images, top=2)
    by_folder = tenfold.Predictor.load(run.path).predict(tmp_path, top=2)
    by_files = run.predict([tmp_path / f"{number}.png" for number in range(3)], top=2)
    assert [found.predictions for found in by_array] == [found.predictions for found in by_folder]
    assert [found.path for found in by_files] == [str(tmp_path / f"{number}.png") for number in range(3)]
    assert by_files == by_folder and len(by_array[0].predictions) == 2
    assert (by_array[0].label, by_array[0].probability) == by_array[0].predictions[0]
    np.testing.assert_allclose(run.predictor.predict_proba(images).sum(1), 1, rtol=1e-5)


def test_the_bundled_model_is_the_default() -> None:
    predictor = tenfold.Predictor.load()
    assert predictor.classes[:2] == ("airplane", "automobile") and "10 classes, 32 × 32 pixels" in repr(predictor)


@pytest.mark.slow
def test_evaluate_explain_report_and_export(run: tenfold.Run, tmp_path: Path) -> None:
    evaluation = run.evaluate()
    assert evaluation.scores.test_accuracy == run.metrics.test_accuracy
    assert repr(evaluation).startswith(f"Evaluation(test_accuracy={run.metrics.test_accuracy}, ece=0.")
    assert repr(evaluation).endswith(f", {TEST} test images of 10 classes)")
    (explanation,) = run.explain(FEW.test.images[:1])
    assert explanation.saliency.shape == (32, 32)
    assert run.report(progress=False).path == run.path / "report.html"
    exported = run.export(out=tmp_path / "model.onnx")
    assert exported.top1_agreement == 1 and (tmp_path / "model.onnx").is_file()


def test_other_data_leave_the_run_as_it_is(run: tenfold.Run) -> None:
    before = run.metrics
    evaluation = run.evaluate(make_shapes(train=10, test=40, seed=7))
    assert not evaluation.own and evaluation.scores.test_images == 40 and run.metrics == before
    for method in (run.report, run.audit):
        with pytest.raises(UsageError, match=r"shapes is not what .* was trained on: (report|audit) is about its own"):
            method(data=make_shapes(train=10, test=40, seed=7))


@pytest.mark.slow
def test_runs_are_compared_on_one_page(run: tenfold.Run, tiny_recipe: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 0.2, "report": False, "export": False, "progress": False}
    other = tenfold.train(tiny_recipe, "shapes", tmp_path / "other", **options)
    page = tenfold.compare([run, other.path], tmp_path / "page.html")
    assert page.path == tmp_path / "page.html" and "McNemar" in Path(page).read_text()
    assert repr(page) == f"ComparisonPage('{tmp_path / 'page.html'}', 2 runs)"
    assert [share for _, share, _ in page.scores] == [run.metrics.test_accuracy, other.metrics.test_accuracy]
    assert page.scores[0][2] == run.metrics.test_accuracy_interval


@pytest.mark.slow
def test_two_recipes_are_trained_and_compared(tiny_recipe: Path, tmp_path: Path) -> None:
    """Both runs are there, and the difference has the interval of the page."""
    longer = tenfold.find_recipe(str(tiny_recipe)).with_epochs(0.5)
    recipes = [replace(longer.with_epochs(0.2), name="short"), replace(longer, name="long")]
    page = train_both("shapes", tmp_path / "both", recipes, seed=3, report=False, export=False, progress=False)
    short, long = (tenfold.Run.open(tmp_path / "both" / name) for name in ("short", "long"))
    assert page.path == tmp_path / "both" / "comparison.html" and page.path.is_file()
    (found,) = page.differences
    assert found.difference == pytest.approx(long.metrics.test_accuracy - short.metrics.test_accuracy)
    assert found.interval[0] <= found.difference <= found.interval[1]
    assert str(found).startswith(f"long against short: {100 * found.difference:+.2f} points on the same test images")
    assert json.loads(json.dumps(page.to_dict()))["differences"][0]["name"] == "long"
    with pytest.raises(UsageError, match="both exists already"):
        train_both("shapes", tmp_path / "both", recipes)


def test_a_run_of_the_first_format_is_read() -> None:
    run = tenfold.Run.open(Path(__file__).parent / "runs" / "format-1")
    assert repr(run).startswith(f"Run('{run.path}', recipe=") and run.metrics.test_accuracy == 1.0
    assert run.metrics.ece is None and len(run.history) > 0


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_stopped_run_is_unlocked_and_resumes(tiny_recipe: Path, tmp_path: Path) -> None:
    class Stop(tenfold.Callback):
        def on_step_end(self, trainer: tenfold.Trainer) -> None:
            if trainer.step == 2:
                raise KeyboardInterrupt

    options: dict[str, Any] = {"report": False, "export": False, "progress": False}
    with pytest.raises(KeyboardInterrupt):
        tenfold.train(tiny_recipe, FEW, tmp_path / "run", epochs=1, callbacks=[Stop()], **options)
    run = tenfold.Run.open(tmp_path / "run")
    assert repr(run) == f"Run('{run.path}', unfinished)"
    with pytest.raises(ModelError, match="has no scores yet: finish it with"):
        run.metrics  # noqa: B018
    assert run.env["left_out"] == ["report", "export"]
    resumed = tenfold.resume(run.path, FEW, clock=lambda: 1000.0, progress=False)  # as it was started
    assert not [path for path in ("report.html", "model.onnx") if (run.path / path).exists()]
    assert resumed.scored and 1000 <= (resumed.metrics.total_seconds or 0) < 1600, "its own part counts from the clock"
    with run.locked(), pytest.raises(BusyError):
        Lock(run.path).check()


@pytest.mark.parametrize(
    ("arguments", "kind", "message"),
    [
        (("fast98", "shapes"), UsageError, "unknown recipe 'fast98'.*did you mean"),
        (("fast89", "shape"), UsageError, "no data set is named 'shape'|unknown data set 'shape'"),
        ((7, "shapes"), UsageError, "recipe must be a name, a path or a tenfold.Recipe, not int"),
        (("fast89", 7), UsageError, "data must be a name, a path or a tenfold.Dataset, not int"),
        (("fast89", "/no/such/folder"), DataError, "/no/such/folder"),
        (("fast89", "shapes", {"seed": "3"}), UsageError, "seed must be a whole number, not '3'"),
        (("fast89", "shapes", {"seed": -1}), UsageError, "seed must be 0 or more, not -1"),
        (("fast89", "shapes", {"val_size": 1.5}), UsageError, "val_size must be a whole number, not 1.5"),
        (("fast89", "shapes", {"callbacks": [tenfold.Callback]}), UsageError, "callbacks must be tenfold.Callback obj"),
    ],
)
def test_wrong_arguments_are_named_in_one_line(
    tmp_path: Path, arguments: tuple[Any, ...], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message) as raised:
        tenfold.train(*arguments[:2], tmp_path / "run", **(arguments[2] if len(arguments) > 2 else {}))
    assert "\n" not in str(raised.value) and not (tmp_path / "run").exists()


def test_arrays_of_the_wrong_kind_are_named() -> None:
    images, labels = np.zeros((2, 8, 8, 3), np.uint8), np.array([0, 1], np.uint8)
    with pytest.raises(DataError, match="images must be a uint8 array N×H×W×3, not float64 2×8×8×3"):
        tenfold.Split(images.astype(float), labels)
    with pytest.raises(DataError, match="labels must be 2 integers, one an image, not uint8 1"):
        tenfold.Split(images, labels[:1])
    with pytest.raises(DataError, match="train has label 1, which is too large for 1 class"):
        tenfold.Dataset("mine", ("a",), tenfold.Split(images, labels), tenfold.Split(images, labels))
    with pytest.raises(UsageError, match=r"data must be a tenfold\.Dataset.*not str"):
        tenfold.Trainer("fast89", "shapes")  # type: ignore[arg-type]


# --- quiet, and in a notebook ----------------------------------------------------------------------------------------


PROGRAM = """
import tenfold
from tenfold.data.shapes import make_shapes
data = make_shapes(train=120, test=60)
run = tenfold.train({recipe!r}, data, {out!r}, epochs=1, val_size=20)
"""
SHOWN = {
    "run.report(data, progress=False)": ("text/html", 6),
    "run.explain(data.test.images[:2])": ("text/html", 2),
    "run.explain(data.test.images[:1])[0]": ("image/png", 1),
    "run.evaluate(data)": ("image/png", 1),
    "import shutil; tenfold.compare([run, shutil.copytree(run.path, 'other')], data=data)": ("image/png", 1),
}
"""What shows plots in a notebook: as what, and how many."""
_PNG = "iVBORw0KGgo"
"""How a PNG file starts, in base64."""


@pytest.mark.slow
def test_a_program_that_asks_for_no_messages_gets_none(tiny_recipe: Path, tmp_path: Path) -> None:
    program = PROGRAM.format(recipe=str(tiny_recipe), out=str(tmp_path / "run"))
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300, check=True)
    lines = [line for line in answer.stderr.splitlines() if "was not learned" not in line]
    assert answer.stdout == "" and lines == []


@pytest.mark.slow
def test_a_notebook_shows_plots_and_progress_in_one_output_block(tiny_recipe: Path, tmp_path: Path) -> None:
    program = PROGRAM.format(recipe=str(tiny_recipe), out=str(tmp_path / "run"))
    quiet = "import logging; logging.getLogger('tenfold').setLevel('ERROR')\n"
    notebook = nbformat.v4.new_notebook(cells=[*map(nbformat.v4.new_code_cell, (quiet + program, *SHOWN))])
    resources = {"metadata": {"path": str(tmp_path)}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    train, *cells = notebook.cells
    for cell, (kind, plots) in zip(cells, SHOWN.values(), strict=True):
        (result,) = (output for output in cell.outputs if output.output_type == "execute_result")
        assert result.data[kind].count(_PNG) == plots and len(result.data["text/plain"]) < 300
    (output,) = train.outputs
    assert output.output_type == "display_data" and output.data["text/plain"].startswith("report ██")


def test_names_for_type_checkers_are_those_that_are_there() -> None:
    source = Path(tenfold.__file__).read_text()
    block = source[source.index("if TYPE_CHECKING:") : source.index("_HOMES = {")]
    assert {name for name in _HOMES if f" as {name}" in block} == set(_HOMES)
    assert all(getattr(tenfold, name) is not None for name in _HOMES)
    assert tenfold.__version__.count(".") == 2
