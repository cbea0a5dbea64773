"""Many runs, one process each, recipes alternately.

Right before and after each run the machine's speed is measured; a run around which it changed by more than a tenth is
measured again, unless it took long. What can be said of the runs is in `summary`.
"""

import hashlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, fields
from itertools import product
from pathlib import Path
from typing import Annotated, Any

import pydantic
from pydantic import Field, TypeAdapter

from tenfold.console import log_info, progress, resumable
from tenfold.data.resize import with_current_options
from tenfold.errors import DivergedError, ModelError, RunFailedError, UsageError
from tenfold.files import format_object, is_unused, make_folder, note_all_own, parse_object, write_text
from tenfold.scaling.summary import STEADY, Diverged, EvalSplit, Outcome, Timed
from tenfold.training.lock import Lock, now
from tenfold.training.precision import bfloat16_pays
from tenfold.training.recipe import Recipe, with_defaults
from tenfold.training.spec import Share
from tenfold.training.speed import matmul_gflops

TRIES = 3
LONG = 1200.0
"""Seconds from which on a run is not measured again: two moments say little of it, and a try costs too much."""
SETTINGS, RECIPES = "bench.json", "recipes"
_OPTIONS = (
    "RECIPE",
    "DATA",
    "OUT",
    "SEED",
    "DEVICE",
    "DTYPE",
    "EPOCHS",
    "VAL_SIZE",
    "SIZE",
    "FINE_TUNE",
    "RESIZE",
    "SKIP_BAD",
    "TARGET_ERROR",
    "BALANCE",
    "LABELS",
    "CORRECTIONS",
)
"""Of `tenfold train`, as its environment may set them: TENFOLD_… behind a bench's back."""
_PACKAGE = Path(__file__).parents[1]


# What is read of a record; a run's results hold more.
Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
PositiveNumber = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Results(pydantic.BaseModel):
    seed: int
    device: str
    test_accuracy: Share
    val_accuracy: Share | None = None
    total_seconds: PositiveNumber
    setup_seconds: Number
    train_seconds: Number
    evaluation_seconds: Number
    peak_memory_bytes: Number


class _Environment(pydantic.BaseModel):
    cpu: str
    gpu: str | None
    device: str
    dtype: str
    threads: int
    kernels: str | None = None
    """None in records of before there were any."""
    versions: dict[str, str]
    code: str


class _Ended(pydantic.BaseModel):
    results: _Results
    rate_before: PositiveNumber | None
    rate_after: PositiveNumber | None
    environment: _Environment


class _Lost(pydantic.BaseModel):
    seed: int
    reason: str


_RECORD: TypeAdapter[_Ended | _Lost] = TypeAdapter(_Ended | _Lost)


@dataclass(frozen=True)
class Setting:
    """What all runs of a bench share.

    options: words handed on to `tenfold train`. measured_on: the images that accuracies are of. content: the digest of
    the folder that the images come from, None for a data set that has a name.
    """

    options: tuple[str, ...] = ()
    measured_on: EvalSplit = "test"
    content: str | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain data, to be compared with what a folder holds."""
        return {"options": list(self.options), "content": self.content}


def bench(
    recipes: Mapping[str, Recipe], seeds: Sequence[int], out: Path, setting: Setting | None = None
) -> dict[str, list[Outcome]]:
    """Train every recipe with every seed below `out`, recipes alternately; runs found there are not repeated.

    Raises `UsageError` where `out` holds anything else, or runs made with other options, images or recipes;
    `BusyError`; `ModelError` where a record there is damaged; `RunFailedError`.
    """
    setting = setting or Setting()
    done: dict[str, list[Outcome]] = {name: [] for name in recipes}
    progressing = progress("bench", len(seeds) * len(recipes))
    with opened(recipes, out, setting), interruptible(recipes, seeds, out), progressing as bar:
        for seed, name in product(seeds, recipes):
            outcome = run_once(name, seed, out, setting.options)
            done[name].append(outcome)
            bar(1, note=note(name, outcome, setting.measured_on))
    return done


def interruptible(recipes: Iterable[str], seeds: Sequence[int], out: Path) -> AbstractContextManager[None]:
    """Where a bench is interrupted, say how many of its runs are recorded, and how to resume."""
    records = [record_of(name, seed, out) for seed, name in product(seeds, recipes)]
    return resumable("runs", lambda: sum(record.exists() for record in records), len(records))


def note(name: str, outcome: Outcome, on: EvalSplit) -> str:
    """What to show of a run that ended."""
    what = "diverged" if isinstance(outcome, Diverged) else f"{outcome.accuracy(on):.2%}"
    return f"{name} seed {outcome.seed}: {what}"


@contextmanager
def opened(recipes: Mapping[str, Recipe], out: Path, setting: Setting) -> Iterator[None]:
    """Make `out` a bench's folder, or see that its runs can be added to; locked while the block runs.

    Raises as `bench` does.
    """
    make_folder(out)
    values = {name: json.loads(recipe.to_json()) for name, recipe in recipes.items()}
    known = _check_settings(out, values, setting)
    note_all_own(out)
    lock = Lock(out)
    lock.acquire(now())
    try:
        write_text(out / SETTINGS, format_object(setting.to_json() | {"recipes": known | values}))
        for name, recipe in recipes.items():  # runs are made from these: a file of the user's may change meanwhile
            write_text(_recipe_file(name, out), recipe.to_json())
        yield
    finally:
        lock.release()


def _recipe_file(name: str, out: Path) -> Path:
    return out / RECIPES / f"{name}.recipe.json"  # never plain recipe.json, by which a run's folder is known


def _check_settings(out: Path, recipes: dict[str, Any], setting: Setting) -> dict[str, Any]:
    """The recipes of the bench that is there, which is this one or has none. Raises `UsageError` for another."""
    path = out / SETTINGS
    if not path.exists():
        if not is_unused(out):
            raise UsageError(f"{out} holds other things than a bench: choose another --out")
        return {}
    settings = _read(path, "choose another --out")
    known: dict[str, Any] = settings.get("recipes", {})
    if not isinstance(known, dict):
        raise ModelError(f"{path} is damaged: choose another --out")
    known = {name: with_defaults(recipe) for name, recipe in known.items()}
    changed = [f"another {name}" for name, recipe in recipes.items() if known.get(name, recipe) != recipe]
    changed += ["other options"] if _options_of(settings) != list(setting.options) else []
    changed += ["other images in that folder"] if settings.get("content") != setting.content else []
    if not changed:
        return known
    if not any(out.glob("*-*.json")):  # nothing was measured under those settings
        return {}
    raise UsageError(f"{out} holds runs made with {changed[0]}: choose another --out")


def _options_of(settings: dict[str, Any]) -> Any:
    options = settings.get("options")
    return with_current_options(options) if isinstance(options, list) else options


def _read(path: Path, what_helps: str) -> dict[str, Any]:
    try:
        return parse_object(path.read_bytes())
    except ValueError as error:
        raise ModelError(f"{path} is damaged ({error}): {what_helps}") from error


def record_of(name: str, seed: int, out: Path) -> Path:
    """The file that an ended run is recorded in; its run directory has the same name without ending."""
    return out / f"{name}-{seed}.json"


def run_once(name: str, seed: int, out: Path, options: Sequence[str]) -> Outcome:
    """Measure until the machine is steady, a few times at the most, and record the steadiest try beside the run."""
    record = record_of(name, seed, out)
    if record.exists():
        return read_record(record)
    try:
        for timed in _steadier_tries(name, seed, out, options):
            _write(record, timed)  # at once: what ends the next try loses nothing
    except RunFailedError as error:
        if error.exit_code != DivergedError.exit_code:
            raise
        _write(record, Diverged(seed, str(error)))
        log_info(f"{record.stem} diverged: {error}")
    return read_record(record)


def _write(record: Path, outcome: Outcome) -> None:
    write_text(record, json.dumps(asdict(outcome)) + "\n")


def _steadier_tries(name: str, seed: int, out: Path, options: Sequence[str]) -> Iterator[Timed]:
    """Try until one is steady, and give each that is steadier than all before."""
    least = math.inf
    for _ in range(TRIES):
        timed = _measure(name, seed, out, options)
        if timed.speed_drift < least:
            least = timed.speed_drift
            yield timed
        if timed.speed_drift <= STEADY:
            return
        log_info(f"{name}-{seed}: rates {timed.rate_before:.0f} and {timed.rate_after:.0f} GFLOP/s, not steady")
        if timed.seconds() > LONG:
            return


def read_record(path: Path) -> Outcome:
    """What is recorded of an ended run. Raises `ModelError` where that is damaged."""
    again = "remove it to measure again"
    record = _read(path, again)
    try:
        known = _RECORD.validate_python(record)
    except pydantic.ValidationError as error:
        raise ModelError(f"{path} is damaged: {again}") from error
    seed = known.seed if isinstance(known, _Lost) else known.results.seed
    if not path.stem.endswith(f"-{seed}"):
        raise ModelError(f"{path} is of seed {seed}: {again}")
    kind = Diverged if isinstance(known, _Lost) else Timed
    return kind(**{field.name: record[field.name] for field in fields(kind)})  # a later version may note more


def clear(run: Path) -> None:
    """Remove what an interrupted or unsteady try of this bench left. Raises `BusyError` where it is not over."""
    if run.is_dir():
        Lock(run).check()
        shutil.rmtree(run)


def _measure(name: str, seed: int, out: Path, options: Sequence[str]) -> Timed:
    run = record_of(name, seed, out).with_suffix("")
    clear(run)
    words = ("train", "--recipe", str(_recipe_file(name, out)), "--seed", str(seed), "--out", str(run), "--json")
    line = [sys.executable, "-m", "tenfold", *words, "--no-report", "--no-export", *options]
    code = _digest_of_code()  # now, since files may be edited in the hour that a run takes
    before = _rate()
    process = subprocess.run(line, capture_output=True, text=True, check=False, env=_plain_environment())
    after = _rate()
    if process.returncode:
        raise RunFailedError(f"{run.name}: {_reason(process)}", max(process.returncode, 1))
    results, noted = json.loads(process.stdout), _noted(run) | {"code": code}
    if (results["device"], noted["dtype"]) != ("cpu", "bfloat16"):  # of another, this rate says nothing
        before = after = None
    return Timed(results, before, after, noted)


def _plain_environment() -> dict[str, str]:
    """Ours, but for what would change a run unnoticed."""
    hidden = {f"TENFOLD_{name}" for name in _OPTIONS}
    return {name: value for name, value in os.environ.items() if name not in hidden}


def _reason(process: "subprocess.CompletedProcess[str]") -> str:
    """Why a run ended: in its own words, which come last, or by the signal that killed it."""
    if process.returncode < 0:
        return f"its process was killed by signal {-process.returncode}"
    said = [line for line in process.stderr.splitlines() if line.startswith("tenfold: ")]
    return said[-1].removeprefix("tenfold: ") if said else f"it ended with code {process.returncode}"


def _rate() -> float | None:
    """The machine's speed; None where bfloat16 is no faster than float32, and so says nothing of training."""
    return matmul_gflops() if bfloat16_pays() else None


def _noted(run: Path) -> dict[str, Any]:
    """Machine and versions that a run notes."""
    noted = json.loads((run / "env.json").read_bytes())
    return {name: noted.get(name) for name in _Environment.model_fields if name != "code"}


def _digest_of_code() -> str:
    """A digest of tenfold's code, which changes between versions, too."""
    sources = (path for path in _PACKAGE.rglob("*") if path.suffix in (".py", ".c", ".h"))
    code = b"".join(path.read_bytes() for path in sorted(sources))
    return hashlib.sha256(code).hexdigest()[:12]
