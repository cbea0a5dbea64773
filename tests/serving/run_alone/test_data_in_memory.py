"""A run trained from Python on data that no command can load."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import tenfold
from tenfold.data.dataset import Dataset
from tenfold.data.shapes import make_shapes
from tenfold.errors import DataError
from tenfold.evaluation.evaluate import evaluate, write_scores
from tenfold.serving import export as exporting
from tenfold.serving.card import write_card
from tenfold.serving.export import export
from tenfold.serving.predictor import open_model
from tenfold.training import train as training
from tenfold.training.provenance import find_data
from tenfold.training.recipe import Recipe
from tenfold.training.run import Run
from tests.support.process import Invoke
from tests.support.run_alone import CLASSES, make_mine, write_images


def test_a_run_trained_from_python_is_used_by_every_command_that_needs_no_images(
    invoke: Invoke, mine_run: Path, mine: Dataset, photo: Path, tmp_path: Path
) -> None:
    scores = evaluate(Run.open(mine_run), mine).scores
    code, out, err = invoke("evaluate", mine_run, "--json")
    said = json.loads(out)
    assert code == 0 and said.items() >= scores.to_dict().items()
    assert "was trained on a data set made in Python, called 'mine', that no command can load" in err
    assert tenfold.Run.open(mine_run).evaluate().scores == scores
    code, out, err = invoke("export", mine_run, "--json")
    assert code == 0 and json.loads(out)["verified_on"] == "synthetic images", err
    code, out, _ = invoke("predict", photo, "--model", mine_run, "--json")
    assert code == 0 and json.loads(out)["label"] in CLASSES
    assert invoke("explain", mine_run, photo, "--out", tmp_path / "maps")[0] == 0
    folder = write_images(tmp_path / "folder", make_shapes(8, train=1, test=40))
    code, out, _ = invoke("evaluate", mine_run, "--data", folder, "--json")
    assert code == 0 and json.loads(out)["test_images"] == 12
    code, out, _ = invoke("export", mine_run, "--data", folder, "--json")
    assert code == 0 and json.loads(out)["verified_on"] == "other images"


def test_where_its_images_are_needed_the_call_in_python_is_named(
    invoke: Invoke, mine_run: Path, mine: Dataset, tmp_path: Path
) -> None:
    """And that call works."""
    page = tmp_path / "page.html"
    other = Path(shutil.copytree(mine_run, tmp_path / "other"))
    there = f"call tenfold.Run.open({str(mine_run)!r})"
    words = {
        f"{there}.report(data=dataset) in Python": ("report", mine_run),
        f"{there}.audit(data=dataset) in Python": ("audit", mine_run),
        "call tenfold.compare(runs, out, dataset) in Python": ("compare", mine_run, other, "--out", page),
    }
    for call, asked in words.items():
        code, _, err = invoke(*asked)
        assert code == 3 and err.strip().endswith(call)
    assert tenfold.Run.open(mine_run).report(data=mine).path == mine_run / "report.html"
    assert (
        "tenfold.train(tenfold.find_recipe(&#34;mine/recipe.json&#34;), dataset, Path(&#34;again&#34;), seed=0)"
        in (mine_run / "report.html").read_text()
    )
    assert tenfold.compare([mine_run, other], page, mine).path == page


def test_its_own_images_are_handed_over_for_eight_bits_and_a_card(
    mine_run: Path, mine: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run.open(mine_run)
    with pytest.raises(DataError, match="int8 files need images"):
        export(run, int8="on")
    monkeypatch.setattr(exporting, "MOST_LOSS", 1.0)
    with run.locked():  # as a run is that was just trained: it is in use by this very process
        exported = export(run, int8="on", data=mine)
    assert exported.quantized and exported.verified_on == "test images" and exported.verified_images == len(mine.test)
    right = open_model(mine_run / "model.onnx").predict(mine.test.images).argmax(1) == mine.test.labels
    assert exported.accuracy == pytest.approx(right.mean(), abs=0.02)
    text = write_card(run, mine_run / "model.onnx", mine).read_text()
    assert f"On {len(mine.test)} test images" in text and "```python\ntenfold.train(" in text
    grey = np.repeat(mine.test.images.mean(-1, keepdims=True), 3, -1).astype(np.uint8)
    last_bit = mine.test.images ^ (np.arange(mine.test.images.size).reshape(mine.test.images.shape) % 97 == 0)
    parts = {"fewer": mine.test[:-1], "grey": replace(mine.test, images=grey // 2)}
    parts |= {"relabelled": replace(mine.test, labels=mine.test.labels[::-1])}
    parts |= {"drawn elsewhere": replace(mine.test, images=last_bit.astype(np.uint8))}
    own = {name: find_data(run, replace(mine, test=part)).own for name, part in parts.items()}
    assert own == {"fewer": False, "grey": False, "relabelled": False, "drawn elsewhere": True}
    with pytest.raises(DataError, match="holds no test images of the kind"):
        export(run, data=make_mine(size=32))


def test_an_interrupted_one_resumes_with_its_data_handed_over(
    invoke: Invoke, mine: Dataset, tiny_recipe: Path, in_memory: Path, tmp_path: Path
) -> None:
    """To the same bits; without it, or with other data, nothing is trained."""
    run = Path(shutil.copytree(in_memory, tmp_path / "run"))
    for name in ("manifest.json", "results.json", "model.safetensors"):
        (run / name).unlink()
    code, _, err = invoke("train", "--resume", "--out", run)
    assert code == 3 and "call tenfold.resume(out, data=dataset) in Python" in err
    with pytest.raises(DataError, match="its last steps would see other images"):
        training.resume(run, data=replace(mine, train=mine.train[:-1]))
    training.resume(run, data=mine).run.unlock()
    assert (run / "model.safetensors").read_bytes() == (in_memory / "model.safetensors").read_bytes()


def test_data_that_has_a_known_name_but_is_other_is_not_taken_for_it(
    invoke: Invoke, tiny_recipe: Path, tmp_path: Path
) -> None:
    """A part of `shapes`, cut in Python: validation images would be others, and the temperature with them."""
    whole = make_shapes(train=2000, test=500)
    part = replace(whole, train=whole.train[:200])
    recipe = replace(Recipe.from_json(tiny_recipe.read_bytes()), val_size=20).with_epochs(1.0)
    trained = training.train(recipe, part, tmp_path / "run", device="cpu")
    scores = write_scores(trained.run, evaluate(trained.run, part, trained.device_config), {})
    trained.run.unlock()
    code, out, err = invoke("evaluate", tmp_path / "run", "--json")
    assert code == 0 and "a data set made in Python, called 'shapes'" in err
    assert json.loads(out)["calibration"] == scores["calibration"]
    code, out, _ = invoke("evaluate", tmp_path / "run", "--data", "shapes", "--json")
    assert code == 0 and json.loads(out)["val_accuracy"] is None  # as other data
