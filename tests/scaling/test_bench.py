"""The order and number of runs, what is kept of them, and what is refused."""

import hashlib
import importlib
import json
import math
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image

from tenfold.cli.app import app
from tenfold.errors import BusyError, ModelError, RunFailedError, Terminated, UsageError
from tenfold.scaling import bench
from tenfold.scaling.bench import Setting
from tenfold.scaling.summary import Diverged, Timed
from tenfold.training.lock import Lock, now
from tenfold.training.recipe import Recipe, Stage
from tenfold.training.recipes import FAST89, FAST96, REFERENCE
from tenfold.training.speed import matmul_gflops
from tests.support.forks import run_command
from tests.support.made_up_runs import HERE, timed
from tests.support.process import ROOT, Invoke

TWO = {"fast89": FAST89, "reference": REFERENCE}
ONE = {"fast89": FAST89}


def finished(folder: Path, results: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
    """What a training process leaves and says, of a bench that looks no further."""
    folder.mkdir()
    (folder / "env.json").write_text(json.dumps(HERE))
    return subprocess.CompletedProcess([], 0, json.dumps(results), "")


def test_runs_alternate_and_are_not_repeated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[str] = []

    def measure(name: str, seed: int, out: Path, options: list[str]) -> Timed:
        measured.append(f"{name}-{seed}")
        return timed(0.9, 1, seed=seed)

    monkeypatch.setattr(bench, "_measure", measure)
    bench.bench(TWO, range(2), tmp_path)
    assert measured == ["fast89-0", "reference-0", "fast89-1", "reference-1"]
    again = bench.bench(TWO, range(3), tmp_path)
    assert measured[4:] == ["fast89-2", "reference-2"] and len(again["fast89"]) == 3


def test_other_options_are_refused(tmp_path: Path) -> None:
    bench.bench({}, [], tmp_path, Setting(("--epochs", "3")))
    bench.bench({}, [], tmp_path, Setting(("--epochs", "1")))  # nothing was measured yet
    (tmp_path / "fast89-0.json").write_text(json.dumps(asdict(timed(0.9, 1))))
    with pytest.raises(UsageError, match="other options"):
        bench.bench({}, [], tmp_path, Setting(("--epochs", "2")))


def test_a_bench_with_the_old_name_of_a_resize_mode_is_continued(tmp_path: Path) -> None:
    bench.bench({}, [], tmp_path, Setting(("--data", "crop", "--size", "32", "--resize", "crop")))
    (tmp_path / "fast89-0.json").write_text(json.dumps(asdict(timed(0.9, 1))))
    bench.bench({}, [], tmp_path, Setting(("--data", "crop", "--size", "32", "--resize", "center_crop")))
    with pytest.raises(UsageError, match="other options"):
        bench.bench({}, [], tmp_path, Setting(("--data", "crop", "--size", "32", "--resize", "stretch")))


def write_pictures(folder: Path) -> None:
    """Twenty noisy pictures of each of two classes."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for number in range(20):
            noise = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(noise).save(folder / name / f"{number}.png")


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine's speed is measured in a moment, and no run again, however much that changes meanwhile."""
    monkeypatch.setattr(bench, "matmul_gflops", lambda: matmul_gflops(size=64, seconds=0.01))
    monkeypatch.setattr(bench, "TRIES", 1)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs are processes that start in no time."""

    def run(line: list[str], env: dict[str, str], **_: object) -> "subprocess.CompletedProcess[str]":
        assert line[:3] == [sys.executable, "-m", "tenfold"]
        return run_command(*line[3:], env=env)

    monkeypatch.setattr(bench.subprocess, "run", run)


@pytest.mark.slow
@pytest.mark.usefixtures("quick", "forked")
def test_a_folder_changed_since_is_refused(invoke: Invoke, tiny_recipe: Path, tmp_path: Path) -> None:
    """Without the digest: runs on the pictures of then and of now were put into one mean."""
    write_pictures(tmp_path / "pets")
    words = ("bench", "--recipe", tiny_recipe, "--runs", 1, "--data", tmp_path / "pets", "--out", tmp_path / "b")
    assert invoke(*words).returncode == 0
    assert invoke(*words).returncode == 0, "the runs that are there count"
    (run,) = (path.parent for path in (tmp_path / "b").rglob("recipe.json"))
    assert not (run / "model.onnx").exists() and not (run / "report.html").exists()  # they would take time
    next((tmp_path / "pets").rglob("*.png")).unlink()
    answer = invoke(*words)
    assert answer.returncode == 2 and "other images in that folder" in answer.stderr


def test_a_recipe_changed_since_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the recipes in bench.json: the old runs' figures were given for the new recipe."""
    monkeypatch.setattr(bench, "_measure", lambda *_: timed(0.9, 1))
    bench.bench({"mine": FAST89}, [0], tmp_path)
    with pytest.raises(UsageError, match="another mine"):
        bench.bench({"mine": replace(FAST89, batch_size=7)}, [0], tmp_path)


def test_a_field_that_recipes_got_since_changes_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_measure", lambda *_: timed(0.9, 1))
    bench.bench({"mine": FAST89}, [0], tmp_path)
    noted = json.loads((tmp_path / "bench.json").read_bytes())
    del noted["recipes"]["mine"]["proxy_widths"]
    (tmp_path / "bench.json").write_text(json.dumps(noted))
    assert len(bench.bench({"mine": FAST89}, [0], tmp_path)["mine"]) == 1


def test_every_run_is_made_from_the_bench_s_own_copy_of_the_recipe(
    tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the copy: a file that was edited meanwhile made the later runs those of another recipe."""
    lines: list[list[str]] = []

    def run(line: list[str], env: dict[str, str], **_: object) -> "subprocess.CompletedProcess[str]":
        assert "TENFOLD_EPOCHS" not in env and "PATH" in env, "else the environment shortened every run, untold"
        lines.append(line)
        return finished(Path(line[line.index("--out") + 1]), timed(0.9, 9).results)

    monkeypatch.setattr(bench, "_rate", lambda: 700.0)  # measured, it may change, and the run be repeated
    monkeypatch.setattr(subprocess, "run", run)
    recipe = Recipe.from_json(tiny_recipe.read_bytes())
    monkeypatch.setenv("TENFOLD_EPOCHS", "3")
    bench.bench({"mine": recipe}, [0], tmp_path / "out", Setting(("--epochs", "1")))
    (line,) = lines
    assert Recipe.from_json(Path(line[line.index("--recipe") + 1]).read_bytes()) == recipe
    assert line[-2:] == ["--epochs", "1"]


def test_no_variable_of_train_reaches_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """TENFOLD_TARGET_ERROR did: every option of `train` that has a variable counts."""
    options = typer.main.get_command(app).commands["train"].params  # type: ignore[attr-defined]
    variables = [option.envvar for option in options if option.envvar]
    assert "TENFOLD_TARGET_ERROR" in variables
    for name in variables:
        monkeypatch.setenv(name, "1")
    assert not set(variables) & bench._plain_environment().keys()


def test_a_bench_under_way_is_not_joined(tmp_path: Path) -> None:
    """Without the lock: each removed the run that the other was at."""
    bench.bench({}, [], tmp_path)
    other = Lock(tmp_path)
    other.acquire(now())
    with pytest.raises(BusyError, match="in use by"):
        bench.bench({}, [], tmp_path)
    other.release()


def test_a_run_whose_process_outlived_its_bench_is_left_alone(tmp_path: Path) -> None:
    run = tmp_path / "fast89-0"
    run.mkdir()
    training = Lock(run)
    training.acquire(now())
    with pytest.raises(BusyError):
        bench.clear(run)
    training.release()
    bench.clear(run)
    assert not run.exists()


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    """Without the check: the run of that name was deleted."""
    (tmp_path / "fast89-0").mkdir()
    (tmp_path / "fast89-0" / "model.safetensors").write_bytes(b"precious")
    with pytest.raises(UsageError, match="other things than a bench"):
        bench.bench(ONE, [0], tmp_path)
    assert (tmp_path / "fast89-0" / "model.safetensors").read_bytes() == b"precious"


def damaged(**changes: object) -> str:
    record = asdict(timed(0.9, 1))
    for name, value in changes.items():
        part = record if name in record else record["results"]
        part[name] = value
    return json.dumps(record)


@pytest.mark.parametrize(
    "content",
    [
        *("{", "[]", "{}", '{"results": {}, "rate_before": 1, "rate_after": 1}', '{"seed": [0], "reason": 5}'),
        *(damaged(environment={}), damaged(environment=None), damaged(test_accuracy=1.5), damaged(total_seconds=0)),
        *(damaged(peak_memory_bytes="x"), damaged(rate_before=math.inf).replace("Infinity", "1e999")),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str) -> None:
    monkeypatch.setattr(bench, "_measure", lambda *_: timed(0.9, 1))
    bench.bench(ONE, [0], tmp_path)
    (tmp_path / "fast89-0.json").write_text(content)
    with pytest.raises(ModelError, match=r"fast89-0\.json is damaged"):
        bench.bench(ONE, [0], tmp_path)


def test_a_record_of_another_seed_is_not_counted(tmp_path: Path) -> None:
    """Without the check one seed counted twice, in n and in the interval."""
    (tmp_path / "fast89-1.json").write_text(json.dumps(asdict(timed(0.9, 1, seed=0))))
    with pytest.raises(ModelError, match=r"fast89-1\.json is of seed 0"):
        bench.read_record(tmp_path / "fast89-1.json")


def test_damaged_settings_are_named(tmp_path: Path) -> None:
    """Without it the folder is none of a bench any more, so that it is of no use to remove it."""
    bench.bench({}, [], tmp_path)
    for content in ('{"recipes": [1], "options": []}', "{"):
        (tmp_path / "bench.json").write_text(content)
        with pytest.raises(ModelError, match=r"bench\.json is damaged.*: choose another --out"):
            bench.bench({}, [], tmp_path)


def test_what_a_later_version_notes_besides_is_passed_over(tmp_path: Path) -> None:
    """It was a traceback: `Timed` got an argument that it does not know."""
    outcome = timed(0.9, 3.25, 700.5, None)
    record = bench.record_of("r", outcome.seed, tmp_path)
    record.write_text(json.dumps(asdict(outcome) | {"weather": "fine"}))
    assert bench.read_record(record) == outcome


def test_the_code_that_is_noted_is_that_of_the_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that was edited while the run went on was counted in, so that the record named code that never ran."""
    package = tmp_path / "package"
    package.mkdir()
    (package / "a.py").write_text("before")
    monkeypatch.setattr(bench, "_PACKAGE", package)
    expected = hashlib.sha256(b"before").hexdigest()[:12]

    def run(line: list[str], **_: object) -> "subprocess.CompletedProcess[str]":
        (package / "a.py").write_text("after")
        return finished(tmp_path / "out" / "fast89-0", timed(0.9, 9).results)

    monkeypatch.setattr(bench, "_rate", lambda: 700.0)  # measured, it may change, and the run be repeated with "after"
    monkeypatch.setattr(subprocess, "run", run)
    (outcome,) = bench.bench(ONE, [0], tmp_path / "out")["fast89"]
    assert isinstance(outcome, Timed) and outcome.environment["code"] == expected


def test_a_killed_process_is_called_that() -> None:
    """Once the last line of its progress was taken for the reason, and -9 for the exit code."""
    killed = subprocess.CompletedProcess([], -9, "", "12,320 parameters\n")
    assert bench._reason(killed) == "its process was killed by signal 9"
    spoken = subprocess.CompletedProcess([], 2, "", "12,320 parameters\ntenfold: no\n")
    assert bench._reason(spoken) == "no"


def test_two_recipes_of_one_name_are_refused(invoke: Invoke, tiny_recipe: Path) -> None:
    answer = invoke("bench", "--recipe", tiny_recipe, "--recipe", tiny_recipe, "--data", "shapes")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert f'two recipes are named tiny: change "name" in the file of one ({tiny_recipe})' in answer.stderr


def test_an_unsteady_run_is_measured_again_and_the_steadiest_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries = iter([timed(0.9, 3, 400, 750), timed(0.9, 2, 600, 750), timed(0.9, 1, 500, 750)])
    monkeypatch.setattr(bench, "_measure", lambda *_: next(tries))
    kept = bench.bench(ONE, [0], tmp_path)["fast89"][0]
    assert isinstance(kept, Timed) and kept.rate_before == 600 and next(tries, None) is None


def test_a_try_that_is_interrupted_does_not_take_the_one_before_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run of eighty minutes was lost to the second try of it."""
    tries = iter([timed(0.9, 3, 400, 750)])

    def measure(*_: object) -> Timed:
        if (outcome := next(tries, None)) is None:
            raise KeyboardInterrupt
        return outcome

    monkeypatch.setattr(bench, "_measure", measure)
    with pytest.raises(KeyboardInterrupt):
        bench.bench(ONE, [0], tmp_path)
    (kept,) = bench.bench(ONE, [0], tmp_path)["fast89"]
    assert isinstance(kept, Timed) and kept.rate_before == 400


def test_an_interrupted_bench_says_how_to_resume(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tries = iter([timed(0.9, 3), timed(0.9, 3, seed=1)])

    def measure(*_: object) -> Timed:
        if (outcome := next(tries, None)) is None:
            raise Terminated
        return outcome

    monkeypatch.setattr(bench, "_measure", measure)
    with pytest.raises(Terminated):
        bench.bench(ONE, range(1200), tmp_path)
    assert capsys.readouterr().err == "stopped after 2 of 1,200 runs; the same command resumes\n"


def test_a_long_run_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries = iter([timed(0.9, bench.LONG + 1, 400, 750)])
    monkeypatch.setattr(bench, "_measure", lambda *_: next(tries))
    (kept,) = bench.bench(ONE, [0], tmp_path)["fast89"]
    assert isinstance(kept, Timed) and kept.speed_drift > 0.1


@pytest.mark.slow
@pytest.mark.usefixtures("quick")
def test_a_failing_run_hands_on_its_message_and_exit_code(tmp_path: Path, tiny_recipe: Path) -> None:
    recipe = replace(Recipe.from_json(tiny_recipe.read_bytes()), translate=40)
    with pytest.raises(RunFailedError, match="tiny-0: a shift of 40 pixels is too large") as failure:
        bench.bench({"tiny": recipe}, [0], tmp_path / "out", Setting(("--data", "shapes")))
    assert failure.value.exit_code == 2


@pytest.mark.slow
@pytest.mark.usefixtures("quick", "forked")
def test_a_diverging_run_is_recorded_and_the_others_go_on(tmp_path: Path, tiny_recipe: Path) -> None:
    """Without the record: every call ended at the same seed, and what had come through was never summarised."""
    recipe = replace(Recipe.from_json(tiny_recipe.read_bytes()), optimizer="adam", stages=(Stage(1.0, 1e30, 1e30),))
    (outcome,) = bench.bench({"wild": recipe}, [0], tmp_path, Setting(("--data", "shapes")))["wild"]
    assert isinstance(outcome, Diverged) and outcome.seed == 0 and "wild-0: loss is" in outcome.reason
    assert bench.read_record(tmp_path / "wild-0.json") == outcome


def test_a_gpu_s_time_is_not_normalised_by_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "_rate", lambda: 700.0)
    answer = timed(0.9, 9).results | {"device": "cuda"}
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: finished(tmp_path / "fast89-0", answer))
    (outcome,) = bench.bench(ONE, [0], tmp_path)["fast89"]
    assert isinstance(outcome, Timed) and outcome.normalised() is None


@pytest.mark.slow
@pytest.mark.usefixtures("quick", "forked")
def test_real_runs_of_two_recipes(invoke: Invoke, tiny_recipe: Path, tmp_path: Path) -> None:
    wide = tmp_path / "my.json"  # what it is called does not matter: every figure and folder has the recipe's name
    recipe = Recipe.from_json(tiny_recipe.read_bytes())
    wide.write_text(replace(recipe, name="wide", network=replace(recipe.network, widths=(16, 32))).to_json())
    out = tmp_path / "b"
    words = ("bench", "--recipe", tiny_recipe, "--recipe", wide, "--runs", 2, "--epochs", 0.3, "--data", "shapes")
    answer = json.loads(invoke(*words, "--out", out, "--json").stdout)
    tiny, other = answer["results"]
    assert (tiny["recipe"], tiny["n"], other["recipe"], other["n"]) == ("tiny", 2, "wide", 2)
    for row in (tiny, other):
        singles = [json.loads((out / f"{row['recipe']}-{i}" / "results.json").read_bytes()) for i in range(2)]
        assert {single["recipe"] for single in singles} == {row["recipe"]}
        assert [run["accuracy"] for run in row["runs"]] == [single["test_accuracy"] for single in singles]
        assert all(row["seconds"][part]["min"] > 0 for part in ("setup", "train", "evaluation"))
        parts = [single[f"{part}_seconds"] for single in singles for part in ("setup", "train", "evaluation")]
        assert sum(parts) == pytest.approx(sum(single["total_seconds"] for single in singles))
        assert row["peak_memory_bytes"] > 1e8
        (environment,) = row["environments"]
        assert environment["device"] == "cpu" and {"torch", "tenfold"} <= environment["versions"].keys()
    (compared,) = answer["comparison"]
    differences = [b["accuracy"] - a["accuracy"] for a, b in zip(tiny["runs"], other["runs"], strict=True)]
    assert compared["accuracy"]["mean"] == pytest.approx(sum(differences) / 2) and compared["n"] == 2
    assert (out / "bench.png").read_bytes().startswith(b"\x89PNG")
    assert not (out / "tiny-0" / "report.html").exists(), "a bench's runs are counted, not looked at"


def test_records_are_read_as_they_were_written(tmp_path: Path) -> None:
    for outcome in (timed(0.9, 3.25, 700.5, None), Diverged(4, "loss is nan")):
        record = bench.record_of("r", outcome.seed, tmp_path)
        record.write_text(json.dumps(asdict(outcome)))
        assert bench.read_record(record) == outcome


def test_an_ablation_of_a_proxy_prunes_as_much_without_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """There was no such recipe: a share for the proxy, and no proxy."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    variants = importlib.import_module("ablation").variants(FAST96)
    variant = variants["losses-instead-of-the-proxy"]
    assert (variant.proxy_widths, variant.proxy_prune_fraction, variant.prune_fraction) == ((), 0, 0.5)
    assert variants["no-pruning"] == replace(FAST96, name="no-pruning", proxy_prune_fraction=0.0)


@pytest.mark.parametrize("recipe", [FAST89, REFERENCE], ids=lambda recipe: recipe.name)
def test_an_ablation_leaves_one_idea_out_at_a_time(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    ablation = importlib.import_module("ablation")
    values = json.loads(recipe.to_json())
    variants = ablation.variants(recipe)
    assert "no-label-smoothing" in variants or not recipe.label_smoothing
    for name, variant in variants.items():
        other = json.loads(variant.to_json())
        assert variant.name == name and sum(other[field] != values[field] for field in values) == 2, (
            "its name and one more"
        )
