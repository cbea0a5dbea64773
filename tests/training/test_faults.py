"""Training through kills, full disks, signals and bad numbers: real processes, and what they leave behind.

They save a checkpoint after every step, so that there is something to hit, and are struck at one (`support/struck`).
"""

import csv
import os
import pty
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from tenfold.training.checkpoint import Checkpoint
from tenfold.training.networks import WhitenedSpec
from tenfold.training.recipe import Recipe, Stage
from tenfold.training.recipes import FAST89
from tenfold.training.run import Run
from tests.support import struck
from tests.support.forks import Fork
from tests.support.process import ROOT
from tests.support.waiting import LONG, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="places in a write are found by /proc"),
]

# 100 steps an epoch: 160 in all, a new stage after 40, the first layer's bias done after 30
RECIPE = replace(
    FAST89,
    name="faults",
    network=WhitenedSpec(widths=(8, 16)),
    stages=(Stage(0.4, 0.1, 0.05), Stage(1.2, 0.05, 0.0)),
    batch_size=20,
    whiten_bias_epochs=0.3,
)
STEPS = 160


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "recipe.json").write_text(RECIPE.to_json())
    return folder


def environment() -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if not name.startswith("TENFOLD_")}
    return own | {"OMP_NUM_THREADS": "1"}


def start(place: str, nth: int, *words: str | Path) -> Fork:
    return Fork(struck.run, place, nth, *words, env=environment())


def begin(out: Path, recipe: Path | None = None) -> tuple[str | Path, ...]:
    recipe = recipe or out.parent / "recipe.json"
    return "train", "--recipe", recipe, "--data", "shapes", "--device", "cpu", "--no-report", "--out", out


def go_on(out: Path) -> tuple[str | Path, ...]:
    return "train", "--resume", "--no-report", "--out", out


def finish(child: Fork) -> tuple[int, list[str]]:
    """Wait for the end: exit code, and the lines of standard error."""
    code = child.wait()
    return code, child.text("err").splitlines()


def run_behind(before: tuple[str, ...], place: str, nth: int, *words: str | Path) -> tuple[int, list[str]]:
    """As `start` and `finish`, behind the words of another command, in a process that Python starts."""
    line = [*before, sys.executable, "-m", "tests.support.struck", place, str(nth), *map(str, words)]
    env = environment() | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(line, capture_output=True, text=True, timeout=LONG, env=env)
    return ended.returncode, ended.stderr.splitlines()


def steps_saved(out: Path) -> list[int]:
    """Steps of the checkpoints there are, the newest first."""
    return sorted((int(path.name[5:13]) for path in (out / "checkpoints").glob("step-*")), reverse=True)


def temporaries(out: Path) -> list[Path]:
    return [path for path in out.rglob("*") if path.name.endswith(".partial")]


def final_checkpoint(out: Path) -> Checkpoint:
    checkpoint = Run.open(out).load_checkpoint()
    assert checkpoint is not None and checkpoint.step == STEPS
    return checkpoint


def epochs(out: Path) -> list[dict[str, str]]:
    with (out / "metrics.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture(scope="module")
def straight(folder: Path) -> Path:
    """The run that nothing happened to."""
    code, err = finish(start("nowhere", 0, *begin(folder / "straight")))
    assert code == 0, err
    return folder / "straight"


def assert_same_end(out: Path, straight: Path) -> None:
    """Weights, buffers, optimizer states and log are those of the uninterrupted run, bit for bit."""
    ours, theirs = final_checkpoint(out).tensors, final_checkpoint(straight).tensors
    assert ours.keys() == theirs.keys() and len([name for name in ours if name.startswith("optimizer.")]) > 8
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    for name in ("model.safetensors", "model.json", "steps.csv", "predictions.csv"):
        assert (out / name).read_bytes() == (straight / name).read_bytes(), name
    assert epochs(out) == epochs(straight)
    Run.open(out).verify()
    assert temporaries(out) == []


# --- kills -----------------------------------------------------------------------------------------------------------

KILLS = [
    # where, at which checkpoint of the process (or which random moment), and whether the newest is damaged before
    ("before rename", 1, False),  # nothing was ever saved: it starts again
    ("mid-write", 3, False),
    ("before rename", 4, False),
    ("after rename", 2, False),
    *[("at random", draw, False) for draw in range(20)],
    ("after rename", 15, False),
    ("mid-write", 7, False),
    ("before rename", 6, True),
]


def kill_at_random(child: Fork, out: Path, seed: int) -> None:
    """Kill the child a moment, of up to 10 ms, after its first new checkpoint."""
    before = max(steps_saved(out), default=0)
    assert wait_for(lambda: child.poll() is not None or max(steps_saved(out), default=0) > before, LONG, 0.001)
    time.sleep(random.Random(seed).uniform(0, 0.01))
    child.kill()


def cut_newest_checkpoint(out: Path) -> None:
    path = Run.open(out).checkpoints()[0]
    path.write_bytes(path.read_bytes()[:-100])


def test_a_run_killed_again_and_again_ends_with_the_same_bits(folder: Path, straight: Path) -> None:
    """Twenty-seven kills, twenty of them at random moments, and a damaged checkpoint;
    the run goes on each time from the newest sound one.

    Without the temporary name in `atomic_write`: the first kill leaves none behind. Without the optimizers'
    states in the checkpoint: none in the last one. Without the first layer's bias in a later stage's optimizers: an
    error when the second stage goes on. Without the checksum in a checkpoint's name: the damaged one ends the run.
    """
    out = folder / "killed"
    for place, number, damaged in KILLS:
        if damaged:
            cut_newest_checkpoint(out)
        saved = [0, *reversed(steps_saved(out))]
        child = start(place, number, *(go_on(out) if out.exists() else begin(out)))
        if place == "at random":
            kill_at_random(child, out, number)
        code, err = finish(child)
        assert code == -signal.SIGKILL, err
        begun_at = [line for line in err if line.startswith("resuming at step")]
        expected = saved[-2] if damaged else saved[-1]
        assert begun_at == ([f"resuming at step {expected} of {STEPS}"] if expected else [])
        assert len([line for line in err if line.endswith("is damaged and skipped")]) == damaged
        if place in ("mid-write", "before rename"):
            assert len(temporaries(out)) == 1
    assert 40 < steps_saved(out)[0] < STEPS  # the last kills fell into the second stage
    code, err = finish(start("nowhere", 0, *go_on(out)))
    assert code == 0, err
    assert_same_end(out, straight)


# --- signals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 143), ("SIGINT", 130), ("SIGHUP", 143)])
def test_a_signal_is_answered_after_the_step_with_a_checkpoint(
    folder: Path, straight: Path, name: str, code: int
) -> None:
    """It comes while the 35th checkpoint is being written. Without `DeferredSignals`: the newest is that of step 34."""
    out = folder / name
    returned, err = finish(start(name, 35, *begin(out)))
    assert returned == code, err
    assert [line for line in err if line][-1] == f"stopped at step 35; to resume: tenfold train --resume --out {out}"
    assert "Traceback" not in "".join(err)
    assert steps_saved(out)[0] == 35 and temporaries(out) == []
    returned, err = finish(start("nowhere", 0, *go_on(out)))
    assert returned == 0 and f"resuming at step 35 of {STEPS}" in err
    assert_same_end(out, straight)


def test_under_nohup_a_closed_terminal_changes_nothing(folder: Path, straight: Path) -> None:
    """Without the look at what is ignored: it stops at step 35."""
    out = folder / "nohup"
    returned, err = run_behind(("nohup",), "SIGHUP", 35, *begin(out))
    assert returned == 0, err
    assert_same_end(out, straight)


def test_a_terminal_that_is_closed_leaves_a_checkpoint(folder: Path) -> None:
    """Within the five seconds in which none is due. Without the answer to SIGHUP: there is none."""
    out, shown = folder / "closed", b""
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"OMP_NUM_THREADS": "1", "COLUMNS": "200", "TERM": "xterm"}
        os.execv(sys.executable, [sys.executable, "-m", "tenfold", *map(str, begin(out)), "--epochs", "100"])
    while b"images/s" not in shown:  # on the bar, behind the first step
        shown += os.read(terminal, 4096)
    assert steps_saved(out) == []
    os.close(terminal)
    os.waitpid(child, 0)
    assert len(steps_saved(out)) == 1 and temporaries(out) == []


# --- who may go on ---------------------------------------------------------------------------------------------------


def test_a_second_process_is_sent_away(folder: Path) -> None:
    """The first is stopped in the middle of a run. Without the lock: the second trains on, and ends with 0."""
    out = folder / "shared"
    first = start("SIGSTOP", 2, *begin(out))
    try:
        assert wait_for(lambda: psutil.Process(first.pid).status() == psutil.STATUS_STOPPED, LONG)
        code, err = finish(start("nowhere", 0, *go_on(out)))
        assert code == 6
        assert len(err) == 1
        assert err[0].startswith(f"tenfold: {out} is in use by process {first.pid} since ")
        assert steps_saved(out) == [1]
    finally:
        first.kill()
        finish(first)


def test_nothing_to_resume(straight: Path, folder: Path) -> None:
    """Without `if run.scored`: the finished run is scored and drawn once more, and ends with 0."""
    code, err = finish(start("nowhere", 0, *go_on(straight)))
    assert (code, err) == (4, [f"tenfold: nothing to resume: {straight} is finished"])
    code, err = finish(start("nowhere", 0, *go_on(folder / "absent")))
    assert code == 4 and len(err) == 1


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_again(folder: Path) -> None:
    """Without `if paths: raise` in `load_checkpoint`: it is, and ends with 0."""
    out = folder / "damaged"
    code, err = finish(start("after rename", 3, *begin(out)))
    assert code == -signal.SIGKILL and steps_saved(out) == [3, 2, 1], err  # the oldest was about to go
    for path in Run.open(out).checkpoints():
        path.write_bytes(path.read_bytes()[:1000])
    code, err = finish(start("nowhere", 0, *go_on(out)))
    assert code == 4
    assert err[-1] == f"tenfold: {out}/checkpoints: every checkpoint is damaged; remove the folder to restart"
    assert len([line for line in err if line.endswith("is damaged and skipped")]) == 3
    assert steps_saved(out) == [3, 2, 1]


# --- full disks ------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[tuple[Path, tuple[str, ...]]]:
    """A folder, and the words before a command that lend it a disk of 120 KB there, copied to `after` in the end."""
    folder, after = tmp_path / "disk", tmp_path / "after"
    folder.mkdir()
    script = 'mount -t tmpfs -o size=120k none "$0" || exit 99; "$@"; code=$?; cp -a "$0" "$0/../after"; exit $code'
    before = ("unshare", "--map-root-user", "--mount", "sh", "-c", script, str(folder))
    if not shutil.which("unshare") or subprocess.run([*before, "true"], capture_output=True).returncode:
        pytest.skip("this user may not mount a disk")
    shutil.rmtree(after)
    yield folder, before


def assert_stopped_for_space(code: int, err: list[str], out: Path, saved: int) -> None:
    assert code == 7
    assert err[-1].startswith("tenfold: cannot write ") and f"step-{saved + 1:08d}" in err[-1]
    assert err[-1].endswith(": No space left on device; nothing there was changed")
    assert "Traceback" not in "".join(err)
    assert temporaries(out) == []
    assert steps_saved(out)[0] == saved
    checkpoint = Run.open(out).load_checkpoint()
    assert checkpoint is not None and checkpoint.step == saved


def test_a_small_disk_keeps_the_checkpoint_before(
    folder: Path, straight: Path, small_disk: tuple[Path, tuple[str, ...]]
) -> None:
    """A checkpoint takes 61 KB, so that the second does not fit any more; with more space, the run goes on.

    Without `finally: temporary.unlink(…)`: a file ….partial stays.
    """
    disk, before = small_disk
    code, err = run_behind(before, "nowhere", 0, *begin(disk / "run", folder / "recipe.json"))
    out = disk.parent / "after" / "run"
    assert_stopped_for_space(code, err, out, saved=1)
    code, err = finish(start("nowhere", 0, *go_on(out)))
    assert code == 0, err
    assert_same_end(out, straight)


def test_a_disk_that_is_full_at_the_fourth_checkpoint(folder: Path) -> None:
    """The same wherever disks cannot be mounted. Without `finally: temporary.unlink(…)`: a file ….partial stays."""
    out = folder / "full"
    code, err = finish(start("disk full", 4, *begin(out)))
    assert_stopped_for_space(code, err, out, saved=3)
    assert steps_saved(out) == [3, 2]


# --- bad numbers -----------------------------------------------------------------------------------------------------


def diverging(stages: tuple[Stage, ...]) -> Recipe:
    return replace(RECIPE, name="diverging", optimizer="adam", stages=stages)


def test_a_loss_that_is_not_finite_ends_the_run_and_keeps_the_last_good_checkpoint(tmp_path: Path) -> None:
    """Five sound steps, then a rate of 1e30. Without the test of the loss: the weights become nan."""
    recipe, out = tmp_path / "recipe.json", tmp_path / "run"
    recipe.write_text(diverging((Stage(0.05, 1e-3, 1e-3), Stage(0.1, 1e30, 1e30))).to_json())
    code, err = finish(start("nowhere", 0, *begin(out, recipe)))
    assert code == 5, err
    saved = steps_saved(out)[0]
    assert err[-1].startswith("tenfold: loss is ") and f" at step {saved}, epoch " in err[-1]
    assert "Traceback" not in "".join(err)
    checkpoint = Run.open(out).load_checkpoint()
    assert checkpoint is not None and checkpoint.step == saved >= 5
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint.tensors.values())
    assert not Run.open(out).trained and not (out / "model.safetensors").exists()
