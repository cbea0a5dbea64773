"""A search over a recipe's fields: what it tries, what it survives, and what it says."""

import io
import json
import math
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import psutil
import pytest
from scipy import stats

from tenfold.errors import BusyError, DivergedError, ModelError, RunFailedError, UsageError
from tenfold.evaluation import plots
from tenfold.scaling import tune
from tenfold.scaling.space import DEFAULT_SPACE, Range, find_space, read_space, with_fields
from tenfold.scaling.tune import Setting
from tenfold.training import trial
from tenfold.training.aliases import RECIPE_FIELDS
from tenfold.training.lock import Lock, now
from tenfold.training.recipe import Recipe
from tenfold.training.recipes import FAST89, FAST94, REFERENCE
from tests.support.forks import Fork, command
from tests.support.process import Command, Invoke
from tests.support.waiting import wait_for

SPACE = {"label_smoothing": {"low": 0.0, "high": 0.4}, "batch_size": {"low": 32, "high": 512, "log": True}}


def make_space(folder: Path, space: dict[str, Any] = SPACE, recipe: Recipe = FAST89) -> tune.Space:
    path = folder / "space.json"
    path.write_text(json.dumps(space))
    return read_space(path, recipe)


def make_setting(folder: Path, **changes: Any) -> Setting:
    options: dict[str, Any] = {"data": "shapes", "size": 32, "resize": "stretch", "device": "cpu", "seed": 0}
    options |= {"recipe": FAST89, "val_images": 5000} | changes
    return Setting(space=options.pop("space", None) or make_space(folder), **options)


def pretend(monkeypatch: pytest.MonkeyPatch, score: Callable[[Recipe], float]) -> list[Recipe]:
    """Let trials score what `score` says of their recipe, none ended early, and keep the recipes."""
    seen: list[Recipe] = []

    def accuracies(setting: Setting, recipe: Recipe) -> Iterator[float]:
        seen.append(recipe)
        yield score(recipe)

    monkeypatch.setattr(tune, "accuracies", accuracies)
    monkeypatch.setattr(tune, "UNPRUNED", 1000)
    return seen


def near_tenth(recipe: Recipe) -> float:
    """The best label smoothing is 0.1; the batch size does not matter."""
    return 0.9 - (recipe.label_smoothing - 0.1) ** 2


# --- the space ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [FAST89, FAST94], ids=lambda recipe: recipe.name)
def test_the_space_that_comes_along_holds_the_fast_recipes(recipe: Recipe) -> None:
    space = read_space(DEFAULT_SPACE, recipe)
    assert len(space) == 8
    for name, domain in space.items():
        assert isinstance(domain, Range) and domain.low <= value_of(recipe, name) <= domain.high, name


def value_of(recipe: Recipe, name: str) -> float:
    part: Any = json.loads(recipe.to_json())
    for key in name.split("."):
        part = part[int(key) if key.isdigit() else key]
    return float(part)


def test_a_space_with_the_old_names_of_fields_is_searched(tmp_path: Path) -> None:
    path = tmp_path / "space.json"
    path.write_text('{"easy_share": {"low": 0.0, "high": 0.8}, "stages.0.epochs": {"low": 1, "high": 2}}')
    assert list(read_space(path, FAST89)) == ["easy_share", "stages.0.epochs"]
    changed = with_fields(FAST89, {"easy_share": 0.25, "stages.0.epochs": 1.5})
    assert (changed.prune_fraction, changed.epochs) == (0.25, 1.5)


@pytest.mark.parametrize(
    ("space", "said"),
    [
        ({}, "file: "),
        ({"speed": {"low": 0, "high": 1}}, "speed: the recipe fast89 has no such field"),
        ({"stages.3.epochs": {"low": 1, "high": 2}}, r"stages\.3\.epochs: the recipe fast89 has no such field"),
        ({"momentum": {"low": 0.9, "high": 0.1}}, "momentum: low must be less than high"),
        ({"momentum": {"low": 0.0, "high": 0.1, "log": True}}, "momentum: low must be less than high, and above 0"),
        ({"momentum": {"low": 0.1, "hi": 0.2}}, "momentum: h"),
        (
            {"momentum": {"low": 0.1, "high": 1.5}},
            r"momentum = 1\.5: momentum: Input should be less than or equal to 1",
        ),
        ({"batch_size": {"low": 0.5, "high": 9}}, r"batch_size = 0\.5: batch_size: "),
        ({"flip": {"choices": ["none", "upward"]}}, 'flip = "upward": flip: '),
        ({"flip": {"choices": ["none"]}}, "flip: choices: "),
    ],
)
def test_a_wrong_space_names_its_field(tmp_path: Path, space: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        make_space(tmp_path, space)


def test_fields_are_changed_wherever_they_lie() -> None:
    changed = with_fields(FAST89, {"stages.0.learning_rate": 0.3, "network.widths": [8, 16]})
    assert changed.stages[0].learning_rate == 0.3 and changed.network.widths == (8, 16)
    assert changed.stages[0].epochs == FAST89.stages[0].epochs


def test_every_kind_of_field_is_drawn_as_the_recipe_wants_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    space = SPACE | {"network.widths": {"choices": [[8, 16], [16, 32]]}, "network.residual": {"choices": [True, False]}}
    seen = pretend(monkeypatch, near_tenth)
    setting = make_setting(tmp_path, space=make_space(tmp_path, space))
    row = tune.summarize(tune.tune(setting, 8, tmp_path / "out"), setting)
    assert {recipe.network.widths for recipe in seen} == {(8, 16), (16, 32)}
    assert len({recipe.batch_size for recipe in seen}) > 4 and all(32 <= recipe.batch_size <= 512 for recipe in seen)
    best = Recipe.from_json((tmp_path / "out" / "best.json").read_bytes())
    assert (best.name, best.val_size) == ("fast89-tuned", 0) and seen[0].val_size == 5000
    assert list(best.network.widths) == row["best"]["fields"]["network.widths"]


# --- the search --------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_search_finds_what_matters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, near_tenth)
    setting = make_setting(tmp_path)
    row = tune.summarize(tune.tune(setting, 25, tmp_path / "out"), setting)
    assert abs(row["best"]["fields"]["label_smoothing"] - 0.1) < 0.02
    assert next(iter(row["importances"])) == "label_smoothing" and row["importances"]["label_smoothing"] > 0.9


@pytest.mark.slow
def test_a_search_cut_in_two_tries_what_one_search_tries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a sampler keyed by the number of trials: the second half drew the first half's values again."""
    whole, halves = pretend(monkeypatch, near_tenth), pretend
    setting = make_setting(tmp_path)
    tune.tune(setting, 14, tmp_path / "whole")
    tune.tune(setting, 14, tmp_path / "whole")  # nothing is left to do
    assert len(whole) == 14
    parts = halves(monkeypatch, near_tenth)
    tune.tune(setting, 6, tmp_path / "parts")
    tune.tune(setting, 14, tmp_path / "parts")
    assert parts == whole


def test_of_trials_side_by_side_those_that_were_cut_short_are_drawn_again(tmp_path: Path) -> None:
    """Keyed by the number of trials so far: the second one's fields were drawn twice, the first one's never."""
    setting = make_setting(tmp_path)
    with pytest.raises(KeyboardInterrupt), tune.searching(setting, 3, tmp_path / "out") as search:
        first, second = search.ask(), search.ask()
        assert first and second and search.report(second, 0.5)
        search.complete(second)
        raise KeyboardInterrupt
    with tune.searching(setting, 3, tmp_path / "out") as search:
        again, third = search.ask(), search.ask()
        assert again and again.recipe == first.recipe
        assert third and third.recipe != second.recipe and search.ask() is None
        for trial in (again, third):
            search.report(trial, 0.4)
            search.complete(trial)


def test_failed_trials_count_and_do_not_end_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(recipe: Recipe) -> float:
        if recipe.label_smoothing > 0.2:
            raise RunFailedError("loss is nan at step 3", DivergedError.exit_code)
        return near_tenth(recipe)

    pretend(monkeypatch, diverge)
    setting = make_setting(tmp_path)
    row = tune.summarize(tune.tune(setting, 8, tmp_path / "out"), setting)
    assert row["failed"] > 0 and row["failed"] + row["completed"] == 8
    assert {trial["reason"] for trial in row["trials"]} == {None, "loss is nan at step 3"}


def test_where_every_trial_fails_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(recipe: Recipe) -> float:
        raise RunFailedError("loss is nan at step 3", DivergedError.exit_code)

    pretend(monkeypatch, diverge)
    with pytest.raises(DivergedError, match="none of 3 trials came through; the last: loss is nan at step 3"):
        tune.tune(make_setting(tmp_path), 3, tmp_path / "out")


def test_what_would_end_every_trial_ends_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the distinction: every trial failed for the full disk."""

    def full(recipe: Recipe) -> float:
        raise RunFailedError("No space left on device", 7)

    seen = pretend(monkeypatch, full)
    with pytest.raises(RunFailedError, match="No space left"):
        tune.tune(make_setting(tmp_path), 3, tmp_path / "out")
    assert len(seen) == 1
    mended = pretend(monkeypatch, near_tenth)
    setting = make_setting(tmp_path)
    assert len(tune.summarize(tune.tune(setting, 3, tmp_path / "out"), setting)["trials"]) == 3
    assert mended[0] == seen[0], "the trial that was cut short is drawn again"


@pytest.mark.parametrize(
    "change", [{"seed": 1}, {"val_images": 100}, {"recipe": with_fields(FAST89, {"translate": 2})}]
)
def test_a_folder_of_another_search_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]
) -> None:
    pretend(monkeypatch, near_tenth)
    tune.tune(make_setting(tmp_path), 1, tmp_path / "out")
    with pytest.raises(UsageError, match=f"another {next(iter(change)).replace('_', ' ')}"):
        tune.tune(make_setting(tmp_path, **change), 2, tmp_path / "out")


def test_a_field_that_recipes_got_since_changes_no_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, near_tenth)
    setting = make_setting(tmp_path)
    tune.tune(setting, 1, tmp_path / "out")
    noted = json.loads((tmp_path / "out" / tune.SETTINGS).read_bytes())
    del noted["recipe"]["proxy_widths"]
    (tmp_path / "out" / tune.SETTINGS).write_text(json.dumps(noted))
    assert len(tune.summarize(tune.tune(setting, 2, tmp_path / "out"), setting)["trials"]) == 2


EARLIER_SPACE = {
    "stages.0.learning_rate": {"low": 0.1, "high": 0.4, "log": True},
    "bias_rate": {"low": 0.01, "high": 0.2, "log": True},
    "easy_share": {"low": 0.0, "high": 0.8},
    "shift": {"low": 0, "high": 3},
    "network.residual": {"choices": [True, False]},
}


@pytest.mark.parametrize("space", [EARLIER_SPACE, None], ids=["another default", "old names"])
def test_a_search_in_the_default_space_of_before_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, space: dict[str, Any] | None
) -> None:
    """It ends with the trials that it would have had then; before, it was refused: "another space"."""
    old = {name: key for key, name in RECIPE_FIELDS.items()}
    named = json.loads(DEFAULT_SPACE.read_bytes())
    space = space or {old.get(name, name): domain for name, domain in named.items()}
    seen = pretend(monkeypatch, near_tenth)
    was = make_setting(tmp_path, space=make_space(tmp_path, space))
    tune.tune(was, 4, tmp_path / "whole")
    tune.tune(was, 2, tmp_path / "out")
    settings, default = tmp_path / "out" / tune.SETTINGS, read_space(DEFAULT_SPACE, FAST89)
    today = make_setting(tmp_path, space=find_space(default, FAST89, settings))
    row = tune.summarize(tune.tune(today, 4, tmp_path / "out"), today)
    assert seen[:4] == seen[4:] and list(row["best"]["fields"]) == list(space)
    other = make_setting(tmp_path, space=find_space(make_space(tmp_path), FAST89, settings))
    with pytest.raises(UsageError, match="another space: choose another --out"):
        tune.tune(other, 4, tmp_path / "out")


def test_a_search_with_the_old_name_of_a_resize_mode_is_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, near_tenth)
    setting = make_setting(tmp_path, resize="center_crop")
    tune.tune(setting, 1, tmp_path / "out")
    path = tmp_path / "out" / tune.SETTINGS
    path.write_text(json.dumps(json.loads(path.read_bytes()) | {"resize": "crop"}))
    assert len(tune.tune(setting, 2, tmp_path / "out").trials) == 2
    with pytest.raises(UsageError, match="another resize"):
        tune.tune(replace(setting, resize="stretch"), 3, tmp_path / "out")


def test_a_search_whose_space_fits_no_more_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, near_tenth)
    setting = make_setting(tmp_path, space=read_space(DEFAULT_SPACE, FAST89))
    tune.tune(setting, 1, tmp_path / "out")
    path = tmp_path / "out" / tune.SETTINGS
    noted = json.loads(path.read_bytes())
    for space, said in (({"gone": {"low": 0.1, "high": 0.2}}, "gone: the recipe fast89 has no"), ([], "is damaged")):
        path.write_text(json.dumps(noted | {"space": space}))
        with pytest.raises(UsageError, match=said):
            find_space(setting.space, FAST89, path)


def test_other_folders_and_damaged_ones_are_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, near_tenth)
    setting = make_setting(tmp_path)
    with pytest.raises(UsageError, match="other things than a search"):
        tune.tune(setting, 1, tmp_path)
    tune.tune(setting, 1, tmp_path / "out")
    (tmp_path / "out" / "tune.db").write_bytes(b"no database" * 1000)
    with pytest.raises(ModelError, match=r"tune\.db cannot be opened"):
        tune.tune(setting, 2, tmp_path / "out")


def test_a_search_killed_at_its_first_write_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the exception for hidden files: "holds other things than a search"."""
    pretend(monkeypatch, near_tenth)
    setting, half = make_setting(tmp_path), tmp_path / "out" / ".tune.json.abc.partial"
    half.parent.mkdir()
    half.write_text("{")
    tune.tune(setting, 1, tmp_path / "out")
    assert (tmp_path / "out" / tune.SETTINGS).is_file() and half.is_file()


def test_a_folder_in_use_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, near_tenth)
    setting = make_setting(tmp_path)
    tune.tune(setting, 1, tmp_path / "out")
    lock = Lock(tmp_path / "out")
    lock.acquire(now())
    with pytest.raises(BusyError, match=f"in use by process {os.getpid()}"):
        tune.tune(setting, 2, tmp_path / "out")
    lock.release()


# --- what is said ------------------------------------------------------------------------------------------------


def test_noise_is_that_of_two_draws() -> None:
    """Against a million pairs of draws: the 97.5th percentile of their difference."""
    draws = np.random.default_rng(0).binomial(5000, 0.9, (2, 1_000_000)) / 5000
    assert tune.noise(0.9, 5000) == pytest.approx(np.quantile(draws[0] - draws[1], 0.975), abs=2e-4)
    assert tune.noise(0.9, 5000) == pytest.approx(stats.norm.ppf(0.975) * math.sqrt(2 * 0.09 / 5000), rel=1e-3)


def test_the_best_is_not_said_to_be_better_than_it_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.90, 0.905, 0.85, 0.895])
    pretend(monkeypatch, lambda recipe: next(scores))
    setting = make_setting(tmp_path)
    row = tune.summarize(tune.tune(setting, 4, tmp_path / "out"), setting)
    assert row["best"]["trial"] == 1 and row["as_good"] == 2  # 0.85 lies further off than 1.15 points
    assert "2 others lie within 1.15%" in tune.describe(row) and "not the recipe's" in tune.describe(row)


def test_the_picture_shows_every_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pretend(monkeypatch, near_tenth)
    setting = make_setting(tmp_path)
    row = tune.summarize(tune.tune(setting, 8, tmp_path / "out"), setting)
    row["trials"].append({"val_accuracy": None, "state": "pruned"})
    history, bars = plots.search(row | {"pruned": 1}).axes
    best_so_far, dots, pruned, failed = (line.get_ydata() for line in history.lines)
    assert list(dots) == [trial["val_accuracy"] for trial in row["trials"][:8]]
    assert list(best_so_far) == list(np.maximum.accumulate(dots)) and (len(pruned), len(failed)) == (1, 0)
    assert [bar.get_width() for bar in bars.patches] == sorted(row["importances"].values())


# --- real processes ----------------------------------------------------------------------------------------------

SMALL = {"label_smoothing": {"low": 0.0, "high": 0.4}, "stages.0.learning_rate": {"low": 0.05, "high": 0.5}}


@pytest.fixture
def words(tmp_path: Path, tiny_recipe: Path, few: str) -> list[str | Path]:
    (tmp_path / "small.json").write_text(json.dumps(SMALL))
    files = ("--space", tmp_path / "small.json", "--out", tmp_path / "t")
    return ["tune", tiny_recipe, *files, "--data", few, "--json"]


def trial_here(setting: Setting, recipe: Recipe) -> Iterator[float]:
    """As `tune.accuracies`, in this process."""
    request = {name: getattr(setting, name) for name in tune.REQUESTED} | {"recipe": recipe.to_json()}
    with redirect_stdout(io.StringIO()) as lines:
        trial.run(request)
    return (json.loads(line)["val_accuracy"] for line in lines.getvalue().splitlines())


@pytest.mark.slow
def test_a_real_search_killed_and_gone_on_with(
    fork: Command, words: list[str | Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in the second trial, which is drawn again."""
    search = Fork(command, *words, "--trials", 2, env=os.environ)
    wait_for_trial(search, 2)
    search.kill()
    search.wait()
    answer = json.loads(fork(*words, "--trials", 2).stdout)
    assert (answer["completed"], answer["failed"], answer["val_images"]) == (2, 0, 40)
    setting = Setting(**json.loads((tmp_path / "t" / "tune.json").read_bytes()) | parsed(tmp_path, words[1]))
    monkeypatch.setattr(tune, "accuracies", trial_here)
    undisturbed = tune.tune(setting, 2, tmp_path / "whole")
    assert answer["trials"] == tune.summarize(undisturbed, setting)["trials"]
    assert (tmp_path / "t" / "tune.png").read_bytes().startswith(b"\x89PNG")
    tuned = Recipe.from_json((tmp_path / "t" / "best.json").read_bytes())
    assert with_fields(tuned, answer["best"]["fields"]) == tuned and tuned.name == "tiny-tuned"


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_an_interrupted_search_says_how_to_resume(words: list[str | Path], number: signal.Signals, code: int) -> None:
    """SIGTERM and Ctrl-C ended it without a word."""
    search = Fork(command, *words, "--trials", 20, env=os.environ)
    wait_for_trial(search, 1)
    search.send_signal(number)
    assert (search.wait(), search.text("out")) == (code, "")
    assert search.text("err").splitlines()[-1] == "stopped after 0 of 20 trials; the same command resumes"


def parsed(folder: Path, path: str | Path) -> dict[str, Any]:
    """What of tune.json is more than plain data."""
    recipe = Recipe.from_json(Path(path).read_bytes())
    return {"recipe": recipe, "space": read_space(folder / "small.json", recipe)}


def wait_for_trial(search: Fork, number: int) -> None:
    """Until the process of the trial of that number is there."""
    seen: set[int] = set()

    def begun() -> bool:
        assert search.poll() is None, search.text("err")
        seen.update(child.pid for child in psutil.Process(search.pid).children())
        return len(seen) >= number

    assert wait_for(begun)


def test_a_bad_trial_is_ended_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five good trials, then one whose first epoch lies below the median of theirs: its second is not waited for."""
    reported = [iter([0.5, 0.8 + number / 100]) for number in range(5)] + [iter([0.4, 0.9])]
    trials = iter(reported)

    @contextmanager
    def process(*_: Any) -> Iterator[SimpleNamespace]:
        lines = (json.dumps({"val_accuracy": accuracy}) for accuracy in next(trials))
        yield SimpleNamespace(stdout=lines, wait=lambda: 0)

    monkeypatch.setattr(tune, "_process", process)
    setting = make_setting(tmp_path)
    row = tune.summarize(tune.tune(setting, 6, tmp_path / "out"), setting)
    assert [trial["state"] for trial in row["trials"]] == ["completed"] * 5 + ["pruned"]
    assert row["best"]["val_accuracy"] == pytest.approx(0.84) and list(reported[5]) == [0.9]


@pytest.mark.slow
def test_a_trial_that_diverges_says_so_and_leaves_its_exit_code(tmp_path: Path, tiny_recipe: Path, few: str) -> None:
    recipe = with_fields(Recipe.from_json(tiny_recipe.read_bytes()), {"optimizer": "adam"})
    space = make_space(tmp_path, {"stages.0.learning_rate": {"low": 1e30, "high": 1e31}}, recipe)
    setting = make_setting(tmp_path, recipe=recipe, val_images=40, space=space, data=few)
    with pytest.raises(DivergedError, match=r"none of 1 trial came through; the last: loss is \w+ at step"):
        tune.tune(setting, 1, tmp_path / "out")


@pytest.mark.slow
def test_a_trial_that_runs_out_of_memory_is_like_one_that_was_killed(tiny_recipe: Path) -> None:
    """As a traceback with exit code 1 it ended the search, and, drawn again, each that went on with it."""
    large = {
        "network.widths": [4096, 16, 16],
        "batch_size": 4000,
        "low_res_fraction": 0.0,
    }  # 33 GB behind its first layer
    recipe = with_fields(Recipe.from_json(tiny_recipe.read_bytes()), large)
    request = {"recipe": recipe.to_json(), "data": "shapes", "size": 32, "resize": "stretch"}
    request |= {"skip_bad": "1%", "labels": "", "label_columns": "", "device": "cpu", "seed": 0}
    line = ["sh", "-c", 'ulimit -v 16000000; exec "$0" -m tenfold.training.trial', sys.executable]
    ended = subprocess.run(line, input=json.dumps(request), capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stderr.splitlines()[-1]) == (trial.KILLED, "out of memory")
    assert trial.KILLED not in tune._FATAL


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--recipe", "x"], 2, "No such option"),
        (["--val-size", "400"], 2, "leaves nothing of 400"),
        (["--space", "missing.json"], 2, "cannot read space missing.json"),
        (["--data", "sounds"], 2, "unknown data set 'sounds'"),
    ],
)
def test_bad_input_is_one_line(invoke: Invoke, words: list[str | Path], more: list[str], code: int, said: str) -> None:
    answer = invoke(*words, "--trials", "2", *more)
    assert (answer.returncode, answer.stdout) == (code, "") and said in answer.stderr
    assert len(answer.stderr.strip().splitlines()) == 1


def test_the_default_space_is_for_the_fast_recipes(invoke: Invoke) -> None:
    assert REFERENCE.optimizer == "adam"
    answer = invoke("tune", "reference", "--trials", 2)
    assert answer.returncode == 2 and "give --space FILE for reference" in answer.stderr
