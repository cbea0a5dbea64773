"""The same on many machines: the one place that knows Ray.

Runs, and shards of images, are Ray tasks, each with its own request for CPUs and GPUs; where a worker or its node dies,
Ray starts the task again elsewhere. Every node needs tenfold with the extras `train` and `cluster` (for a search, also
`tune`), and has the data or fetches it. Nothing is reported to Ray's makers: its usage statistics are switched off
before it is imported.
"""

import contextlib
import functools
import json
import logging
import os
import platform
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import chain, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tenfold.console import log_info, progress, resumable
from tenfold.data import load
from tenfold.errors import DataError, RunFailedError, TenfoldError, UsageError
from tenfold.files import is_unused, make_folder, note_all_own, write_bytes, write_text
from tenfold.scaling import address as addressing
from tenfold.scaling import bench as benching
from tenfold.scaling import tune as tuning
from tenfold.scaling.shards import Shard, ShardResult, find_shards, predict_shard, read_result
from tenfold.scaling.summary import Outcome, Timed
from tenfold.scaling.tune import Setting
from tenfold.serving.predictor import Predictor, open_bytes
from tenfold.serving.resumable import Count
from tenfold.training.lock import Lock, now
from tenfold.training.recipe import Recipe

if TYPE_CHECKING:
    from types import ModuleType

    import optuna

RETRIES = 5


@dataclass(frozen=True)
class Request:
    """What each run asks of its node: CPUs, which are its threads, and GPUs."""

    cpus: int
    gpus: int = 0


@contextlib.contextmanager
def connected(address: str) -> Iterator["ModuleType"]:
    """Ray, connected to the cluster at HOST:PORT, or `auto`: the one that this machine belongs to.

    Raises `UsageError` within seconds where there is none.
    """
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault(
        "RAY_BACKEND_LOG_LEVEL", "fatal"
    )  # what it warns of on standard error is said here, in a line
    if address != "auto":
        addressing.check(address)
    import ray

    try:
        found = addressing.find(ray, address)
        ray.init(address=found, log_to_driver=False, logging_level=logging.CRITICAL)
    except (ConnectionError, ValueError, TimeoutError, ray.exceptions.RayError) as error:
        raise (addressing.missing if address == "auto" else addressing.foreign)(address) from error
    except RuntimeError as error:  # versions of Ray or Python differ, for example
        reason = str(error).strip().splitlines()[0]
        raise UsageError(f"{addressing.missing(address)} ({reason})") from error
    with contextlib.redirect_stdout(sys.stderr):  # Ray prints there what it says of nodes that died, at its end, too
        try:
            yield ray
        finally:
            ray.shutdown()


def bench(
    recipes: Mapping[str, Recipe],
    seeds: Sequence[int],
    out: Path,
    setting: benching.Setting,
    data: tuple[str, int, str, str],
    address: str,
    request: Request,
) -> dict[str, list[Outcome]]:
    """As `bench.bench`, with the same files below `out`, on the cluster at `address`; runs found there are kept.

    data: what every node loads before it measures: name, size, resize, skip_bad. Raises as that does.
    """
    with connected(address) as ray:
        _capacity(ray, request)
        with benching.opened(recipes, out, setting), benching.interruptible(recipes, seeds, out):
            pairs = [(name, seed) for seed, name in product(seeds, recipes)]
            todo = [pair for pair in pairs if not benching.record_of(*pair, out).exists()]
            remote = ray.remote(num_cpus=request.cpus, num_gpus=request.gpus, max_retries=RETRIES)(measure)
            tasks = {
                remote.remote(recipes[name].to_json(), name, seed, setting, data, request.cpus): (name, seed)
                for name, seed in todo
            }
            with progress("bench", len(pairs), done=len(pairs) - len(todo)) as bar:
                while tasks:
                    (done, *_), _ = ray.wait(list(tasks))
                    name, seed = tasks.pop(done)
                    outcome = _keep(_result(ray, done, f"{name}-{seed}"), name, seed, out)
                    bar(1, note=benching.note(name, outcome, setting.measured_on))
    return benching.bench(recipes, seeds, out, setting)  # every record is there now


def _capacity(ray: "ModuleType", request: Request) -> int:
    """How many runs fit on the cluster's nodes at once. Raises `UsageError` for none: it would wait for ever."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    by_cpu = [int(node.get("CPU", 0)) // request.cpus for node in nodes]
    by_gpu = [int(node.get("GPU", 0)) // request.gpus for node in nodes] if request.gpus else by_cpu
    capacity = sum(map(min, by_cpu, by_gpu))
    if not capacity:
        gpus = f" and {request.gpus} GPU" if request.gpus else ""
        raise UsageError(f"no node of the cluster has {request.cpus} CPUs{gpus}: ask for fewer with --cpus")
    return capacity


def measure(
    recipe: str, name: str, seed: int, setting: benching.Setting, data: tuple[str, int, str, str], threads: int
) -> dict[str, Any]:
    """On a node: one run, measured as on one machine; its record and its files, or its error and exit code.

    Errors are values, not raised: Ray would wrap them, and a run that fails fails again.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    dataset, size, resize, skip_bad = data
    with tempfile.TemporaryDirectory(prefix="tenfold-") as folder:
        out = Path(folder)
        try:
            origin = load(dataset, size=size, resize=resize, skip_bad=skip_bad).origin
            if origin and origin.sha256 != setting.content:
                raise DataError(f"{dataset} holds other images on the node {platform.node()}")
            with benching.opened({name: Recipe.from_json(recipe)}, out, setting):
                benching.run_once(name, seed, out, setting.options)
        except TenfoldError as error:
            return {"error": str(error), "exit_code": error.exit_code}
        record = benching.record_of(name, seed, out)
        run = record.with_suffix("")
        files = {file.relative_to(run).as_posix(): file.read_bytes() for file in _visible(run)}
        return {"record": record.read_bytes(), "files": files}


def _visible(run: Path) -> Iterator[Path]:
    """All but what is hidden and the checkpoints, which a finished run needs no more."""
    files = (file for file in run.rglob("*") if file.is_file() and not file.name.startswith("."))
    return (file for file in files if file.parent.name != "checkpoints")


def _result(ray: "ModuleType", task: Any, name: str) -> dict[str, Any]:
    """What a task returned. Raises `RunFailedError` where it failed, or its workers died again and again."""
    try:
        result: dict[str, Any] = ray.get(task)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().splitlines()[0]
        raise RunFailedError(f"{name} failed on the cluster ({reason})", 1) from error
    if "error" in result:
        raise RunFailedError(result["error"], result["exit_code"])
    return result


def _keep(result: dict[str, Any], name: str, seed: int, out: Path) -> Outcome:
    """Write a run's files, and then its record, where a local bench has them; say if its node differs from here."""
    record = benching.record_of(name, seed, out)
    run = record.with_suffix("")
    benching.clear(run)
    for file, content in result["files"].items():
        write_bytes(run / file, content)
    write_bytes(record, result["record"])
    outcome = benching.read_record(record)
    if isinstance(outcome, Timed):
        there = outcome.environment["versions"]
        other = [f"{name} {there[name]}" for name in ("tenfold", "torch") if there[name] != version(name)]
        if other:
            log_info(f"{run.name} was made with {', '.join(other)}, unlike here: its numbers may differ")
    return outcome


# --- a search ----------------------------------------------------------------------------------------------------


def tune(setting: Setting, trials: int, out: Path, address: str, request: Request) -> "optuna.Study":
    """As `tune.tune`, with as many trials at once as the cluster at `address` has capacity for. Raises as that does.

    Which fields a trial draws depends on those that have ended by then, and so on the order in which they do.
    """
    with connected(address) as ray:
        capacity = _capacity(ray, request)
        with tuning.searching(setting, trials, out) as search:
            _search(ray, search, request, capacity)
    return search.study


def _search(ray: "ModuleType", search: tuning.Search, request: Request, capacity: int) -> None:
    """Keep so many trials under way until the search has no more of them."""
    remote = ray.remote(num_cpus=request.cpus, num_gpus=request.gpus, max_retries=RETRIES)(try_remotely)
    running: dict[Any, tuning.Trial] = {}
    while True:
        while len(running) < capacity and (trial := search.ask()):
            running[remote.remote(search.setting, trial.recipe, request.cpus)] = trial
        if not running:
            break
        (stream, *_), _ = ray.wait(list(running))
        if not _has_more(ray, stream, running[stream], search):
            del running[stream]


def _has_more(ray: "ModuleType", stream: Any, trial: tuning.Trial, search: tuning.Search) -> bool:
    """Take in what a trial says next; whether there is more to come."""
    try:
        result = _result(ray, next(stream), f"trial {trial.drawn.number}")
    except StopIteration:
        search.complete(trial)
        return False
    except RunFailedError as error:
        search.fail(trial, error)
        return False
    if search.report(trial, result["accuracy"]):
        return True
    ray.cancel(stream)
    return False


def try_remotely(setting: Setting, recipe: Recipe, threads: int) -> Iterator[dict[str, Any]]:
    """On a node: a trial's validation accuracies, as they come, or an error and its exit code, as `measure`."""
    os.environ["OMP_NUM_THREADS"] = str(threads)
    try:
        with contextlib.closing(tuning.accuracies(setting, recipe)) as reported:
            yield from ({"accuracy": accuracy} for accuracy in reported)
    except TenfoldError as error:
        yield {"error": str(error), "exit_code": error.exit_code}


# --- very many images --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PredictJob:
    """What is asked of every image, of which model (its file's digest), and by what that is run on every node."""

    source: str
    column: str
    top: int
    reject: bool
    digest: str
    runtime: str

    def claim_folder(self, out: Path) -> None:
        """Make `out` the folder of these answers, or see that it is. Raises `UsageError`, `StorageError`."""
        path = out / "request.json"
        make_folder(out)
        if not path.exists():
            if not is_unused(out):
                raise UsageError(f"{out} holds other things: choose another --out")
            note_all_own(out)
            write_text(path, json.dumps(asdict(self)) + "\n")
        elif path.read_text() != json.dumps(asdict(self)) + "\n":
            raise UsageError(f"{out} was started with another request: ask the same, or choose another --out")


def predict(job: PredictJob, model: bytes, out: Path, address: str) -> Count:
    """Answer all images of a source into parquet files below `out`, a shard each; count them, and name the bad ones.

    A file is there whole or not at all, and one that is there is not made again: so each image is answered once,
    whoever dies. Raises `DataError`, `UsageError`, `BusyError`, `StorageError`, `RunFailedError`.
    """
    shards = find_shards(job.source, job.column)
    first = next(shards)  # before anything is written: the source may not be there
    job.claim_folder(out)
    lock, count = Lock(out), Count()
    lock.acquire(now())
    try:
        stopped = resumable("images", lambda: count.inputs)
        with connected(address) as ray, progress("predicting", None) as bar, stopped:
            for result in _predict_shards(ray, chain([first], shards), job, model, out):
                for path, error in result.errors:
                    log_info(f"{path}: {error}")
                count.inputs, count.bad = count.inputs + result.rows, count.bad + len(result.errors)
                bar(result.rows)
    finally:
        lock.release()
    return count


def _predict_shards(
    ray: "ModuleType", shards: Iterable[Shard], job: PredictJob, model: bytes, out: Path
) -> Iterator[ShardResult]:
    """The result of every shard, as they come. A task gets a node to itself; twice as many as fit are under way."""
    nodes = [node["Resources"].get("CPU", 0) for node in ray.nodes() if node["Alive"]]
    cpus = int(min((count for count in nodes if count), default=1))  # a head may have none
    most = 2 * max(1, int(ray.cluster_resources()["CPU"]) // cpus)
    kept = ray.put(model)
    remote = ray.remote(num_cpus=cpus, max_retries=RETRIES)(predict_remotely)
    tasks: dict[Any, Path] = {}
    for number, shard in enumerate(shards):
        path = out / f"part-{number:08d}.parquet"
        if path.exists():
            yield _read_existing(path, shard)
            continue
        tasks[remote.remote(kept, job, shard)] = path
        if len(tasks) == most:
            yield _await_one(ray, tasks)
    while tasks:
        yield _await_one(ray, tasks)


def _read_existing(path: Path, shard: Shard) -> ShardResult:
    result = read_result(path)
    if result.shard != shard.digest:
        raise UsageError(f"{path} was made of other inputs than are there now: choose another --out")
    return result


def _await_one(ray: "ModuleType", tasks: dict[Any, Path]) -> ShardResult:
    (done, *_), _ = ray.wait(list(tasks))
    path = tasks.pop(done)
    content = _result(ray, done, path.stem)["content"]
    write_bytes(path, content)
    return read_result(content)


def predict_remotely(model: bytes, job: PredictJob, shard: Shard) -> dict[str, Any]:
    """On a node: the parquet file of a shard, or an error and its exit code, as `measure`."""
    try:
        return {"content": predict_shard(_classifier(model, job.runtime), shard, job.top, job.reject)}
    except TenfoldError as error:
        return {"error": str(error), "exit_code": error.exit_code}


@functools.lru_cache(maxsize=1)
def _classifier(model: bytes, runtime: str) -> Predictor:
    return open_bytes(model, "the model", runtime)
