"""Statistics against numbers worked out by hand, and the order and number of runs."""

import json
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from tenfold.errors import ModelError, RunFailedError, UsageError
from tenfold.scaling import bench
from tenfold.scaling.bench import Timed, compare, interval, summarize
from tenfold.training.recipe import Recipe, Stage

Command = Callable[..., subprocess.CompletedProcess[str]]


def timed(accuracy: float, total: float, before: float = 750.0, after: float = 750.0, **more: float) -> Timed:
    seconds = {"setup_seconds": 1.0, "train_seconds": total - 2, "evaluation_seconds": 1.0, "total_seconds": total}
    results = {"test_accuracy": accuracy, **seconds, "peak_memory_bytes": 2e9, **more}
    return Timed(results, before, after)


def test_interval_is_that_of_student() -> None:
    # mean 2, standard deviation 1, t(0.975; 2 degrees of freedom) = 4.302653, over √3
    low, high = interval([1.0, 2.0, 3.0]) or (0.0, 0.0)
    assert (low, high) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)
    assert interval([1.0]) is None


def test_interval_covers_the_mean_nineteen_times_in_twenty() -> None:
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        low, high = interval(rng.normal(0.9, 0.01, 5).tolist()) or (0.0, 0.0)
        covered += low <= 0.9 <= high
    assert 930 <= covered <= 970


def test_seconds_are_normalised_by_the_mean_of_both_rates() -> None:
    assert timed(0.9, 100, before=300, after=450).normalised(100) == pytest.approx(50.0)


def test_unsteadiness_is_the_shortfall_of_the_lower_rate() -> None:
    assert timed(0.9, 1, before=400, after=500).unsteadiness == pytest.approx(0.2)


def test_summary_of_three_runs() -> None:
    row = summarize("r", [timed(0.88, 40), timed(0.90, 60), timed(0.92, 50)])
    assert row["mean"] == pytest.approx(0.90) and row["std"] == pytest.approx(0.02)
    assert row["normalised_seconds_median"] == 50 and row["normalised_seconds_range"] == [40, 60]
    assert row["measured_on"] == "test" and row["n"] == 3


def test_validation_accuracy_is_what_counts_where_there_is_one() -> None:
    row = summarize("r", [timed(0.5, 40, val_accuracy=0.7)])
    assert row["mean"] == 0.7 and row["measured_on"] == "validation" and row["std"] is None


def test_comparison_is_paired_by_seed() -> None:
    a, b = [0.80, 0.85, 0.90, 0.95], [0.81, 0.87, 0.91, 0.97]
    verdict = compare("a", "b", a, b)
    expected = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert verdict["ci95"] == pytest.approx([expected.low, expected.high])
    assert verdict["differs"] and verdict["verdict"] == "b is better than a by 1.50%"


def test_comparison_of_noise_shows_no_difference() -> None:
    verdict = compare("a", "b", [0.80, 0.82, 0.81], [0.81, 0.80, 0.82])
    assert not verdict["differs"] and "no difference shown" in verdict["verdict"]


def test_runs_alternate_and_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def measure(recipe: str, seed: int, path: Path, options: list[str]) -> Timed:
        measured.append(path.name)
        return timed(0.9, 1)

    monkeypatch.setattr(bench, "_measure", measure)
    bench.bench(["fast89", "reference"], range(2), tmp_path)
    assert measured == ["fast89-0", "reference-0", "fast89-1", "reference-1"]
    again = bench.bench(["fast89", "reference"], range(3), tmp_path)
    assert measured[4:] == ["fast89-2", "reference-2"] and len(again["fast89"]) == 3


def test_other_options_are_refused(tmp_path: Path) -> None:
    bench.bench([], [], tmp_path, ["--epochs", "1"])
    with pytest.raises(UsageError, match="other options"):
        bench.bench([], [], tmp_path, ["--epochs", "2"])


def test_a_recipe_changed_meanwhile_is_refused(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the recipes in bench.json: the old runs' figures were given for the new recipe."""
    monkeypatch.setattr(bench, "_measure", lambda *_: timed(0.9, 1))
    mine = tmp_path / "mine.json"
    mine.write_bytes(tiny_recipe.read_bytes())
    bench.bench([str(mine)], [0], tmp_path / "out")
    mine.write_text(replace(Recipe.from_json(mine.read_bytes()), batch_size=7).to_json())
    with pytest.raises(UsageError, match="another mine"):
        bench.bench([str(mine)], [0], tmp_path / "out")


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    """Without the check: the run of that name was deleted."""
    (tmp_path / "fast89-0").mkdir()
    (tmp_path / "fast89-0" / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(UsageError, match="other things than a bench"):
        bench.bench(["fast89"], [0], tmp_path)
    assert (tmp_path / "fast89-0" / "model.safetensors").read_bytes() == b"precious"


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"results": {}, "rate_before": 1, "rate_after": 1}'])
def test_a_damaged_record_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setattr(bench, "_measure", lambda *_: timed(0.9, 1))
    bench.bench(["fast89"], [0], tmp_path)
    (tmp_path / "fast89-0.json").write_text(content)
    with pytest.raises(ModelError, match=r"fast89-0\.json is damaged"):
        bench.bench(["fast89"], [0], tmp_path)


def test_two_recipes_of_one_name_are_refused(command: Command, tiny_recipe: Path) -> None:
    answer = command("bench", "--recipe", f"{tiny_recipe},{tiny_recipe}", "--data", "shapes")
    assert (answer.returncode, answer.stdout) == (2, "") and "different names" in answer.stderr


def test_an_unsteady_run_is_measured_again_and_the_steadiest_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = iter([timed(0.9, 3, 400, 750), timed(0.9, 2, 600, 750), timed(0.9, 1, 500, 750)])
    monkeypatch.setattr(bench, "_measure", lambda *_: next(tries))
    kept = bench.bench(["fast89"], [0], tmp_path)["fast89"][0]
    assert kept.rate_before == 600 and next(tries, None) is None


def test_a_failing_run_hands_on_its_message_and_exit_code(tmp_path: Path, tiny_recipe: Path) -> None:
    recipe = replace(Recipe.from_json(tiny_recipe.read_bytes()), optimizer="adam", stages=(Stage(1.0, 1e30, 1e30),))
    path = tmp_path / "wild.json"
    path.write_text(recipe.to_json())
    with pytest.raises(RunFailedError, match="wild-0: loss is") as failure:
        bench.bench([str(path)], [0], tmp_path / "out", ["--data", "shapes"])
    assert failure.value.exit_code == 5


def test_two_real_runs(command: Command, tiny_recipe: Path, tmp_path: Path) -> None:
    words = ("bench", "--recipe", tiny_recipe, "--runs", 2, "--data", "shapes", "--out", tmp_path / "b", "--json")
    answer = json.loads(command(*words).stdout)
    row = answer["results"][0]
    assert (row["recipe"], row["n"]) == ("tiny", 2) and answer["comparison"] == []
    singles = [json.loads((tmp_path / "b" / f"tiny-{seed}" / "results.json").read_bytes()) for seed in (0, 1)]
    assert row["accuracies"] == [single["test_accuracy"] for single in singles]
    assert row["peak_memory_bytes"] > 1e8
    assert (tmp_path / "b" / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert not (tmp_path / "b" / "tiny-0" / "report.html").exists(), "a bench's runs are counted, not looked at"
