"""Training in a run directory: what it leaves, when it saves."""

from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from tenfold.errors import ModelError, UsageError
from tenfold.training import recorder
from tenfold.training.networks import WhitenedSpec
from tenfold.training.recipe import Stage
from tenfold.training.recorder import Checkpoints
from tenfold.training.run import Run
from tenfold.training.train import TrainResult, resume, train
from tenfold.training.trainer import Trainer
from tests.support.short_run import DATASET, RECIPE


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainResult]:
    trained = train(RECIPE, DATASET, tmp_path_factory.mktemp("train") / "run", seed=5, device="cpu")
    yield trained
    trained.run.unlock()


@pytest.fixture(autouse=True)
def small_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """`resume` loads the data set by its name."""
    monkeypatch.setattr("tenfold.training.provenance.load_named", {"shapes": DATASET}.__getitem__)


# --- what it leaves --------------------------------------------------------------------------------------------------


def test_a_run_leaves_its_files(trained: TrainResult) -> None:
    folder = trained.run.path
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    (checkpoint,) = (name for name in found if name.startswith("checkpoints/"))
    assert checkpoint.startswith("checkpoints/step-00000012-")  # 5 steps an epoch, two epochs and a half
    assert found - {checkpoint, ".lock", ".owner.json", ".tenfold"} == {
        "recipe.json",
        "env.json",
        "summary.txt",
        "metrics.csv",
        "steps.csv",
        "model.json",
        "model.safetensors",
        "manifest.json",
    }
    trained.run.verify()
    assert trained.run.trained and not trained.run.scored
    assert trained.run.recipe == RECIPE


def test_the_environment_is_written_down(trained: TrainResult) -> None:
    env = trained.run.read_json("env.json")
    assert (env["seed"], env["data"], env["device"]) == (5, "shapes", "cpu")
    assert env["dtype"] in ("bfloat16", "float32") and env["threads"] == torch.get_num_threads()
    assert env["versions"]["torch"] == version("torch") and env["versions"]["tenfold"] == version("tenfold")
    assert list(trained.device_config.reasons) == env["reasons"]


def test_disk_changes_nothing(trained: TrainResult) -> None:
    """`Trainer.fit`, which touches no disk, ends with the weights in the file; its log is the tables'."""
    trainer = Trainer(RECIPE, DATASET, seed=5, device=trained.device_config).fit()
    model = trained.run.load_model(trained.device_config)
    expected = trainer.network.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in model.network.state_dict().items())
    assert model.normalization == trainer.normalization and model.classes == DATASET.classes and model.size == 32
    steps = pd.read_csv(trained.run.path / "steps.csv")
    assert steps["step"].tolist() == list(range(1, 13))
    np.testing.assert_allclose(steps["epoch"], np.arange(1, 13) / 5, rtol=1e-5)
    np.testing.assert_allclose(steps[["loss", "accuracy"]], trainer.log, rtol=1e-5)
    epochs = pd.read_csv(trained.run.path / "metrics.csv")
    assert epochs["epoch"].tolist() == [1, 2, 2.4]
    for name in ("learning_rate", "train_loss", "train_accuracy", "val_loss", "val_accuracy"):
        np.testing.assert_allclose(epochs[name], [getattr(row, name) for row in trainer.epochs], rtol=1e-5)
    assert 0 < epochs["seconds"].sum() < trained.seconds < epochs["seconds"].sum() + 2, "saving takes its time, too"


def test_the_network_is_summed_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(replace(RECIPE, stages=(Stage(0.2, 0.1, 0.0),)), DATASET, tmp_path / "run", device="cpu").run.unlock()
    said = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert ["patch", "Conv2d", "8×32×32", "224"] in said  # 8 × 27 + 8
    assert ["groups.1.convs.1", "Conv", "16×8×8", "2,304"] in said  # 16 × 16 × 9
    # the norms' scales, moving means and variances, and the first layer's filters are not trained
    held = 224 + 8 * 8 * 9 * 2 + 8 * 16 * 9 + 2304 + 4 * (8 + 8 + 16 + 16) + 160
    assert f"{held:,} parameters, {held - 3 * 48 - 216:,} of them trained".split() in said


def test_a_path_that_exists_is_refused_before_anything_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UsageError, match=f"{tmp_path} exists"):
        train(RECIPE, DATASET, tmp_path)
    with pytest.raises(UsageError, match="leaves nothing of 120 training images"):
        train(RECIPE.with_val_size(120), DATASET, tmp_path / "run")
    assert capsys.readouterr().err == "" and list(tmp_path.iterdir()) == []


# --- going on --------------------------------------------------------------------------------------------------------


class StoppedError(Exception):
    """Ends a run in the middle."""


def stop_at(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    advance = Trainer.train_step

    def stopping(self: Trainer) -> None:
        if self.step == step:
            raise StoppedError
        advance(self)

    monkeypatch.setattr(Trainer, "train_step", stopping)
    monkeypatch.setattr(recorder, "CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(recorder, "CHECKPOINT_SHARE", 1e9)


def begin_and_stop(out: Path, step: int, seed: int = 5, dtype: str = "auto") -> None:
    with pytest.MonkeyPatch.context() as patch, pytest.raises(StoppedError):
        stop_at(step, patch)
        train(RECIPE, DATASET, out, seed=seed, device="cpu", dtype=dtype)


def test_a_run_goes_on_with_its_own_settings(
    trained: TrainResult, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    begin_and_stop(out, step=7)
    capsys.readouterr()
    resumed = resume(out)
    assert "resuming at step 7 of 12" in capsys.readouterr().err.splitlines()
    assert 0 < resumed.seconds_before < resumed.seconds
    for name in ("model.safetensors", "steps.csv"):
        assert (out / name).read_bytes() == (trained.run.path / name).read_bytes()
    resumed.run.unlock()


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_a_run_resumes_in_the_number_format_that_it_began_with(dtype: str, tmp_path: Path) -> None:
    begin_and_stop(tmp_path / "run", step=11, dtype=dtype)
    resumed = resume(tmp_path / "run")
    assert resumed.device_config.dtype_name == resumed.run.env["dtype"] == dtype
    resumed.run.unlock()


def test_a_run_that_saved_nothing_begins_again(trained: TrainResult, tmp_path: Path) -> None:
    out = tmp_path / "run"
    begin_and_stop(out, step=0)
    resumed = resume(out)
    assert resumed.seconds_before == 0
    assert (out / "model.safetensors").read_bytes() == (trained.run.path / "model.safetensors").read_bytes()
    resumed.run.unlock()


def test_a_trained_run_without_scores_only_wants_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "run"
    first = train(RECIPE, DATASET, out, device="cpu")
    first.run.unlock()
    weights = (out / "model.safetensors").read_bytes()
    monkeypatch.setattr(Trainer, "train_step", None)  # no step is taken
    again = resume(out)
    assert 0 < again.seconds_before < first.seconds, "of the steps alone"
    assert again.seconds - again.seconds_before < 1.0
    assert (out / "model.safetensors").read_bytes() == weights
    again.run.write_json("results.json", {})
    again.run.write_manifest()
    again.run.unlock()
    with pytest.raises(ModelError, match=f"nothing to resume: {out} is finished"):
        resume(out)


def test_a_checkpoint_of_another_recipe_is_refused(tmp_path: Path) -> None:
    out = tmp_path / "run"
    begin_and_stop(out, step=3)
    other = replace(RECIPE, network=WhitenedSpec(widths=(8, 8), whitening_pairs=4))
    (out / "recipe.json").write_text(other.to_json())
    with pytest.raises(ModelError, match="the checkpoint of step 3 does not fit this recipe"):
        resume(out)
    assert Run.open(out).load_checkpoint() is not None


# --- when it saves ---------------------------------------------------------------------------------------------------


class Clock:
    """Time that passes only when asked, and by `cost` with each save."""

    def __init__(self, cost: float):
        self.now, self.cost, self.saved, self.step = 0.0, cost, list[float](), 0

    def perf_counter(self) -> float:
        return self.now

    def checkpoint(self) -> None:
        pass

    def save_checkpoint(self, _checkpoint: None) -> None:
        self.saved.append(self.now)
        self.now += self.cost


def saves(monkeypatch: pytest.MonkeyPatch, cost: float, seconds: int, stop: int = -1) -> list[float]:
    """Times at which checkpoints are saved where a step takes a second, and training stops after `stop`."""
    clock: Any = Clock(cost)
    monkeypatch.setattr(recorder, "time", clock)
    checkpoints = Checkpoints(clock)
    checkpoints.on_fit_start(clock)
    for second in range(1, seconds + 1):
        clock.now, clock.step = max(clock.now, float(second)), second
        checkpoints.on_step_end(clock)
        if second == stop:
            checkpoints.on_fit_end(clock)
    return list(clock.saved)


def test_a_cheap_checkpoint_is_saved_every_five_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert saves(monkeypatch, cost=0.0, seconds=16) == [5, 10, 15]


def test_a_dear_checkpoint_takes_a_hundredth_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second each: the next is due after 50 seconds."""
    assert saves(monkeypatch, cost=0.5, seconds=110) == [5, 56, 107]


def test_a_checkpoint_is_saved_when_training_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    assert saves(monkeypatch, cost=0.0, seconds=8, stop=2) == [2, 7]


def test_a_step_is_saved_once(monkeypatch: pytest.MonkeyPatch) -> None:
    clock: Any = Clock(cost=1.0)
    monkeypatch.setattr(recorder, "time", clock)
    checkpoints = Checkpoints(clock)
    checkpoints.on_fit_start(clock)
    for step in (0, 1, 1, 2):
        clock.step = step
        checkpoints.on_fit_end(clock)
    assert clock.saved == [0, 1], "nothing at step 0, from which training starts"
