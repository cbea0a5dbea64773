"""Several processes that train together, as torchrun starts them."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from tenfold.errors import UsageError
from tenfold.training.distributed import SINGLE_PROCESS, DistContext, joined
from tests.support.process import with_tests
from tests.support.ranks import RECIPE, losses

pytestmark = pytest.mark.slow

KILLED = """
import os, signal, sys
from tenfold import cli
from tenfold.training import recorder
from tenfold.training.trainer import Trainer

advance, (rank, step, number), sys.argv[1:] = Trainer.train_step, map(int, sys.argv[1:4]), sys.argv[4:]
recorder.CHECKPOINT_SECONDS, recorder.CHECKPOINT_SHARE = 0.0, 1e9


def struck(trainer):
    if (trainer.dist.rank, trainer.step) == (rank, step):
        os.kill(os.getpid(), number)
    advance(trainer)


Trainer.train_step = struck
cli.main()
"""


def start(words: list[str], count: int) -> list["subprocess.Popen[str]"]:
    """The same command in so many ranks, as torchrun sets them up."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = with_tests() | {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    own = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"} for rank in range(count)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return [subprocess.Popen([sys.executable, *words], env=env, **pipes) for env in own]  # type: ignore[call-overload]


def test_shares_follow_each_other_and_none_is_empty() -> None:
    parts = [DistContext(rank, 3).shard(100) for rank in range(3)]
    assert [list(range(100))[part] for part in parts] == [list(range(33)), list(range(33, 66)), list(range(66, 100))]
    with pytest.raises(UsageError, match="2 images is too small for 3 ranks"):
        DistContext(0, 3).shard(2)


def test_without_torchrun_a_process_is_alone_and_nothing_travels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with joined() as dist:
        assert dist is SINGLE_PROCESS and dist.any(True) and not dist.any(False) and dist.broadcast(3) == 3


@pytest.mark.parametrize("proxy_widths", [(), (8, 8)], ids=["by losses", "proxy"])
def test_two_ranks_have_the_losses_of_one_process(proxy_widths: tuple[int, ...]) -> None:
    processes = start(["-m", "tests.support.ranks", *map(str, proxy_widths)], 2)
    alone = losses(SINGLE_PROCESS, proxy_widths)
    reported = [json.loads(process.communicate(timeout=120)[0]) for process in processes]
    assert reported[0] == reported[1]
    assert max(abs(a - b) for a, b in zip(alone, reported[0], strict=True)) <= 1e-5
    assert alone[-1] < 0.9 * alone[0]


def torchrun(*words: str) -> "subprocess.CompletedProcess[str]":
    """Two ranks on this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *words]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of a short training on drawn shapes, but for --out."""
    recipe = tmp_path_factory.mktemp("recipe") / "ranks.json"
    recipe.write_text(RECIPE.to_json())
    return ["train", "--data", "shapes", "--recipe", str(recipe), "--no-report"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> Path:
    """A run of two ranks that nothing happened to."""
    run = tmp_path_factory.mktemp("whole") / "run"
    assert torchrun("-m", "tenfold", *words, "--out", str(run)).returncode == 0
    return run


def weights(run: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(run / "model.safetensors")


@pytest.mark.parametrize(("rank", "number"), [(1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGTERM)])
def test_a_rank_that_ends_leaves_a_run_that_goes_on(
    tmp_path: Path, words: list[str], whole: Path, rank: int, number: signal.Signals
) -> None:
    """To the bits of a run that nothing happened to; one directory, which only the first rank writes."""
    script, run = tmp_path / "killed.py", tmp_path / "run"
    script.write_text(KILLED)
    ended = torchrun(str(script), str(rank), "40", str(int(number)), *words, "--out", str(run))
    assert ended.returncode and not (run / "results.json").exists()
    newest = max(int(path.name[5:13]) for path in (run / "checkpoints").glob("step-*"))
    assert newest == (41 if number == signal.SIGTERM else 40)  # a signal ends the step, on all ranks
    if number == signal.SIGTERM:
        how = f"the same torchrun … -m tenfold train --resume --out {run}"
        assert f"stopped at step 41; to resume: {how}" in ended.stderr
    elif rank == 1:
        assert "tenfold: another rank ended, see its message; torchrun … train --resume resumes" in ended.stderr
    again = torchrun("-m", "tenfold", "train", "--resume", "--out", str(run), "--no-report", "--json")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["run"] == str(run)
    assert f"resuming at step {newest}" in again.stderr and "not bit for bit" not in again.stderr
    there, here = weights(whole), weights(run)
    assert all(np.array_equal(there[name], here[name]) for name in there)
    assert json.loads((run / "env.json").read_text())["ranks"] == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["killed.py", "run"]


def test_what_is_wrong_is_said_once(tmp_path: Path, words: list[str]) -> None:
    """By the first rank; the other has waited for it."""
    (tmp_path / "there").mkdir()
    ended = torchrun("-m", "tenfold", *words, "--out", str(tmp_path / "there"))
    assert ended.returncode and ended.stderr.count(f"tenfold: {tmp_path / 'there'}") == 1


def test_other_settings_for_a_resumed_run_are_refused_once(whole: Path) -> None:
    """By the first rank, which has the run directory; torchrun ends the other, which waits for it."""
    ended = torchrun("-m", "tenfold", "train", "--resume", "--out", str(whole), "--seed", "99")
    assert ended.returncode and ended.stderr.count("was started with --seed") == 1
