"""Runs of every format version that was ever written keep loading: one of each lies in tests/runs."""

from pathlib import Path

import pytest

from tenfold.data.shapes import make_shapes
from tenfold.evaluation.evaluate import evaluate
from tenfold.training.run import FORMAT_VERSION, Run
from tenfold.training.weights import MODEL_FORMAT

RUNS = Path(__file__).parent / "runs"


def test_every_format_has_a_run() -> None:
    """Whichever format changes, a run of before stays in tests/runs."""
    described = {Run.open(path).read_json("model.json")["format"] for path in RUNS.iterdir()}
    assert described == set(range(1, MODEL_FORMAT + 1))


@pytest.mark.parametrize("version", range(1, FORMAT_VERSION + 1))
def test_an_old_run_scores_what_it_scored(version: int) -> None:
    run = Run.open(RUNS / f"format-{version}")
    run.verify()
    scores = evaluate(run, make_shapes()).scores
    results = run.read_json("results.json")
    assert scores["test_accuracy"] == pytest.approx(results["test_accuracy"], abs=0.002)
    assert scores["test_cross_entropy"] == pytest.approx(results["test_cross_entropy"], rel=0.02)  # other dtypes differ
