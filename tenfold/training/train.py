"""Training in a run directory: `fit` with checkpoints, logs and a lock."""

import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tenfold.console import progress, remark, warn
from tenfold.data import Dataset, load
from tenfold.data.dataset import SKIP_BAD
from tenfold.errors import DataError, ModelError, Terminated
from tenfold.files import write_text
from tenfold.training.device import DeviceConfig, cpu_features, select_device
from tenfold.training.distributed import SINGLE_PROCESS, DistContext
from tenfold.training.lock import now
from tenfold.training.model import count_parameters, summarize
from tenfold.training.provenance import is_own, note_origin, reload_dataset, write_split
from tenfold.training.recipe import Recipe
from tenfold.training.run import Run, check_new, check_target_error
from tenfold.training.signals import DeferredSignals
from tenfold.training.trainer import Trainer, split
from tenfold.training.unlearned import find_unlearned_classes, warn_of_untrained_classes
from tenfold.training.weights import describe_model

SUMMARY_FILE = "summary.txt"
CHECKPOINT_SECONDS = 5.0
CHECKPOINT_SHARE = 0.01
"""A checkpoint is due when this many seconds have passed and when it costs at most this share of them."""


@dataclass(frozen=True)
class TrainResult:
    """A run whose training ended, still locked by this process, and the data it was trained on.

    seconds: from the first step to the saved model, in all processes; seconds_before: those of earlier processes.
    unlearned_classes: names of those of whose training images none is recognised.
    """

    run: Run
    dataset: Dataset
    plan: DeviceConfig
    seconds: float
    seconds_before: float
    unlearned_classes: tuple[str, ...]


def train(
    recipe: Recipe,
    dataset: Dataset,
    out: Path,
    *,
    seed: int = 0,
    device: str = "auto",
    ranks: DistContext = SINGLE_PROCESS,
    target_error: float | None = None,
) -> TrainResult:
    """Train in the new run directory `out`, and seal it; where there are other ranks, as their first.

    target_error: noted for the calibration that follows (`evaluate`), from 0.001 to 0.5.

    Ctrl-C and SIGTERM are answered after the current step, with a checkpoint. Raises `UsageError`, `BusyError`,
    `DivergedError`, `StorageError`.
    """
    check_new(out)
    target_error, plan = check_target_error(target_error), select_device(ranks.device(device))
    if dataset.val_size:
        recipe = recipe.with_val_size(dataset.val_size)
    trainer = _prepare(recipe, dataset, seed, plan, ranks)
    env = describe_environment(dataset.name, seed, plan, ranks) | note_origin(dataset)
    run = Run.create(out, recipe, env | {"target_error": target_error})
    return _train(run, trainer, dataset)


def resume(
    out: Path, device: str | None = None, data: Dataset | Path | None = None, ranks: DistContext = SINGLE_PROCESS
) -> TrainResult:
    """Go on with the unfinished run `out` from its newest sound checkpoint, with its own recipe, data and seed.

    data: where its folder of images is now, if it moved, or the data set, where that was made in Python. Raises
    `ModelError` where there is nothing to resume, `DataError` for other data, and as `train` does.
    """
    run = Run.open(out)
    run.lock()
    if run.scored:
        raise ModelError(f"nothing to resume: {out} is finished")
    env = run.env
    plan, dataset = select_device(ranks.device(device or env["device"])), _own_data(run, data)
    _note_resumption(run, plan, dataset, ranks)
    checkpoint = run.load_checkpoint()
    trainer = _prepare(run.recipe, dataset, env["seed"], plan, ranks)
    if checkpoint:
        trainer.restore(checkpoint)
        remark(f"going on at step {trainer.step} of {trainer.schedule.total}")
    return _train(run, trainer, dataset)


def _own_data(run: Run, data: Dataset | Path | None) -> Dataset:
    if not isinstance(data, Dataset):
        return reload_dataset(run, data, "tenfold.training.train.resume(out, data=dataset)")
    if not is_own(run.env, data):
        raise DataError(f"{data.name} is not what {run.path} was trained on: its last steps would see other images")
    return data


def follow(ranks: DistContext) -> None:
    """Take part in the training that the first rank has begun, and write nothing. Raises as `train` does."""
    request = ranks.broadcast(None)
    names = ("size", "resize", "seed", "bit_depth", "skip_bad")
    dataset = load(request["data"], **{name: request[name] for name in names})
    if dataset.origin and dataset.origin.sha256 != request["sha256"]:
        raise DataError(f"{request['data']} holds other images than for the first rank: give every node the same")
    recipe, plan = Recipe.from_json(request["recipe"]), select_device(ranks.device(request["device"]))
    trainer = _prepare(recipe, dataset, request["seed"], plan, ranks)
    trainer.restore(ranks.broadcast(None))
    with DeferredSignals() as held:
        while not trainer.done:
            trainer.train_step()
            if ranks.any(held.waiting):
                held.raise_pending()


def _lead(trainer: Trainer, dataset: Dataset) -> None:
    """Tell other ranks, where there are any, what is trained, and from where on."""
    if trainer.ranks.count == 1:
        return
    origin = dataset.origin
    request = {
        "recipe": trainer.recipe.to_json(),
        "seed": trainer.seed,
        "device": trainer.plan.device.type,
        "data": origin.path if origin else dataset.name,
        "size": dataset.train.images.shape[1],
        "resize": dataset.resize,
        "bit_depth": dataset.bit_depth,
        "skip_bad": origin.skip_bad if origin else SKIP_BAD,
        "sha256": origin.sha256 if origin else None,
    }
    remark(f"{trainer.ranks.count} ranks, each with its share of every batch of {trainer.schedule.batch_size} images")
    trainer.ranks.broadcast(request)
    trainer.ranks.broadcast(trainer.checkpoint())


def _note_resumption(run: Run, plan: DeviceConfig, dataset: Dataset, ranks: DistContext) -> None:
    """Write down where the run goes on, and say what keeps it from ending with the bits of an uninterrupted one."""
    env = {"ranks": 1} | run.env
    here = describe_environment(env["data"], env["seed"], plan, ranks)
    changed = [key for key in ("device", "dtype", "threads", "ranks", "versions", "cpu") if env.get(key) != here[key]]
    if changed:
        remark(f"{', '.join(changed)} changed since this run was begun: it goes on, but not bit for bit")
    kept = {"target_error": env.get("target_error"), "started": env.get("started")}
    kept["resumed"] = [*env.get("resumed", []), here["started"]]
    run.write_json("env.json", here | note_origin(dataset) | kept)  # with the place where the folder is now


def _prepare(recipe: Recipe, dataset: Dataset, seed: int, plan: DeviceConfig, ranks: DistContext) -> Trainer:
    images, val = split(dataset.train, recipe, seed)
    for reason in plan.reasons if ranks.first else ():
        remark(reason)
    if ranks.first:
        warn_of_untrained_classes(dataset.classes, images, val)
    return Trainer(recipe, images, len(dataset.classes), val=val, seed=seed, plan=plan, ranks=ranks)


def _train(run: Run, trainer: Trainer, dataset: Dataset) -> TrainResult:
    before, summary = trainer.seconds, format_summary(trainer.network, trainer.images.shape[1])
    for line in summary.splitlines():
        remark(line)
    write_text(run.path / SUMMARY_FILE, f"{summary}\n")
    if dataset.origin:
        write_split(run, dataset, *split(dataset.train, trainer.recipe, trainer.seed))
    _lead(trainer, dataset)
    began = time.perf_counter()
    try:
        _take_all_steps(trainer, run)
    except (KeyboardInterrupt, Terminated):
        how = "tenfold" if trainer.ranks.count == 1 else "the same torchrun … -m tenfold"
        remark(f"stopped at step {trainer.step}; go on with: {how} train --resume --out {run.path}")
        raise
    write_logs(run, trainer)
    size, classes, spec = dataset.train.images.shape[1], dataset.classes, trainer.recipe.network
    description = describe_model(spec, classes, size, trainer.pixels, dataset.resize, dataset.bit_depth)
    run.save_model(trainer.network, description)
    run.keep_checkpoints(1)
    run.write_manifest()
    seconds = before + time.perf_counter() - began
    return TrainResult(
        run, dataset, trainer.plan, seconds, before, _warn_of_unlearned_classes(trainer, dataset.classes)
    )


def _warn_of_unlearned_classes(trainer: Trainer, classes: Sequence[str]) -> tuple[str, ...]:
    found = find_unlearned_classes(trainer.network, trainer.images, trainer.labels, trainer.pixels, trainer.plan)
    for label in found:
        count = trainer.class_counts[label]
        warn(
            f"class {classes[label]!r} was not learned: none of its {count:,} training images is recognised. "
            "Its scores are worth nothing: add images of it, train longer (--epochs), or leave it out"
        )
    return tuple(classes[label] for label in found)


def _take_all_steps(trainer: Trainer, run: Run) -> None:
    keeper = _Keeper(run)
    schedule = trainer.schedule
    images = schedule.total * schedule.batch_size
    done = trainer.step * schedule.batch_size
    with DeferredSignals() as held, progress("training", images, done=done) as bar:
        while not trainer.done:
            began = time.perf_counter()
            trainer.train_step()
            loss, accuracy = trainer.log[trainer.step - 1].tolist()
            rate = schedule.batch_size / (time.perf_counter() - began)
            bar(schedule.batch_size, note=f"loss {loss:.3f}  accuracy {accuracy:.1%}  {rate:,.0f} images/s")
            if trainer.step % schedule.steps_per_epoch == 0 or trainer.done:
                _report_epoch(trainer)
                write_logs(run, trainer)
            keeper.save(trainer, now=trainer.done)
            if trainer.ranks.any(held.waiting):
                keeper.save(trainer, now=True)
                held.raise_pending()


class _Keeper:
    """Saves checkpoints often enough to lose little, and seldom enough to cost little."""

    def __init__(self, run: Run):
        self.run = run
        self.last, self.cost = time.perf_counter(), 0.0
        self.step: int | None = None

    def save(self, trainer: Trainer, now: bool) -> None:
        """Save if one is due, or `now`, unless this step is saved already."""
        began = time.perf_counter()
        if trainer.step == self.step:
            return
        if not now and began - self.last < max(CHECKPOINT_SECONDS, self.cost / CHECKPOINT_SHARE):
            return
        self.run.save_checkpoint(trainer.checkpoint())
        self.step, self.last = trainer.step, time.perf_counter()
        self.cost = self.last - began


def _report_epoch(trainer: Trainer) -> None:
    row = trainer.epochs[-1]
    line = f"epoch {row['epoch']:g}: loss {row['train_loss']:.4f}, accuracy {row['train_accuracy']:.2%}"
    if not math.isnan(row["val_accuracy"]):
        line += f"; validation loss {row['val_loss']:.4f}, accuracy {row['val_accuracy']:.2%}"
    remark(f"{line}; {row['seconds']:.1f} s")


def write_logs(run: Run, trainer: Trainer) -> None:
    """Write metrics.csv (a row an epoch) and steps.csv (a row a step)."""
    steps = [
        {"step": step, "epoch": trainer.schedule.epoch(step), "loss": loss, "accuracy": accuracy}
        for step, (loss, accuracy) in enumerate(trainer.log[: trainer.step].tolist(), start=1)
    ]
    write_text(run.path / "metrics.csv", _to_csv(trainer.epochs))
    write_text(run.path / "steps.csv", _to_csv(steps))


def _to_csv(rows: Sequence[Mapping[str, float]]) -> str:
    """Rows of the same columns, six significant digits each; nan is an empty cell."""
    lines = [rows[0].keys(), *(("" if math.isnan(value) else f"{value:.6g}" for value in row.values()) for row in rows)]
    return "".join(",".join(line) + "\n" for line in lines)


def format_summary(network: nn.Module, size: int) -> str:
    """Layers with output shapes and counts, and the counts of all, as aligned lines."""
    rows = [f"{'layer':24} {'kind':12} {'shape':>12} {'parameters':>12}"]
    for layer in summarize(network, size):
        shape = "×".join(map(str, layer.shape))
        rows.append(f"{layer.name:24} {layer.kind:12} {shape:>12} {layer.parameters:>12,}")
    total, trained = count_parameters(network), count_parameters(network, trainable=True)
    return "\n".join([*rows, f"{total:,} parameters, {trained:,} of them trained"])


def describe_environment(
    data: str, seed: int, plan: DeviceConfig, ranks: DistContext = SINGLE_PROCESS
) -> dict[str, Any]:
    """What a run needs to be repeated: seed, data, device, versions, platform."""
    packages = ("tenfold", "torch", "numpy")
    return {
        "seed": seed,
        "data": data,
        "device": str(plan.device),
        "dtype": plan.dtype_name,
        "threads": plan.threads,
        "ranks": ranks.count,
        "reasons": list(plan.reasons),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "platform": platform.platform(),
        "cpu": cpu_features().get("cpu_name", platform.processor()),
        "gpu": torch.cuda.get_device_name(plan.device) if plan.device.type == "cuda" else None,
        "started": now(),
    }
