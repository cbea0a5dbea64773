"""From a folder of images to a run and back, by the same commands as for CIFAR-10."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import tenfold
from tenfold.data.check import check_folder
from tenfold.data.folder import load_folder
from tenfold.data.image import decode
from tenfold.errors import DataError
from tenfold.serving.card import has_card
from tenfold.training.provenance import find_data
from tenfold.training.run import Run
from tenfold.training.train import train as train_run
from tests.support.forks import Fork, command
from tests.support.images import write_mixed_shapes
from tests.support.process import Invoke
from tests.support.waiting import wait_for

# What Pillow has to say about odd metadata is silenced by a filter that pytest takes away again.
pytestmark = [pytest.mark.usefixtures("own_home"), pytest.mark.slow, pytest.mark.filterwarnings(r"ignore:::PIL\.")]
Train = Callable[..., dict[str, Any]]
IMAGES = 500


@pytest.fixture(scope="module")
def train(invoke: Invoke, tiny_recipe: Path) -> Train:
    """Train, and return what `--json` and standard error say."""

    def run(*arguments: str | Path) -> dict[str, Any]:
        code, out, err = invoke("train", "--recipe", tiny_recipe, "--json", *arguments)
        assert code == 0, err
        return json.loads(out) | {"said": err}

    return run


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mixed_shapes(tmp_path_factory.mktemp("data") / "shapes", IMAGES)


@pytest.fixture(scope="module")
def trained(train: Train, shapes: Path) -> dict[str, Any]:
    """A finished run on the folder."""
    return train("--data", shapes, "--out", shapes.parent / "run")


def test_a_folder_of_all_kinds_of_files_is_learned(trained: dict[str, Any]) -> None:
    """By chance, a tenth is right; a tiny network with a hundred steps gets several times that."""
    assert trained["test_accuracy"] > 0.4
    assert trained["data"] == "shapes/"
    assert "shapes/: 10 classes; 400 train, 100 test images, 50 a class" in trained["said"]
    assert "recipe fitted to 400 images: " in trained["said"]


def test_what_the_run_knows_of_its_images(trained: dict[str, Any], shapes: Path) -> None:
    run = Path(trained["run"])
    table = pd.read_csv(run / "split.csv")
    assert table["split"].value_counts().to_dict() == {"train": 400, "test": 100}
    assert sorted(table["path"]) == sorted(
        path.relative_to(shapes).as_posix() for path in shapes.rglob("*") if path.is_file()
    )
    assert (table["class"] == table["path"].str.partition("/")[0]).all()
    predictions = pd.read_csv(run / "predictions.csv")
    assert predictions["path"].tolist() == table["path"][table["split"] == "test"].tolist()
    assert (predictions["true"] == predictions["path"].str.partition("/")[0]).all()
    model = json.loads((run / "model.json").read_text())
    assert (model["size"], model["resize"], model["classes"]) == (32, "stretch", sorted(model["classes"]))


def test_only_the_environment_file_holds_the_path(trained: dict[str, Any], shapes: Path) -> None:
    run = Path(trained["run"])
    private = {"env.json", "results.json"}  # that of the run itself is in its results
    files = [path for path in run.rglob("*") if path.is_file() and path.name not in private]
    assert len(files) > 8
    assert not [path for path in files if str(shapes).encode() in path.read_bytes()]
    assert json.loads((run / "env.json").read_text())["folder"]["path"] == str(shapes)


def test_the_same_file_gives_the_same_pixels(trained: dict[str, Any], shapes: Path) -> None:
    """In training as in `decode`, which prediction calls."""
    test = tenfold.load(str(shapes)).test
    assert test.names is not None and len(test) == 100
    for pixels, name in zip(test.images, test.names, strict=True):
        np.testing.assert_array_equal(pixels, decode((shapes / name).read_bytes(), 32))


def test_prediction_answers_as_training_saw_it(trained: dict[str, Any], invoke: Invoke, shapes: Path) -> None:
    """Every file of the folder, in all nine ways of storing it, through the exported model; which knows no path."""
    from tenfold.serving.predictor import open_model

    code, out, err = invoke("predict", shapes, "--model", trained["run"], "--json")
    assert code == 0, err
    answers = {Path(said["path"]): said for said in map(json.loads, out.splitlines())}
    assert len(answers) == IMAGES
    dataset, model = tenfold.load(str(shapes)), Path(trained["run"]) / "model.onnx"
    for part in (dataset.train, dataset.test):
        probabilities = open_model(model).predict(part.images)
        labels = [dataset.classes[label] for label in probabilities.argmax(axis=1)]
        said = [answers[shapes / name] for name in names_of(part)]
        assert [answer["label"] for answer in said] == labels
        assert [answer["probability"] for answer in said] == pytest.approx(probabilities.max(axis=1), abs=1e-5)
    right = np.mean([answers[shapes / name]["label"] == Path(name).parent.name for name in names_of(dataset.test)])
    assert right == pytest.approx(trained["test_accuracy_single_view"], abs=0.03)  # bfloat16 there, float32 here
    assert str(shapes).encode() not in model.read_bytes()


def names_of(part: tenfold.Split) -> list[str]:
    assert part.names is not None
    return list(part.names)


def test_a_folder_is_found_again_where_it_moved_to(
    trained: dict[str, Any], invoke: Invoke, shapes: Path, tmp_path: Path
) -> None:
    _, out, _ = invoke("evaluate", trained["run"], "--json")
    assert json.loads(out)["test_accuracy"] == trained["test_accuracy"]
    moved = shapes.rename(shapes.parent / "moved")
    try:
        code, _, err = invoke("report", trained["run"])
        assert code == 3
        assert f"{shapes}, which {trained['run']} was trained on, is not there any more" in err
        _, out, _ = invoke("evaluate", trained["run"], "--data", moved, "--json")
        assert json.loads(out)["test_accuracy"] == trained["test_accuracy"]
        assert invoke("report", trained["run"], "--data", moved)[0] == 0
        file = tmp_path / "moved.onnx"
        with mock.patch("tenfold.serving.keras_file.export_keras", side_effect=tenfold.TenfoldError) as to_keras:
            invoke("export", trained["run"], "--to", "keras", "--data", moved)
        assert to_keras.call_args[0][1:] == (None, moved)
        code, out, _ = invoke("export", trained["run"], "--out", file, "--card", "--data", moved)
        assert code == 0 and "on 100 test images, largest difference" in out
        assert tenfold.Predictor.load(file).model.about.accuracy == trained["test_accuracy_single_view"] and has_card(
            file
        )
        audit = mock.Mock(to_dict=lambda: {"seen": 1})
        with mock.patch("tenfold.evaluation.audit.run_audit", return_value=(audit, False)) as run_audit:
            _, out, _ = invoke("audit", trained["run"], "--data", moved, "--json")
        assert json.loads(out)["audit"] == {"seen": 1} and run_audit.call_args[0][0].dataset.origin.path == str(moved)
    finally:
        moved.rename(shapes)


def test_a_folder_that_changed_is_named(trained: dict[str, Any], invoke: Invoke, shapes: Path) -> None:
    gone = next((shapes / "disk").iterdir())
    shutil.move(gone, shapes.parent)
    try:
        code, _, err = invoke("report", trained["run"])
        assert code == 3
        assert f"is not what {trained['run']} was trained on; images: 1 gone (as disk/{gone.name})" in err
        code, _, err = invoke("evaluate", trained["run"], "--data", shapes)  # else scored on what it was trained on
        assert code == 3 and f"is not what {trained['run']} was trained on" in err
    finally:
        shutil.move(shapes.parent / gone.name, gone)


def test_other_pictures_are_all_scored_on(
    trained: dict[str, Any], invoke: Invoke, shapes: Path, tmp_path: Path
) -> None:
    """A folder with two of the ten classes; nothing in it is trained on."""
    for name in ("star", "disk"):
        shutil.copytree(shapes / name, tmp_path / "mine" / name)
    words = ("evaluate", trained["run"], "--data", tmp_path / "mine", "--predictions", tmp_path / "it.csv", "--json")
    code, out, _ = invoke(*words)
    answer, predictions = json.loads(out), pd.read_csv(tmp_path / "it.csv")
    assert answer["test_images"] == len(predictions) == 100
    assert (code, answer["data"], set(predictions["true"])) == (0, "mine/", {"star", "disk"})
    shutil.move(tmp_path / "mine" / "star", tmp_path / "mine" / "comet")
    code, _, err = invoke(*words)
    assert code == 3 and "mine/ has other classes than" in err


def test_its_own_folder_read_otherwise_is_not_scored(trained: dict[str, Any], shapes: Path) -> None:
    """Another seed draws training images among the test images; it scored too well, and as the run's own."""
    run = tenfold.Run.open(trained["run"])
    for options in ({"seed": 1}, {"resize": "center_crop"}):
        with pytest.raises(DataError, match=r"shapes/ was read otherwise than for .*run, with another seed"):
            run.evaluate(tenfold.load(str(shapes), **options))
    scored = run.evaluate(tenfold.load(str(shapes)))
    assert scored.own and scored.scores.test_accuracy == trained["test_accuracy"]


def test_an_interrupted_run_goes_on_where_the_folder_moved(
    invoke: Invoke, tiny_recipe: Path, shapes: Path, tmp_path: Path
) -> None:
    copy, out = tmp_path / "copy", tmp_path / "run"
    shutil.copytree(shapes, copy)
    options = ("--recipe", tiny_recipe, "--data", copy, "--size", "16", "--resize", "pad", "--epochs", "12")
    process = Fork(command, "train", *options, "--out", out, env=os.environ)
    assert wait_for(lambda: "epoch 2:" in process.text("err"))
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 143 and "to resume" in process.text("err")
    code, _, err = invoke("train", "--resume", "--out", out, "--size", "24")
    assert code == 2 and "was started with --size 16, not 24" in err
    copy.rename(tmp_path / "elsewhere")
    code, _, err = invoke("train", "--resume", "--out", out)
    assert code == 3 and "is not there any more: say where it is with --data" in err
    code, text, err = invoke(
        "train", "--resume", "--out", out, "--data", tmp_path / "elsewhere", "--no-report", "--json"
    )
    assert code == 0 and "resuming at step" in err
    assert json.loads(text)["epochs"] == pytest.approx(12)
    assert json.loads((out / "env.json").read_text())["folder"]["path"] == str(tmp_path / "elsewhere")
    assert invoke("evaluate", out)[0] == 0
    model = json.loads((out / "model.json").read_text())
    assert (model["size"], model["resize"]) == (16, "pad")


def test_validation_images_of_the_folders_own(train: Train, invoke: Invoke, shapes: Path, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(shapes.rglob("*.png"))):
        folder = tmp_path / "data" / ("train", "train", "valid", "test")[number % 4] / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, folder)
    trained = train("--data", tmp_path / "data", "--epochs", "2", "--out", tmp_path / "run", "--no-report")
    assert trained["val_accuracy"] is not None
    table = pd.read_csv(tmp_path / "run" / "split.csv")
    assert (table["split"].replace("val", "valid") == table["path"].str.partition("/")[0]).all()
    code, _, err = invoke("train", "--data", tmp_path / "data", "--val-size", "5", "--out", tmp_path / "x")
    assert code == 2 and "has validation images of its own: leave --val-size out" in err


def test_twenty_images_a_class(train: Train, shapes: Path, tmp_path: Path) -> None:
    """Fewer images than a batch: two classes are told apart all the same."""
    for name in ("bar", "disk"):
        for path in sorted((shapes / name).iterdir())[:20]:
            (tmp_path / "few" / name).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / "few" / name)
    trained = train("--data", tmp_path / "few", "--out", tmp_path / "run", "--no-report")
    assert "recipe fitted to 32 images: 79.06 epochs in batches of 32" in trained["said"]
    assert trained["test_accuracy"] >= 0.75


def test_a_folder_named_from_within(shapes: Path) -> None:
    """`.` has no name of its own."""
    from tenfold.data.folder import folder_name

    assert folder_name(shapes / ".." / "shapes" / ".") == "shapes/"
    with pytest.raises(tenfold.TenfoldError, match="unknown data set 'shape'"):
        tenfold.load("shape")


def test_a_class_that_was_not_learned_is_warned_of(invoke: Invoke, train: Train, tmp_path: Path) -> None:
    """Of 84 images that differ in one pixel, 4 are called `rare` and 80 `common`: no training tells them apart.

    Before, the run ended as any other, with a good accuracy.
    """
    drawn = tenfold.load("shapes").train
    alike = np.repeat(drawn.images[drawn.labels == 0][:1], 84, axis=0)
    alike[:, 0, 0, 0] = np.arange(84)
    for name, images in {"common": alike[4:], "rare": alike[:4], "other": drawn.images[drawn.labels == 1][:80]}.items():
        (tmp_path / "odd" / name).mkdir(parents=True)
        for number, pixels in enumerate(images):
            Image.fromarray(pixels).save(tmp_path / "odd" / name / f"{number}.png")
    run = train("--data", tmp_path / "odd", "--out", tmp_path / "run")
    assert run["unlearned_classes"] == ["rare"]
    warnings = [line for line in run["said"].splitlines() if line.startswith("Warning:")]
    assert warnings == [
        "Warning: class 'rare' was not learned: none of its 3 training images is recognised. "
        "Its scores are worth nothing: add images of it, train longer (--epochs), or leave it out"
    ]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Every training image of this class is misclassified" in page
    code, out, _ = invoke("evaluate", tmp_path / "run", "--json")
    assert code == 0 and json.loads(out)["unlearned_classes"] == ["rare"], "known to later commands, too"


def test_a_class_that_is_held_out_as_a_whole_is_warned_of(invoke: Invoke, train: Train, tmp_path: Path) -> None:
    """Before, nothing was said but that the scores are bad."""
    drawn = tenfold.load("shapes").train.images
    for number, name in enumerate(20 * "a" + 20 * "b" + 2 * "c"):
        (tmp_path / "few" / name).mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn[number]).save(tmp_path / "few" / name / f"{number}.png")
    options = ("--val-size", "32", "--epochs", "1", "--no-report")
    run = train("--data", tmp_path / "few", *options, "--out", tmp_path / "run")
    left = pd.read_csv(tmp_path / "run" / "split.csv").query("split == 'train'")["class"].tolist()
    assert len(left) == 1
    both = "all 16 are validation images"
    held_out = {"a": both, "b": both, "c": "its only one is a validation image"}
    assert [line for line in run["said"].splitlines() if "has no training image" in line] == [
        f"Warning: class {name!r} has no training image, {held_out[name]}: it cannot be learned; choose a smaller "
        "--val-size, add images of it, or leave it out"
        for name in "abc"
        if name not in left
    ]
    for verb in ("evaluate", "report"):
        assert invoke(verb, tmp_path / "run")[0] == 0
    issues = {str(issue) for issue in check_folder(tmp_path / "few").issues if issue.kind == "small class"}
    assert issues == {"c has only 2 images: add some; --val-size can leave none of them to train on"}


OLD_LAYOUTS = {
    "parts": ("part1/x", "part1/y", "part2/x", "part2/y"),
    "splits without classes": ("train", "test"),
    "splits in upper case, with folders": ("Training/x", "Testing/x"),
    "images beside labels": ("images", "labels/x"),
}


@pytest.mark.parametrize("name", OLD_LAYOUTS)
def test_a_run_of_before_keeps_its_classes(name: str, invoke: Invoke, tiny_recipe: Path, tmp_path: Path) -> None:
    """Their names are taken for splits or parts today, and a new training is refused or reads them otherwise.

    Before, so was every command on a run that was trained on them.
    """
    root, out, drawn = tmp_path / "old", tmp_path / "run", tenfold.load("shapes").train.images
    for number, folder in enumerate(4 * OLD_LAYOUTS[name]):
        (root / folder).mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn[number]).save(root / folder / f"{number}.png")
    classes = tuple(sorted({folder.partition("/")[0] for folder in OLD_LAYOUTS[name]}))
    if name != "images beside labels":  # with images in both it is read today, too
        assert invoke("train", "--recipe", tiny_recipe, "--data", root, "--out", tmp_path / "new")[0] == 3
    dataset = load_folder(root, classes=classes)
    recipe = tenfold.find_recipe(str(tiny_recipe)).for_images(len(dataset.train)).with_epochs(1.0)
    train_run(recipe, dataset, out, seed=0, device="cpu").run.unlock()
    (root / "empty").mkdir()
    code, text, err = invoke("evaluate", out, "--json")
    assert code == 0 and json.loads(text)["test_images"] == len(dataset.test), err
    assert find_data(Run.open(out), root).own
    for done in ("manifest.json", "results.json", "model.json", "predictions.csv"):
        (out / done).unlink(missing_ok=True)
    code, text, err = invoke("train", "--resume", "--out", out, "--no-report", "--json")
    assert code == 0, err
    assert tuple(json.loads((out / "model.json").read_text())["classes"]) == classes
    for words in (("report", out), ("evaluate", out, "--data", root)):
        code, _, err = invoke(*words)
        assert code == 0, err
