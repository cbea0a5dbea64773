"""Statistics against numbers worked out by hand or by SciPy."""

import math

import numpy as np
import pytest
from scipy import stats

from tenfold.errors import DivergedError
from tenfold.scaling.summary import Diverged, Timed, compare, describe, interval, spread, summarize
from tests.support.made_up_runs import HERE, timed


def rows(a: list[float], b: list[float], seconds: tuple[float, ...] = (40.0, 50.0, 60.0, 45.0)) -> tuple[dict, dict]:  # type: ignore[type-arg]
    """Summaries of two recipes, run by run with the same seeds; b takes twice as long as a, and 1 % more each seed."""
    first = [timed(x, time, seed=seed) for seed, (x, time) in enumerate(zip(a, seconds, strict=False))]
    second = [
        timed(y, 2 * time * 1.01**seed, seed=seed) for seed, (y, time) in enumerate(zip(b, seconds, strict=False))
    ]
    return summarize("a", first), summarize("b", second)


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


def test_spread_of_five_and_of_one() -> None:
    assert spread([5.0, 1.0, 2.0, 4.0, 3.0]) == {"median": 3, "q1": 2, "q3": 4, "min": 1, "max": 5}
    assert set(spread([7.0]).values()) == {7.0}


def test_seconds_are_normalised_by_the_mean_of_both_rates() -> None:
    assert timed(0.9, 100, before=300, after=450).normalised() == pytest.approx(50.0)
    assert timed(0.9, 100, before=300, after=450).normalised("setup") == pytest.approx(0.5)


def test_unsteadiness_is_the_shortfall_of_the_lower_rate() -> None:
    assert timed(0.9, 1, before=400, after=500).speed_drift == pytest.approx(0.2)
    assert timed(0.9, 1, before=None, after=None).speed_drift == 0


def test_summary_of_three_runs() -> None:
    row = summarize("r", [timed(0.88, 40, seed=5), timed(0.90, 60, seed=6), timed(0.92, 50, 600, 750, seed=7)])
    assert row["mean"] == pytest.approx(0.90) and row["std"] == pytest.approx(0.02)
    assert row["seconds_median"] == row["seconds"]["total"]["median"] == 50
    assert row["normalised_seconds_median"] == pytest.approx(45.0) and row["seconds"]["train"]["max"] == 58
    assert row["measured_on"] == "test" and row["n"] == 3
    assert row["unsteady"] == [7] and [run["steady"] for run in row["runs"]] == [True, True, False]
    assert [run["seed"] for run in row["runs"]] == [5, 6, 7] and row["environments"] == [HERE]


def test_what_is_asked_for_counts_and_nothing_else() -> None:
    """Once a recipe with validation images of its own was compared, by them, with another's test accuracy."""
    run = timed(0.5, 40, val_accuracy=0.7)
    assert summarize("r", [run], "validation")["mean"] == 0.7
    assert summarize("r", [run])["mean"] == 0.5 and summarize("r", [run])["std"] is None


def test_a_run_without_a_rate_has_no_normalised_seconds() -> None:
    row = summarize("r", [timed(0.9, 40), timed(0.9, 50, None, None)])
    assert row["normalised_seconds_median"] is None and row["seconds_median"] == 45
    assert "normalised" not in describe(row) and "45.0 s on the clock" in describe(row)


def test_what_diverged_is_left_out_and_said() -> None:
    row = summarize("r", [timed(0.9, 40), Diverged(3, "loss is nan")])
    assert row["n"] == 1 and "diverged and left out: seed 3" in describe(row)
    with pytest.raises(DivergedError, match="no run of r came through; the last: loss is nan"):
        summarize("r", [Diverged(3, "loss is nan")])


def test_an_interval_ends_where_accuracies_do_and_none_is_made_up() -> None:
    assert summarize("r", [timed(0.9, 40), timed(1.0, 40)])["ci95"][1] == 1.0
    assert "90.00% (n = 2, all equal)" in describe(summarize("r", [timed(0.9, 40), timed(0.9, 50)]))


@pytest.mark.parametrize("new_first", [True, False])
def test_records_of_before_there_were_kernels_are_compared(new_first: bool) -> None:
    """With the newer record first, a KeyError."""
    new, old = timed(0.88, 40, environment=HERE | {"kernels": "C"}), timed(0.90, 50, environment=HERE, seed=1)
    said = describe(summarize("r", [new, old] if new_first else [old, new]))
    assert "2 different environments (kernels)" in said and "2 threads, C kernels; " in said


def test_what_a_reader_must_know_is_said() -> None:
    runs = [timed(0.88, 40), timed(0.90, 60, 400, 750, environment=HERE | {"threads": 4}, seed=9)]
    said = describe(summarize("r", runs))
    assert "unsteady around seed 9" in said and "2 different environments (threads)" in said
    assert "a CPU, bfloat16, 2 threads; python 3.11 torch 2.13; code 0123" in said and "4 threads" in said


def test_comparison_is_paired_by_seed() -> None:
    a, b = [0.80, 0.85, 0.90, 0.95], [0.81, 0.87, 0.91, 0.97]
    compared = compare(*rows(a, b))
    expected = stats.ttest_rel(b, a).confidence_interval(0.95)
    assert compared["accuracy"]["interval"] == pytest.approx([expected.low, expected.high])
    assert compared["accuracy"]["differs"] and "b is better than a (+1.50 points" in compared["verdict"]
    first, second = rows(a, b)
    del second["runs"][2], first["runs"][0]
    assert compare(first, second)["n"] == 2, "only seeds that both have"


def test_times_are_compared_by_their_ratios() -> None:
    compared = compare(*rows([0.8, 0.82, 0.81, 0.83], [0.81, 0.80, 0.82, 0.82]))
    ratios = [math.log(2 * 1.01**seed) for seed in range(4)]
    expected = stats.ttest_1samp(ratios, 0.0).confidence_interval(0.95)
    assert compared["normalised_seconds"]["interval"] == pytest.approx(
        [math.exp(expected.low), math.exp(expected.high)]
    )
    assert compared["normalised_seconds"]["mean"] == pytest.approx(2 * 1.01**1.5)
    assert "no difference in accuracy is shown" in compared["verdict"] and "b is slower (2.030 ×" in compared["verdict"]


def test_times_of_an_unsteady_machine_are_not_compared() -> None:
    """Once a run that a neighbour had slowed to a third made the other recipe the faster one."""
    a, b = rows([0.8, 0.82, 0.81, 0.83], [0.81, 0.80, 0.82, 0.82])
    b["runs"][0] |= {"steady": False, "normalised_seconds": 1e6}
    compared = compare(a, b)
    assert (compared["accuracy"]["n"], compared["normalised_seconds"]["n"]) == (4, 3)
    assert compared["normalised_seconds"]["mean"] == pytest.approx(2 * 1.01**2)
    a["runs"][1]["steady"] = False
    assert "steady around 2 pairs only, too few to compare times" in compare(a, b)["verdict"]


def test_many_comparisons_want_wider_intervals() -> None:
    two = rows([0.80, 0.85, 0.90, 0.95], [0.81, 0.87, 0.91, 0.97])
    single, fourth = compare(*two), compare(*two, comparisons=4)
    assert fourth["confidence"] == 0.9875 and "98.8 % interval" in fourth["verdict"]
    assert fourth["accuracy"]["interval"][0] < single["accuracy"]["interval"][0]


def test_two_runs_and_equal_differences_prove_nothing() -> None:
    """By rounding: accuracies are counted in images, and two differences are often the same number of them."""
    assert not compare(*rows([0.5, 0.75], [0.625, 0.875]))["accuracy"]["differs"]
    assert "2 seeds in both a and b say too little" in compare(*rows([0.5, 0.75], [0.625, 0.875]))["verdict"]
    assert not compare(*rows([0.5, 0.75, 0.25], [0.625, 0.875, 0.375]))["accuracy"]["differs"]


def test_runs_of_another_device_are_compared_by_the_clock() -> None:
    run: list[Timed | Diverged] = [timed(0.9, 10, None, None, seed=seed) for seed in range(3)]
    compared = compare(summarize("a", run), summarize("b", run))
    assert compared["seconds"]["mean"] == 1.0 and "normalised_seconds" not in compared
