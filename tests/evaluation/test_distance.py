"""A run's distance: fitted with its scores, kept, exported, and added to runs that lack it."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

import tenfold
from tenfold.evaluation.distance import add_rejection
from tenfold.evaluation.rejection import format_rejection, rejection_in
from tenfold.training.distance import FILE, FeatureDistance
from tenfold.training.run import Run
from tests.support.few_shapes import few_shapes
from tests.support.short_run import DATASET, RECIPE


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tenfold.Run:
    """Twelve steps, 20 validation images: too few for a threshold."""
    return tenfold.train(RECIPE, DATASET, tmp_path_factory.mktemp("distance") / "run", report=False, progress=False)


@pytest.fixture(scope="module")
def scored(trained: tenfold.Run, tmp_path_factory: pytest.TempPathFactory) -> tenfold.Run:
    """The same without a distance, as runs of earlier versions are."""
    path = shutil.copytree(trained.path, tmp_path_factory.mktemp("scored") / "run")
    for name in (FILE, "model.onnx"):
        (path / name).unlink()
    results = trained.require_scores()
    del results["rejection"]
    (path / "results.json").write_text(json.dumps(results))
    run = tenfold.Run.open(path)
    run.write_manifest()
    return run


def test_training_leaves_a_distance_that_the_manifest_knows(trained: tenfold.Run) -> None:
    trained.verify(FILE, "results.json")
    found = rejection_in(trained.require_scores())
    assert found is not None and trained.timings["rejection_seconds"] > 0
    assert (found.images, found.threshold, found.rejected, found.interval) == (20, None, None, None)
    assert list(found.unknown) == ["digits", "noise", "flat colours"]  # it was trained on shapes
    assert all(0 <= one.auroc <= 1 and one.rejected is None for one in found.unknown.values())
    (line,) = format_rejection(found)
    assert line.startswith("distance: no threshold, since at least 59 validation images are needed and there are 20")


def test_the_exported_file_has_it_as_a_second_output(trained: tenfold.Run) -> None:
    model = trained.predictor.model
    assert model.output_names == ("probabilities", "distance")
    distance = trained.predictor.distance(np.array(DATASET.test.images[:7]))
    assert distance is not None and distance.shape == (7,) and np.isfinite(distance).all()
    results = trained.predict(np.array(DATASET.test.images[:7]))
    assert [result.distance for result in results] == pytest.approx(distance.tolist())
    assert not any(result.rejected for result in results)


def test_an_older_run_gets_it_when_it_is_scored_again(scored: tenfold.Run) -> None:
    """Until then, its file has one output, and that is current."""
    run = tenfold.Run.open(shutil.copytree(scored.path, scored.path.parent / "again"))
    assert not run.has_distance and run.predictor.model.output_names == ("probabilities",)
    run.evaluate(DATASET)
    assert run.has_distance and run.predictor.model.output_names == ("probabilities", "distance")
    kept = (run.path / FILE).read_bytes()
    run.evaluate(DATASET)
    assert (run.path / FILE).read_bytes() == kept


def test_a_threshold_rejects_at_most_so_many_known_images(
    scored: tenfold.Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Worked out again from the parameters that were written: 93 validation images, so one may be beyond it."""
    from tenfold.evaluation import distance as fitting

    run, data = Run.open(shutil.copytree(scored.path, tmp_path / "run")), few_shapes()
    monkeypatch.setattr(fitting, "split", lambda *_: (data.train[:300], data.train[300:393]))
    found = add_rejection(run, data, "cpu")
    assert found is not None and found.threshold is not None
    assert (found.images, found.rejected) == (93, 1) and found.interval is not None
    assert found.interval[0] < 1 / 93 < found.interval[1]
    model = FeatureDistance.from_bytes((run.path / FILE).read_bytes(), FILE)
    assert model.projection.shape == (16, 16) and model.weights.shape == (16, 10)
    assert 0 < found.test_rejected < 0.2 * found.test_images  # type: ignore[operator]


def test_a_network_without_features_has_no_distance(
    scored: tenfold.Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from tenfold.evaluation import distance as fitting

    monkeypatch.setattr(fitting, "has_features", lambda network: False)
    before = scored.require_scores()
    assert add_rejection(scored, DATASET, "cpu") is None and scored.require_scores() == before
    assert "no distance for predict --reject: the network has no linear layer called head" in capsys.readouterr().err
