"""`tenfold.train` and `tenfold.resume`: training, scores, model file and report, as `tenfold train` does it."""

import importlib.util
import operator
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tenfold.api.run import Run
from tenfold.api.source import Source
from tenfold.console import log_info, progress_bars
from tenfold.data import DATASETS, Dataset
from tenfold.data.dataset import SKIP_BAD
from tenfold.errors import TenfoldError, UsageError
from tenfold.evaluation.evaluate import Evaluation, evaluate, write_scores
from tenfold.machine import peak_memory
from tenfold.training import train as training
from tenfold.training.auto_recipe import AUTO, log_choice, resolve_auto
from tenfold.training.balancing import Balance, check_balance
from tenfold.training.callbacks import Callback, report_exception
from tenfold.training.device import select_device
from tenfold.training.distributed import DistContext, joined
from tenfold.training.fitting import choose_recipe, log_size, size_for, with_fine_tuning
from tenfold.training.imbalance import has_rare_classes
from tenfold.training.precision import find_dtype
from tenfold.training.recipe import FineTune, Recipe
from tenfold.training.run import LEFT_OUT, check_new
from tenfold.training.trackers import find_callbacks
from tenfold.training.train import TrainResult
from tenfold.training.unfinished import find_unfinished

RUNS = Path("runs")
Clock = Callable[[], float]
"""Seconds since the start that total_seconds counts from."""


def train(
    recipe: str | Path | Recipe = AUTO,
    data: str | Path | Dataset | None = None,
    out: str | Path | None = None,
    *,
    seed: int = 0,
    device: str = "auto",
    dtype: str = "auto",
    epochs: float | None = None,
    val_size: int | None = None,
    size: int | None = None,
    resize: str = "stretch",
    skip_bad: str = SKIP_BAD,
    labels: str | Path | None = None,
    label_columns: str = "",
    corrections: str | Path | None = None,
    fine_tune: FineTune | None = None,
    balance: Balance | None = None,
    target_error: float | None = None,
    callbacks: Sequence[Callback] = (),
    log: Sequence[str] = (),
    report: bool = True,
    export: bool = True,
    progress: bool = True,
    clock: Clock | None = None,
) -> Run:
    """Train a classifier, score it on the test images, and write its model file and report. Return the run.

    Args:
        recipe: the name of a recipe, the path of a JSON file, or a `Recipe`; auto is `pretrained` for a folder of few
            or of large images, where its extra is installed, else `fast89`.
        data: the name of a data set, by default cifar10, the path of a folder of images, or a `Dataset`.
        out: the run directory to make; by default runs/RECIPE-SEED-TIME.
        seed: random seed of everything.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: number format of convolutions and matrix products: auto (the fastest), bfloat16 or float32.
        epochs: stretch or shrink the recipe to so many epochs.
        val_size: hold out the last so many training images for calibration.
        size, resize, skip_bad: how a folder's images are read, see `tenfold.load`; by default at the size that the
            recipe's network is for.
        labels, label_columns: a CSV or parquet file that names the images in the folder `data`, or by default beside
            it, and their classes, see `tenfold.load`.
        corrections: a CSV file of labels to change and images to leave out, as a run's report saves it.
        fine_tune: of a pretrained network: auto (unless it is clearly worse on held-out images), on or off; by default
            as the recipe says.
        balance: of rare classes (with fewer than half the images of the largest): none, loss (they count more),
            sampling (they come more often) or auto (what is best on held-out images); by default as the recipe says.
        target_error: share of wrong answers that the rejection threshold is to keep, from 0.001 to 0.5.
        callbacks: see `tenfold.Callback`.
        log: names of registered callbacks, such as "tensorboard" and "mlflow".
        report: whether to draw plots and write report.html.
        export: whether to write model.onnx.
        progress: whether to show progress bars, on a terminal or in a notebook.
        clock: where total_seconds begin; by default with this call.

    Raises:
        UsageError: for wrong arguments and a path that exists.
        DataError: where the data cannot be had.
        DivergedError: where the loss is not finite.
        StorageError: where the disk is full or not writable.
    """
    clock, seed = clock or _stopwatch(), _whole("seed", seed, 0)
    source = Source.of(data, labels, label_columns, corrections)
    val_size, size = _whole_or_none("val_size", val_size), _whole_or_none("size", size, 1)
    choice = resolve_auto(recipe, source.images, size, source.labels)
    size = size_for(recipe := with_fine_tuning(choice.recipe, fine_tune), source.images, size)
    chosen = choose_recipe(recipe, epochs, val_size, size=source.pixels(size))
    asked: dict[str, Any] = {"seed": seed, "device": device, "dtype": dtype, "target_error": target_error}
    asked |= {"callbacks": (watching := _find_watchers(callbacks, log)), "balance": check_balance(balance)}
    asked["left_out"] = [name for name, wanted in (("report", report), ("export", export)) if not wanted]
    path = Path(out) if out is not None else RUNS / f"{chosen.name}-{seed}-{time.strftime('%Y%m%d-%H%M%S')}"

    def start(dist: DistContext) -> TrainResult:
        _check_place(path, dist.device(device), dtype)
        dataset = source.load(size, resize, seed, skip_bad, choice.listing)
        log_choice(choice)
        fitted = _fit_to_images(chosen, recipe, epochs, val_size, dataset)
        return training.train(fitted, dataset, path, dist=dist, **asked)

    return _complete(start, _After(watching, report, export, target_error, clock), source.dataset, progress)


def resume(
    out: str | Path | None = None,
    data: str | Path | Dataset | None = None,
    *,
    labels: str | Path | None = None,
    device: str | None = None,
    target_error: float | None = None,
    callbacks: Sequence[Callback] = (),
    log: Sequence[str] = (),
    report: bool | None = None,
    export: bool | None = None,
    progress: bool = True,
    clock: Clock | None = None,
) -> Run:
    """Resume an interrupted run, by default the newest unfinished one in runs/.

    It ends with the same bits as a run that was never interrupted.

    data: where its folder of images is now, or the `Dataset`, where that was made in Python. labels: where its label
    file is now. report, export: by default as when it was started. clock: where this process's part of total_seconds
    begins. The rest as for `train`.
    Raises `ModelError` where there is nothing to resume, `DataError` for other data.
    """
    clock, watching = clock or _stopwatch(), _find_watchers(callbacks, log)
    source = Path(data) if isinstance(data, str) else data

    def start(dist: DistContext) -> TrainResult:
        path = Path(out) if out is not None else find_unfinished(RUNS).path
        return training.resume(path, device, source, dist, watching, labels=Path(labels) if labels else None)

    given = data if isinstance(data, Dataset) else None
    return _complete(start, _After(watching, report, export, target_error, clock), given, progress)


@dataclass(frozen=True)
class _After:
    """What follows training. report, export: None for what the run was started with."""

    callbacks: Sequence[Callback]
    report: bool | None
    export: bool | None
    target_error: float | None
    clock: Clock

    def wants(self, name: Literal["report", "export"], run: Run) -> bool:
        asked: bool | None = getattr(self, name)
        return name not in (run.env.get(LEFT_OUT) or ()) if asked is None else asked


def _complete(
    start: Callable[[DistContext], TrainResult], after: _After, dataset: Dataset | None, progress: bool
) -> Run:
    """Train by `start` in the first of the processes that train together, and do what follows training.

    Scores come first, then the model file and the report. Where the model file cannot be made, the rest is done all the
    same before this is raised. In the other processes, the run that is returned is without scores; `dataset` is theirs
    where it was made in Python.
    """
    with progress_bars(progress):
        with joined() as dist:
            if not dist.first:
                return Run(training.follow(dist, dataset))
            trained = start(dist)
        return _finish(trained, after)


def _finish(trained: TrainResult, after: _After) -> Run:
    run = Run.take_over(trained.run)
    to_export, to_report = after.wants("export", run), after.wants("report", run)
    try:
        with run.unlocked_at_end():
            evaluation = _score(run, trained, after.target_error, after.clock)
            for callback in after.callbacks:
                callback.on_evaluation_end(run)
            if to_export or to_report:
                _add_rejection(run, trained)
            failure = _export(run, trained) if to_export else None
            if to_report:
                _report(run, trained, evaluation)
        for callback in after.callbacks:
            callback.on_run_end(run)
    except BaseException as error:
        report_exception(after.callbacks, trained.trainer, error)
        raise
    if failure:
        raise failure
    return run


def _whole(name: str, value: object, least: int | None = None) -> int:
    """A whole number of any type, NumPy's too. Raises `UsageError`."""
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise UsageError(f"{name} must be a whole number, not {value!r}") from None
    if least is not None and number < least:
        raise UsageError(f"{name} must be {least} or more, not {number}")
    return number


def _whole_or_none(name: str, value: object, least: int | None = None) -> int | None:
    return None if value is None else _whole(name, value, least)


def _find_watchers(callbacks: Sequence[Callback], log: Sequence[str]) -> list[Callback]:
    """The callbacks, then those registered as `log`: what only logs comes last. Raises `UsageError`."""
    for callback in callbacks:
        if not isinstance(callback, Callback):
            raise UsageError(f"callbacks must be tenfold.Callback objects, not {callback!r}")
    return [*callbacks, *find_callbacks([log] if isinstance(log, str) else log)]


def _stopwatch() -> Clock:
    began = time.perf_counter()
    return lambda: time.perf_counter() - began


def _check_place(path: Path, device: str, dtype: str) -> None:
    """Say what is wrong with the run directory, the device or the format before anything is downloaded."""
    find_dtype(dtype)
    check_new(path)
    select_device(device)


def _fit_to_images(
    chosen: Recipe, recipe: str | Path | Recipe, epochs: float | None, val_size: int | None, dataset: Dataset
) -> Recipe:
    """Fit the recipe to the number of images, unless it is a data set by name, and log how that changes it."""
    if dataset.origin is None and dataset.name in DATASETS and DATASETS.find(dataset.name).usual:
        return chosen
    if dataset.val_size and val_size is not None:
        raise UsageError(f"{dataset.name} has validation images of its own: leave --val-size out")
    images, size = len(dataset.train) - dataset.val_size, dataset.train.images.shape[1]
    rare = has_rare_classes(dataset.train.labels)
    log_size(recipe, size)
    fitted = choose_recipe(recipe, epochs, val_size, dataset, size)
    if fitted != chosen and fitted.fine_tune != "off":
        log_info(
            f"recipe fitted to {images:,} images: {fitted.epochs:.4g} epochs in batches of "
            f"{min(fitted.batch_size, images)} (--epochs sets another number)"
            + ("; images of rare classes come more often" if rare and fitted.oversample else "")
        )
    return fitted


def _score(run: Run, trained: TrainResult, target_error: float | None, clock: Clock) -> Evaluation:
    began = time.perf_counter()
    evaluation = evaluate(run, trained.dataset, trained.device_config, target_error=target_error)
    seconds = _measure(trained, time.perf_counter() - began, clock)
    write_scores(run, evaluation, seconds | {"unlearned_classes": list(trained.unlearned_classes)})
    return evaluation


def _measure(trained: TrainResult, evaluation_seconds: float, clock: Clock) -> dict[str, float]:
    """Where the time went, in seconds, up to now; and the most memory held, in bytes.

    Set-up is what comes before the first step, training lasts until the model is saved.
    """
    total = clock() + trained.seconds_before
    return {
        "setup_seconds": total - trained.seconds - evaluation_seconds,
        "train_seconds": trained.seconds,
        "evaluation_seconds": evaluation_seconds,
        "total_seconds": total,
        "peak_memory_bytes": peak_memory(),
    }


def _add_rejection(run: Run, trained: TrainResult) -> None:
    """Fit the distance that `predict --reject` goes by, after the scores, which are waited for."""
    from tenfold.evaluation.distance import add_rejection

    began = time.perf_counter()
    add_rejection(run, trained.dataset, str(trained.device_config.device))
    run.timings["rejection_seconds"] = time.perf_counter() - began


def _export(run: Run, trained: TrainResult) -> TenfoldError | None:
    """Write model.onnx, checked on test images; return what went wrong with it."""
    if importlib.util.find_spec("onnx") is None:
        log_info(f"no model.onnx: onnx is not installed; add the extra 'train', then tenfold export {run.path}")
        return None
    began = time.perf_counter()
    try:
        exported = run.export(data=trained.dataset)
    except TenfoldError as error:
        return type(error)(f"trained and scored, but {error}")
    finally:
        run.timings["export_seconds"] = time.perf_counter() - began
    log_info(f"model for predict and serve: {exported.path}, checked on {exported.verified_images:,} test images")
    return None


def _report(run: Run, trained: TrainResult, evaluation: Evaluation) -> None:
    from tenfold.evaluation.report import write_report

    began = time.perf_counter()
    written = write_report(run, trained.dataset, evaluation)
    log_info(f"report: {', '.join(map(str, reversed(written.files)))}")
    for to in run.recipe.network.also_exported:
        _export_also(run, to, trained.dataset)
    run.timings["report_seconds"] = time.perf_counter() - began


def _export_also(run: Run, to: str, dataset: Dataset) -> None:
    """Write a further model file where the packages for it are installed."""
    from tenfold.serving.exporters import EXPORTERS

    exporter = EXPORTERS.find(to)()
    extra, modules = exporter.extra
    if any(importlib.util.find_spec(module) is None for module in modules):
        log_info(f"no {exporter.file}: add the extra {extra!r}, then tenfold export {run.path} --to {to}")
        return
    log_info(f"model for {exporter.runtime}: {run.export(to, data=dataset).path}")
