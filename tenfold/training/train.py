"""Training in a run directory: a `Trainer` whose callbacks write tables and checkpoints there, and a lock."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from tenfold.console import log_info, plural, warn
from tenfold.data import Dataset, load
from tenfold.data.corrections import CORRECTIONS, apply_corrections, parse_corrections
from tenfold.data.dataset import SKIP_BAD
from tenfold.errors import DataError, ModelError, Terminated
from tenfold.files import write_text
from tenfold.training import kernels
from tenfold.training.balancing import Balance, decide_balance
from tenfold.training.callbacks import Callback, EpochLog, ProgressBar
from tenfold.training.device import DeviceConfig
from tenfold.training.distributed import SINGLE_PROCESS, DistContext
from tenfold.training.environment import describe_environment
from tenfold.training.estimate import announce
from tenfold.training.feature_cache import logits_for
from tenfold.training.fine_tuning import decide_fine_tuning
from tenfold.training.fingerprint import fingerprint, is_own, note_origin
from tenfold.training.fitting import device_for
from tenfold.training.holdout import log_groups, split
from tenfold.training.manifest import LOGS
from tenfold.training.provenance import as_own, reload_dataset
from tenfold.training.recipe import Recipe
from tenfold.training.recorder import Checkpoints, CsvLog
from tenfold.training.run import LEFT_OUT, STOPPED, Run, check_new, device_of
from tenfold.training.split_file import write_split
from tenfold.training.summary import Layer, count_parameters, fold_blocks, summarize
from tenfold.training.target_error import check_target_error
from tenfold.training.trainer import Trainer
from tenfold.training.unlearned import find_unlearned_classes, warn_of_untrained_classes, warn_of_weightless_classes
from tenfold.training.weights import describe_model

SUMMARY_FILE = "summary.txt"
MOST_SHOWN = 20
"""Layers, beyond which the log has a line a block; the file has them all."""


@dataclass(frozen=True)
class TrainResult:
    """A run whose training ended, still locked by this process, and the data it was trained on.

    seconds: from the first step to the saved model, in all processes; seconds_before: those of earlier processes.
    unlearned_classes: names of those of whose training images none is recognised.
    """

    run: Run
    trainer: Trainer
    dataset: Dataset
    device_config: DeviceConfig
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
    dtype: str = "auto",
    dist: DistContext = SINGLE_PROCESS,
    target_error: float | None = None,
    balance: Balance | None = None,
    left_out: Sequence[str] = (),
    callbacks: Iterable[Callback] = (),
) -> TrainResult:
    """Train in the new run directory `out`, and write its manifest; where there are other ranks, as their first.

    target_error: noted for the calibration that follows (`evaluate`), from 0.001 to 0.5. balance: of rare classes, by
    default as the recipe says. left_out: noted for what follows, that a resumed run may leave out the same.

    Ctrl-C and SIGTERM are answered after the current step, with a checkpoint. Raises `UsageError`, `BusyError`,
    `DivergedError`, `StorageError`.
    """
    check_new(out)
    target_error, device_config = check_target_error(target_error), device_for(recipe, dist.device(device), dtype)
    recipe = _decide(recipe, balance, dataset, seed, device_config)
    trainer = _prepare(recipe, dataset, seed, device_config, dist)
    env = describe_environment(dataset.name, seed, device_config, dist) | note_origin(dataset)
    files = {CORRECTIONS: dataset.corrections.content} if dataset.corrections else {}
    env |= {"target_error": target_error, LEFT_OUT: [*left_out] or None}
    run = Run.create(out, trainer.recipe, env, files)
    with run.unlocked_at_end():
        return _train(run, trainer, callbacks)


def _decide(
    recipe: Recipe, balance: Balance | None, dataset: Dataset, seed: int, device_config: DeviceConfig
) -> Recipe:
    """The recipe after the trials that it asks for."""
    try:
        balanced = decide_balance(recipe, balance, dataset, seed, device_config)
        return decide_fine_tuning(balanced, dataset, seed, device_config)
    except (KeyboardInterrupt, Terminated):
        log_info("stopped before training: there is nothing to resume, start it again; features are kept")
        raise


def resume(
    out: Path,
    device: str | None = None,
    data: Dataset | Path | None = None,
    dist: DistContext = SINGLE_PROCESS,
    callbacks: Iterable[Callback] = (),
    *,
    labels: Path | None = None,
) -> TrainResult:
    """Resume the unfinished run `out` from its newest sound checkpoint, with its own recipe, data and seed.

    data: where its folder of images is now, if it moved, or the data set, where that was made in Python; labels: where
    its label file is now. Raises `ModelError` where there is nothing to resume, `DataError` for other data, and as
    `train` does.
    """
    run = Run.open(out)
    run.lock()
    with run.unlocked_at_end():
        if run.scored:
            raise ModelError(f"nothing to resume: {run.path} is finished")
        device_config = device_of(run, dist.device(device or run.env["device"]))
        return _resume(run, device_config, _own_data(run, data, labels), dist, callbacks)


def _resume(
    run: Run,
    device_config: DeviceConfig,
    dataset: Dataset,
    dist: DistContext,
    callbacks: Iterable[Callback],
) -> TrainResult:
    _note_resumption(run, device_config, dataset, dist)
    checkpoint = run.load_checkpoint()
    trainer = _prepare(run.recipe, dataset, run.env["seed"], device_config, dist)
    if checkpoint:
        trainer.restore(checkpoint)
        log_info(f"resuming at step {trainer.step} of {trainer.schedule.total}")
    return _train(run, trainer, callbacks)


def _own_data(run: Run, data: Dataset | Path | None, labels: Path | None) -> Dataset:
    if not isinstance(data, Dataset):
        return reload_dataset(run, data, "tenfold.resume(out, data=dataset)", labels)
    data = as_own(run, data)
    if not is_own(run.env, data):
        raise DataError(f"{data.name} is not what {run.path} was trained on: its last steps would see other images")
    return data


def follow(dist: DistContext, dataset: Dataset | None = None) -> Path:
    """Take part in the training that the first rank leads; return its run directory. Raises as `train` does.

    dataset: where it was made in Python.
    """
    request = dist.broadcast(None)
    names = ("size", "resize", "seed", "bit_depth", "skip_bad", "labels", "label_columns")
    dataset = dataset or load(request["data"], **{name: request[name] for name in names})
    if request["corrections"] is not None:
        dataset = apply_corrections(dataset, parse_corrections(request["corrections"]))
    if (dataset.origin.sha256 if dataset.origin else fingerprint(dataset)) != request["sha256"]:
        raise DataError(f"{request['data']} holds other images than for the first rank: give every node the same")
    recipe = Recipe.from_json(request["recipe"])
    device_config = device_for(recipe, dist.device(request["device"]), request["dtype"])
    trainer = _prepare(recipe, dataset, request["seed"], device_config, dist)
    trainer.restore(dist.broadcast(None))
    trainer.fit()
    return Path(request["out"])


def _lead(trainer: Trainer, run: Run) -> None:
    """Send the other ranks, where there are any, what is trained, and from where on."""
    if trainer.dist.count == 1:
        return
    dataset, origin = trainer.data, trainer.data.origin
    request = {
        "out": str(run.path),
        "recipe": trainer.recipe.to_json(),
        "seed": trainer.seed,
        "device": trainer.device_config.device.type,
        "dtype": trainer.device_config.dtype_name,
        "data": origin.path if origin else dataset.name,
        "size": dataset.train.images.shape[1],
        "resize": dataset.resize,
        "bit_depth": dataset.bit_depth,
        "skip_bad": origin.skip_bad if origin else SKIP_BAD,
        "labels": origin.labels or None if origin else None,
        "label_columns": origin.label_columns if origin else "",
        "corrections": dataset.corrections.content if dataset.corrections else None,
        "sha256": origin.sha256 if origin else fingerprint(dataset),
    }
    log_info(f"{trainer.dist.count} ranks, each with its share of every batch of {trainer.schedule.batch_size} images")
    trainer.dist.broadcast(request)
    trainer.dist.broadcast(trainer.checkpoint())


def _note_resumption(run: Run, device_config: DeviceConfig, dataset: Dataset, dist: DistContext) -> None:
    """Write down where the run resumes, and say what keeps it from ending with the bits of an uninterrupted one."""
    env: dict[str, Any] = {"ranks": 1, "kernels": "PyTorch"} | run.env  # old runs say neither
    here = describe_environment(env["data"], env["seed"], device_config, dist)
    decisive = ("device", "dtype", "threads", "kernels", "ranks", "versions", "cpu")
    changed = [key for key in decisive if env.get(key) != here[key]]
    if changed:
        log_info(f"{', '.join(changed)} changed since this run was started: it resumes, but not bit for bit")
    kept = {name: env.get(name) for name in ("target_error", LEFT_OUT, "started")}
    kept["resumed"] = [*env.get("resumed", []), here["started"]]
    run.write_json("env.json", here | note_origin(dataset) | kept)  # with the place where the folder is now


def _prepare(recipe: Recipe, dataset: Dataset, seed: int, device_config: DeviceConfig, dist: DistContext) -> Trainer:
    trainer = Trainer(recipe, dataset, seed=seed, device=device_config, dist=dist)
    on_cpu = [f"kernels: {kernels.library().reason}"] if device_config.device.type == "cpu" else []
    for reason in [*device_config.reasons, *on_cpu] if dist.first else ():
        log_info(reason)
    if dist.first:
        held_out = trainer.val[1].tolist() if trainer.val else []
        log_groups(trainer.recipe, len(held_out))
        warn_of_untrained_classes(dataset.classes, trainer.class_counts, held_out)
        warn_of_weightless_classes(dataset.classes, trainer.labels, trainer.weights)
    return trainer


def _train(run: Run, trainer: Trainer, callbacks: Iterable[Callback]) -> TrainResult:
    before, dataset = trainer.seconds, trainer.data
    _write_beforehand(run, trainer)
    trainer.log_dir, trainer.should_stop = run.path / LOGS, run.trained  # one that stopped early stays so
    # what is shown comes after what is kept: a terminal may be gone
    trainer.callbacks = [Checkpoints(run), CsvLog(run), ProgressBar(), EpochLog(), *callbacks]
    began = time.perf_counter()
    try:
        trainer.initialize_head()
        announce(trainer)
        _lead(trainer, run)
        trainer.fit()
    except (KeyboardInterrupt, Terminated):
        how = "tenfold" if trainer.dist.count == 1 else "the same torchrun … -m tenfold"
        log_info(f"stopped at step {trainer.step}; to resume: {how} train --resume --out {run.path}")
        raise
    _save_model(run, trainer)
    seconds = before + time.perf_counter() - began
    unlearned = _warn_of_unlearned_classes(trainer, dataset.classes)
    return TrainResult(Run.take_over(run), trainer, dataset, trainer.device_config, seconds, before, unlearned)


def _write_beforehand(run: Run, trainer: Trainer) -> None:
    dataset, layers = trainer.data, summarize(trainer.network, trainer.images.shape[1])
    for line in format_summary(trainer.network, fold_blocks(layers, MOST_SHOWN)).splitlines():
        log_info(line)
    write_text(run.path / SUMMARY_FILE, f"{format_summary(trainer.network, layers)}\n")
    if dataset.origin:
        write_split(run, dataset, *split(dataset, trainer.recipe, trainer.seed))


def _save_model(run: Run, trainer: Trainer) -> None:
    dataset, spec = trainer.data, trainer.recipe.network
    size = dataset.train.images.shape[1]
    description = describe_model(spec, dataset.classes, size, trainer.normalization, dataset.resize, dataset.bit_depth)
    run.save_model(trainer.network, description)
    if not trainer.done:
        run.write_json("env.json", run.env | {STOPPED: trainer.schedule.epoch(trainer.step)})
    run.keep_checkpoints(1)
    run.write_manifest()


def _warn_of_unlearned_classes(trainer: Trainer, classes: Sequence[str]) -> tuple[str, ...]:
    asked = (trainer.network, trainer.images, trainer.labels, trainer.normalization, trainer.device_config)
    found = find_unlearned_classes(*asked, logits_for(trainer.recipe))
    for label in found:
        count = trainer.class_counts[label]
        warn(
            f"class {classes[label]!r} was not learned: none of its {plural(count, 'training image')} is recognised. "
            "Its scores are worth nothing: add images of it, train longer (--epochs), or leave it out"
        )
    return tuple(classes[label] for label in found)


def format_summary(network: nn.Module, layers: Iterable[Layer]) -> str:
    """Layers with output shapes and counts, and the counts of all, as aligned lines."""
    rows = [f"{'layer':24} {'kind':12} {'shape':>12} {'parameters':>12}"]
    for layer in layers:
        shape = "×".join(map(str, layer.shape))
        rows.append(f"{layer.name:24} {layer.kind:12} {shape:>12} {layer.parameters:>12,}")
    total, trained = count_parameters(network), count_parameters(network, trainable=True)
    return "\n".join([*rows, f"{total:,} parameters, {trained:,} of them trained"])
