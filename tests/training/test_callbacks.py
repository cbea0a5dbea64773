"""Callbacks: when hooks are called, that watching changes no bit, early stopping, TensorBoard and MLflow."""

import math
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import tenfold
from tenfold.errors import DivergedError, UsageError
from tenfold.training.callbacks import Callback, EarlyStopping
from tenfold.training.lock import Lock
from tenfold.training.recipe import Stage
from tenfold.training.run import Run
from tenfold.training.trainer import EpochMetrics, Trainer
from tests.support.short_run import DATASET, RECIPE


class Recorder(Callback):
    """Notes every hook that is called, and draws random numbers meanwhile."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def note(self, text: str) -> None:
        self.calls.append(text)
        torch.rand(3), np.random.random(3)

    def on_fit_start(self, trainer: Trainer) -> None:
        self.note(f"fit start {trainer.step}")

    def on_step_end(self, trainer: Trainer) -> None:
        self.note(f"step {trainer.step}")

    def on_epoch_end(self, trainer: Trainer, metrics: EpochMetrics) -> None:
        self.note(f"epoch {metrics.epoch:g}")

    def on_fit_end(self, trainer: Trainer) -> None:
        self.note("interrupted" if trainer.interrupted else "fit end")

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        self.note(type(error).__name__)

    def on_evaluation_end(self, run: Run) -> None:
        self.note(f"evaluation {run.scored}")

    def on_run_end(self, run: Run) -> None:
        self.note(f"run {(run.path / 'report.html').is_file()}")


def weights(trainer: Trainer) -> list[torch.Tensor]:
    return list(trainer.network.state_dict().values())


def test_hooks_are_called_in_order_of_steps_and_epochs() -> None:
    recorder = Recorder()
    Trainer(replace(RECIPE, stages=(Stage(1.4, 0.1, 0.0),)), DATASET, [recorder]).fit()
    steps = [f"step {number}" for number in range(1, 8)]  # 5 steps an epoch
    assert recorder.calls == ["fit start 0", *steps[:5], "epoch 1", *steps[5:], "epoch 1.4", "fit end"]


def test_callbacks_that_watch_change_no_bit(tmp_path: Path) -> None:
    plain = Trainer(RECIPE, DATASET, seed=1).fit()
    watching = [Recorder(), tenfold.EarlyStopping(patience=100), find("tensorboard")]
    watched = Trainer(RECIPE, DATASET, watching, seed=1, log_dir=tmp_path).fit()
    assert all(map(torch.equal, weights(plain), weights(watched)))
    assert torch.equal(plain.log, watched.log)


def test_an_exception_in_a_step_reaches_callbacks() -> None:
    recorder = Recorder()
    recipe = replace(RECIPE, optimizer="adam", stages=(Stage(2.5, 1e30, 1e30),))
    with pytest.raises(DivergedError):
        Trainer(recipe, DATASET, [recorder]).fit()
    assert recorder.calls[-1] == "DivergedError" and "fit end" not in recorder.calls


class StopAtThree(Callback):
    """Stops amid the first epoch, which has five steps."""

    def on_step_end(self, trainer: Trainer) -> None:
        trainer.should_stop = trainer.step == 3


def test_should_stop_ends_training_after_the_step() -> None:
    recorder = Recorder()
    trainer = Trainer(RECIPE, DATASET, [StopAtThree(), recorder]).fit()
    assert trainer.step == 3 and not trainer.done
    assert recorder.calls[-3:] == ["step 3", "epoch 0.6", "fit end"]


def test_a_run_that_stopped_within_its_first_epoch_is_complete(tmp_path: Path) -> None:
    """It had no metrics.csv, so that the report failed; and its recipe's epochs were said to be trained."""
    run = tenfold.train(RECIPE, DATASET, tmp_path / "run", callbacks=[StopAtThree()], export=False, progress=False)
    assert (run.path / "report.html").is_file() and run.history["epoch"].tolist() == [0.6]
    assert run.metrics.epochs == 0.6
    (run.path / "results.json").unlink()
    run.write_manifest()
    resumed = tenfold.resume(run.path, DATASET, export=False, report=False, progress=False)
    assert resumed.history["epoch"].tolist() == [0.6], "training had ended"


class Failing(Callback):
    """Fails where training ends, and again where it is asked to."""

    def on_fit_end(self, trainer: Trainer) -> None:
        raise OSError("disk full")

    def on_exception(self, trainer: Trainer, error: BaseException) -> None:
        raise ValueError("this, too")


def test_a_hook_that_fails_reaches_the_others_after_a_signal_too() -> None:
    class Interrupt(Callback):
        def on_step_end(self, trainer: Trainer) -> None:
            if trainer.step == 2:
                signal.raise_signal(signal.SIGINT)

    recorder = Recorder()
    with pytest.raises(OSError, match="disk full"):
        Trainer(RECIPE, DATASET, [Interrupt(), Failing(), recorder]).fit()
    assert recorder.calls[-1] == "OSError"


def test_fit_takes_the_steps_that_are_left_after_ctrl_c() -> None:
    class Interrupt(Callback):
        def on_step_end(self, trainer: Trainer) -> None:
            if trainer.step == 2:
                signal.raise_signal(signal.SIGINT)

    trainer = Trainer(RECIPE, DATASET, [Interrupt()], seed=1)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit()
    assert trainer.step == 2 and trainer.fit().done
    assert all(map(torch.equal, weights(trainer), weights(Trainer(RECIPE, DATASET, seed=1).fit())))


# --- early stopping --------------------------------------------------------------------------------------------------


def stopped_after(losses: list[float], **options: Any) -> int:
    """After how many epochs training stops where validation losses are these; -1 for never."""
    trainer = Trainer(RECIPE, DATASET)
    stopping = EarlyStopping(**options)
    for number, loss in enumerate(losses, start=1):
        trainer.epochs.append(EpochMetrics(number, 1, 0.1, 1.0, 0.5, loss, 1 - loss, 1.0))
        stopping.on_epoch_end(trainer, trainer.epochs[-1])
        if trainer.should_stop:
            return number
    return -1


def test_early_stopping_counts_epochs_without_improvement() -> None:
    assert stopped_after([0.9, 0.8, 0.85, 0.81, 0.7, 0.7, 0.7], patience=2) == 4
    assert stopped_after([0.9, 0.8, 0.85, 0.7, 0.75, 0.6], patience=2) == -1
    assert stopped_after([0.9, 0.8, 0.85, 0.81], patience=2, monitor="val_accuracy") == 4
    assert stopped_after([0.9, 0.88, 0.87], patience=2, min_delta=0.05) == 3


def test_a_callback_predicts_with_the_run_as_soon_as_it_is_scored(tmp_path: Path) -> None:
    """The run is still locked then, by this very process; it was called in use."""

    class Predict(Callback):
        labels: tuple[list[str | None], ...] = ()

        def on_evaluation_end(self, run: tenfold.Run) -> None:  # type: ignore[override]
            self.labels += ([found.label for found in run.predict(DATASET.test.images)],)
            assert run.evaluate(DATASET).scores.test_accuracy == run.metrics.test_accuracy

        on_run_end = on_evaluation_end  # type: ignore[assignment]

    predict = Predict()
    options: dict[str, Any] = {"report": False, "export": False, "progress": False}
    run = tenfold.train(RECIPE, DATASET, tmp_path / "run", callbacks=[predict], **options)
    assert len(predict.labels) == 2 and set(predict.labels[0]) <= set(DATASET.classes)
    assert predict.labels[0] == predict.labels[1] == [found.label for found in run.predict(DATASET.test.images)]
    Lock(run.path).check()


def test_early_stopping_needs_validation_images() -> None:
    with pytest.raises(UsageError, match="EarlyStopping watches val_loss: hold out validation images"):
        Trainer(replace(RECIPE, val_size=0), DATASET, [EarlyStopping()]).fit()


def test_a_run_that_stopped_early_is_complete(tmp_path: Path) -> None:
    recipe = replace(RECIPE, stages=(Stage(5, 1e-9, 1e-9),))  # nothing is learned
    stopping = EarlyStopping(patience=1, min_delta=1.0)
    run = tenfold.train(recipe, DATASET, tmp_path / "run", callbacks=[stopping], report=False, progress=False)
    assert run.scored and run.history["epoch"].tolist() == [1, 2]


@pytest.mark.slow
def test_a_run_that_stopped_early_does_not_promise_the_weights_of_its_whole_recipe(tmp_path: Path) -> None:
    """The page and the card gave the command of the whole recipe, whose weights are others, as bit-identical."""
    options: dict[str, Any] = {"progress": False, "callbacks": [EarlyStopping(patience=1, min_delta=1.0)]}
    run = tenfold.train(RECIPE, DATASET, tmp_path / "run", **options)
    run.export(card=True, data=DATASET)
    said = "A callback stopped training at epoch 2 of 2.5. The command trains all of them, so its weights are others"
    page, card = (run.path / "report.html").read_text(), (run.path / "model.md").read_text()
    assert said in page and "the weights are bit-identical" not in page
    assert said in card and "\n2 epochs in " in card


# --- experiment trackers ---------------------------------------------------------------------------------------------


def find(name: str) -> Callback:
    from tenfold.training.trackers import find_callbacks

    return find_callbacks([name])[0]


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tenfold.Run]:
    """A run with both trackers and the recorder, whose calls are checked."""
    folder, recorder = tmp_path_factory.mktemp("logged"), Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder}/mlflow.db")
        patch.chdir(folder)
        options: dict[str, Any] = {"log": ["tensorboard", "mlflow"], "callbacks": [recorder], "progress": False}
        yield tenfold.train(RECIPE, DATASET, folder / "run", **options)
    assert recorder.calls[-3:] == ["fit end", "evaluation True", "run True"]


@pytest.mark.slow
def test_tensorboard_has_curves_final_metrics_recipe_and_plots(logged: tenfold.Run) -> None:
    events = EventAccumulator(str(logged.path / "logs" / "tensorboard"))
    events.Reload()

    steps = pd.read_csv(logged.path / "steps.csv")

    def read(tag: str) -> list[tuple[int, float]]:
        return [(event.step, event.value) for event in events.Scalars(tag)]

    assert [step for step, _ in read("step/loss")] == steps["step"].tolist()
    np.testing.assert_allclose([value for _, value in read("step/loss")], steps["loss"], rtol=1e-5)
    np.testing.assert_allclose([value for _, value in read("epoch/val_loss")], logged.history["val_loss"], rtol=1e-5)
    assert read("final/test_accuracy")[0][1] == pytest.approx(logged.metrics.test_accuracy)
    assert {"plots/confusion", "plots/history"} <= set(events.Tags()["images"])
    assert "recipe/text_summary" in events.Tags()["tensors"]


@pytest.mark.slow
def test_mlflow_has_recipe_curves_final_metrics_and_plots(logged: tenfold.Run) -> None:
    client = mlflow.MlflowClient()
    (found,) = client.search_runs(["0"])
    assert found.info.status == "FINISHED" and found.info.run_name == "run"
    assert found.data.params["network.widths.0"] == "8" and found.data.params["seed"] == "0"
    assert found.data.metrics["final_test_accuracy"] == pytest.approx(logged.metrics.test_accuracy)
    curve = client.get_metric_history(found.info.run_id, "val_accuracy")
    assert [point.step for point in curve] == [5, 10, 12]
    np.testing.assert_allclose([point.value for point in curve], logged.history["val_accuracy"], rtol=1e-5)
    names = {file.path for file in client.list_artifacts(found.info.run_id)}
    assert {"recipe.json", "confusion.png", "report.html"} <= names


@pytest.mark.slow
def test_logs_leave_the_manifest_sound(logged: tenfold.Run) -> None:
    logged.verify()
    assert not any(name.startswith("logs") for name in logged.read_json("manifest.json")["files"])


def test_an_unknown_logger_is_refused_before_anything_is_done(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"unknown callback 'tensorbord'.*did you mean tensorboard"):
        tenfold.train(RECIPE, DATASET, tmp_path / "run", log=["tensorbord"])
    assert not (tmp_path / "run").exists()


def test_metrics_without_validation_images_are_left_out(tmp_path: Path) -> None:
    metrics = Trainer(replace(RECIPE, val_size=0, stages=(Stage(1, 0.1, 0.0),)), DATASET).fit().epochs[-1]
    assert math.isnan(metrics.val_loss)
    from tenfold.training.trackers import EPOCH_METRICS, _finite

    assert [name for name, _ in _finite(vars(metrics), EPOCH_METRICS)] == [
        "learning_rate",
        "train_loss",
        "train_accuracy",
    ]
