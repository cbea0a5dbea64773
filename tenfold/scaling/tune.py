"""A search over a recipe's fields, with Optuna: validation images only, one process a trial, bad ones ended early.

All trials train with the same seed, so that they differ by their fields, as far as that goes. A trial's process may
diverge, crash or run out of memory: it then counts as failed, and the search continues. Whatever decides the next trial
is keyed by (seed, a number that no trial before has had), so a search that was killed ends as one that was not.
"""

import itertools
import json
import math
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from tenfold.console import Advance, plural, progress, resumable
from tenfold.data.dataset import SKIP_BAD
from tenfold.data.resize import with_current_resize
from tenfold.errors import DataError, DivergedError, ModelError, RunFailedError, StorageError, UsageError
from tenfold.files import format_object, is_unused, make_folder, note_all_own, parse_object, write_text
from tenfold.scaling.space import Space, fields_of, suggest, with_fields
from tenfold.training.lock import Lock, now
from tenfold.training.recipe import Recipe, with_defaults

if TYPE_CHECKING:
    import optuna

SETTINGS, DATABASE, BEST, PLOT = "tune.json", "tune.db", "best.json", "tune.png"
UNPRUNED = 5
"""Trials that are never ended early: without some, there is no median to fall short of."""
_FATAL = (1, DataError.exit_code, StorageError.exit_code)  # these would end every other trial, too
REQUESTED = ("data", "size", "resize", "device", "seed", "skip_bad", "labels", "label_columns")
"""What a trial's process gets of `Setting`."""


@dataclass(frozen=True)
class Setting:
    """What all trials share.

    val_images: how many images, the last of the training images, they are scored on. content: the digest of the folder
    that the images come from, None for a data set that has a name. skip_bad: how many of its files may be unreadable.
    labels, label_columns: the label file that names its images, "" for none, and what its columns are called.
    """

    recipe: Recipe
    space: Space
    val_images: int
    data: str
    size: int
    resize: str
    device: str
    seed: int
    content: str | None = None
    skip_bad: str = SKIP_BAD
    labels: str = ""
    label_columns: str = ""

    def to_json(self) -> dict[str, Any]:
        """As plain data, to be compared with what a folder holds."""
        shared = {name: getattr(self, name) for name in ("val_images", "content", *REQUESTED)}
        space = {name: asdict(domain) for name, domain in self.space.items()}
        return {"recipe": json.loads(self.recipe.to_json()), "space": space, **shared}


def tune(setting: Setting, trials: int, out: Path) -> "optuna.Study":
    """Try, one after another, until `out` holds so many trials; those found there count.

    The best recipe is written to `out`/best.json. Raises `UsageError` where `out` holds anything else, `BusyError`,
    `DivergedError` where no trial came through, `RunFailedError` where the next trial would fail as well.
    """
    with searching(setting, trials, out) as search:
        while trial := search.ask():
            _try(search, trial)
    return search.study


def _try(search: "Search", trial: "Trial") -> None:
    try:
        with closing(
            accuracies(search.setting, trial.recipe)
        ) as reported:  # ends the process of one that is ended early
            if all(search.report(trial, accuracy) for accuracy in reported):
                search.complete(trial)
    except RunFailedError as error:
        search.fail(trial, error)


@contextmanager
def searching(setting: Setting, trials: int, out: Path) -> Iterator["Search"]:
    """The search in `out`, started or resumed, locked while the block runs; then its best recipe is written."""
    make_folder(out)
    _check_folder(setting, out)
    note_all_own(out)
    lock = Lock(out)
    lock.acquire(now())
    try:
        if not (out / SETTINGS).exists():
            write_text(out / SETTINGS, format_object(setting.to_json()))
        study = _open_study(out)
        stopped = resumable("trials", lambda: len(counted(study)), trials)
        with progress("tune", trials, done=len(counted(study))) as bar, stopped:
            yield Search(study, setting, trials, bar)
    finally:
        lock.release()
    if not completed(study):
        raise DivergedError(f"none of {plural(trials, 'trial')} came through; the last: {_reason(study)}")
    named = {"name": f"{setting.recipe.name[:58]}-tuned"}
    best = with_fields(setting.recipe, fields_of(study.best_trial, setting.space) | named)
    write_text(out / BEST, best.to_json())


def _check_folder(setting: Setting, out: Path) -> None:
    """See that `out` holds this search, or nothing. Raises `UsageError` otherwise, `ModelError` where it is damaged."""
    path, asked = out / SETTINGS, setting.to_json()
    if not path.exists():
        if not is_unused(out):
            raise UsageError(f"{out} holds other things than a search: choose another --out")
        return
    try:
        earlier = parse_object(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path} is damaged ({error}): choose another --out") from error
    usual = {"skip_bad": SKIP_BAD, "labels": "", "label_columns": ""}
    earlier = usual | with_current_resize(earlier) | {"recipe": with_defaults(earlier.get("recipe"))}
    changed = [name for name, value in asked.items() if earlier.get(name) != value]
    if changed:
        raise UsageError(f"{out} holds a search with another {changed[0].replace('_', ' ')}: choose another --out")


def _open_study(out: Path) -> "optuna.Study":
    import optuna
    from sqlalchemy import URL
    from sqlalchemy.exc import SQLAlchemyError

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        return optuna.create_study(
            storage=URL.create("sqlite", database=str((out / DATABASE).resolve())).render_as_string(),
            study_name="tune",
            direction="maximize",
            load_if_exists=True,
        )
    except (SQLAlchemyError, RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{out / DATABASE} cannot be opened ({reason}): choose another --out") from error


@dataclass
class Trial:
    """One set of fields that is tried. recipe: with its validation images."""

    drawn: "optuna.Trial"
    recipe: Recipe
    accuracies: list[float] = field(default_factory=list)


class Search:
    """Suggests the next trial and receives its result."""

    def __init__(self, study: "optuna.Study", setting: Setting, trials: int, bar: Advance):
        import optuna

        for trial in study.get_trials(states=(optuna.trial.TrialState.RUNNING,)):  # of a killed search: drawn again
            study.tell(trial.number, state=optuna.trial.TrialState.FAIL)
        study.pruner = optuna.pruners.MedianPruner(n_startup_trials=UNPRUNED)
        self.study, self.setting, self.bar = study, setting, bar
        self.trials, self.asked = trials, len(counted(study))
        used = {trial.user_attrs.get("key", number) for number, trial in enumerate(counted(study))}
        self.keys = (number for number in itertools.count() if number not in used)

    def ask(self) -> Trial | None:
        """The next trial, drawn by a key of its own; None when there were enough. Fields that make no recipe fail."""
        while self.asked < self.trials:
            drawn = self._draw()
            fields = suggest(drawn, self.setting.recipe, self.setting.space)
            try:
                recipe = with_fields(self.setting.recipe, fields).for_size(self.setting.size)
                recipe = recipe.with_val_size(self.setting.val_images)
            except UsageError as error:
                self._end(drawn, "FAIL", str(error), f"failed: {error}")
            else:
                return Trial(drawn, recipe)
        return None

    def _draw(self) -> "optuna.Trial":
        import optuna

        # constant_liar: trials under way count as bad ones, so that those beside them are drawn elsewhere
        key = next(self.keys)
        self.study.sampler = optuna.samplers.TPESampler(seed=_key(self.setting.seed, key), constant_liar=True)
        self.asked += 1
        drawn = self.study.ask()
        drawn.set_user_attr("key", key)
        return drawn

    def report(self, trial: Trial, accuracy: float) -> bool:
        """Take in an epoch's validation accuracy; whether the trial is worth going on with, else it has ended."""
        trial.drawn.report(accuracy, len(trial.accuracies))
        trial.accuracies.append(accuracy)
        # at its end it has its score
        if len(trial.accuracies) >= math.ceil(trial.recipe.epochs) or not trial.drawn.should_prune():
            return True
        self._end(trial.drawn, "PRUNED", "pruned", "ended early")
        return False

    def complete(self, trial: Trial) -> None:
        """The trial trained to its end; its last accuracy is its score."""
        self.study.tell(trial.drawn, trial.accuracies[-1])
        self.bar(1, note=f"{trial.accuracies[-1]:.2%}, best {self.study.best_value:.2%}")

    def fail(self, trial: Trial, error: RunFailedError) -> None:
        """The trial ended with an error. Raises that where the next would fail as well."""
        if error.exit_code in _FATAL:
            raise error  # the trial stays open, and is drawn again when that is mended
        self._end(trial.drawn, "FAIL", str(error), f"failed: {error}")

    def _end(self, drawn: "optuna.Trial", state: str, reason: str, said: str) -> None:
        import optuna

        drawn.set_user_attr("reason", reason)
        self.study.tell(drawn, state=optuna.trial.TrialState[state])
        self.bar(1, note=said)


def _key(seed: int, number: int) -> int:
    return (seed * 1_000_003 + number) % 2**32


def accuracies(setting: Setting, recipe: Recipe) -> Generator[float]:
    """Train in a process of its own; every epoch's validation accuracy, as it comes. Raises `RunFailedError`."""
    with tempfile.TemporaryFile("w+", errors="replace") as remarks, _process(setting, recipe, remarks) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield float(json.loads(line)["val_accuracy"])
        if code := process.wait():
            remarks.seek(0)
            last = remarks.read().strip().splitlines()[-1:] or [f"its process was killed by signal {-code}"]
            raise RunFailedError(last[0], code)


@contextmanager
def _process(setting: Setting, recipe: Recipe, remarks: IO[str]) -> Iterator[subprocess.Popen[str]]:
    """A trial's process, which does not outlive the block."""
    request = {name: getattr(setting, name) for name in REQUESTED} | {"recipe": recipe.to_json()}
    words = [sys.executable, "-m", "tenfold.training.trial"]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=remarks, text=True) as process:
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(request))
            process.stdin.close()
            yield process
        finally:
            process.kill()


# --- what can be said of it --------------------------------------------------------------------------------------


def counted(study: "optuna.Study") -> Sequence["optuna.trial.FrozenTrial"]:
    """The trials that ended by themselves, in order: completed, ended early, or failed; not those that were killed."""
    return [trial for trial in study.get_trials() if trial.state.name == "COMPLETE" or "reason" in trial.user_attrs]


def completed(study: "optuna.Study") -> Sequence["optuna.trial.FrozenTrial"]:
    """The trials that trained to their end."""
    return [trial for trial in study.get_trials() if trial.state.name == "COMPLETE"]


def _reason(study: "optuna.Study") -> str:
    return str(counted(study)[-1].user_attrs["reason"])


def noise(accuracy: float, images: int) -> float:
    """How far two equally good trials may lie apart at an accuracy on so many images: 1.96 standard errors.

    Of the difference of two independent shares. That they share the images makes it less, that their training draws
    differ makes it more. The share is pulled towards a half by one image on each side, so that 100 % has noise, too.
    """
    share = (accuracy * images + 1) / (images + 2)
    return 1.96 * math.sqrt(2 * share * (1 - share) / images)


def importances(study: "optuna.Study") -> dict[str, float]:
    """How much of the completed trials' variance each field explains (fANOVA, Hutter et al., 2014), the most first.

    Empty for fewer than two of them a field, or where all scored the same: it would be noise.
    """
    import optuna

    whole = completed(study)
    if len(whole) < 2 * len(study.best_params) or len({trial.value for trial in whole}) < 2:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def summarize(study: "optuna.Study", setting: Setting) -> dict[str, Any]:
    """The best trial and its fields, how many others are within noise of it, how trials ended, parameter importance."""
    best = study.best_trial
    assert best.value is not None
    margin = noise(best.value, setting.val_images)
    fields = fields_of(best, setting.space)
    others = [trial for trial in completed(study) if trial.number != best.number]
    states = [trial.state.name for trial in counted(study)]
    return {
        "recipe": setting.recipe.name,
        "best": {"trial": counted(study).index(best), "val_accuracy": best.value, "fields": fields},
        "val_images": setting.val_images,
        "noise": margin,
        "as_good": sum(best.value - (trial.value or 0.0) <= margin for trial in others),
        "completed": states.count("COMPLETE"),
        "pruned": states.count("PRUNED"),
        "failed": states.count("FAIL"),
        "importances": importances(study),
        "trials": [_trial_record(trial, setting.space) for trial in counted(study)],
    }


def _trial_record(trial: "optuna.trial.FrozenTrial", space: Space) -> dict[str, Any]:
    return {
        "val_accuracy": trial.value if trial.state.name == "COMPLETE" else None,
        "state": {"COMPLETE": "completed", "PRUNED": "pruned", "FAIL": "failed"}[trial.state.name],
        "reason": trial.user_attrs.get("reason"),
        "fields": fields_of(trial, space),
    }


def describe(row: dict[str, Any]) -> str:
    """Say a `summarize` in a few lines, and what it does not show."""
    best = row["best"]
    fields = "\n".join(f"  {name}: {json.dumps(_short(value))}" for name, value in best["fields"].items())
    return (
        f"trial {best['trial']} did best: {best['val_accuracy']:.2%} of {row['val_images']:,} validation images, with\n"
        f"{fields}\n"
        f"{row['completed']} trials completed, {row['pruned']} ended early, {row['failed']} failed\n"
        f"{row['as_good']} others lie within {row['noise']:.2%} of it, the noise of so few images, and may be as good; "
        "the best of many is better by luck, too: its figure here is not the recipe's"
    )


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
