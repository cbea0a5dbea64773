"""Several processes that train together, as torchrun starts them."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from tenfold import registry
from tenfold.data.shapes import make_shapes
from tenfold.errors import UsageError
from tenfold.training.distributed import SINGLE_PROCESS, DistContext, joined
from tenfold.training.recipe import Stage
from tests.support.forks import Fork, command
from tests.support.process import ROOT, with_tests
from tests.support.ranks import RECIPE, losses, print_losses, run_struck
from tests.support.waiting import LONG

pytestmark = pytest.mark.slow

STRUCK_AT = 20
"""Of 48 steps: four an epoch."""


def start(call: Callable[..., None], *arguments: int | str | Path) -> list[Fork]:
    """Two ranks, as torchrun sets them up."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = os.environ | {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    own = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]
    return [Fork(call, *arguments, env=env) for env in own]


class Ended(NamedTuple):
    """How two ranks ended together."""

    returncode: int
    stdout: str
    stderr: str


def run(call: Callable[..., None], *arguments: int | str | Path) -> Ended:
    """Two ranks to their end."""
    return end(start(call, *arguments))


def end(ranks: list[Fork]) -> Ended:
    codes = [rank.wait() for rank in ranks]
    out, err = ("".join(rank.text(stream) for rank in ranks) for stream in ("out", "err"))
    return Ended(next((code for code in codes if code), 0), out, err)


def torchrun(*words: str | Path) -> "subprocess.CompletedProcess[str]":
    """Two ranks on this machine, by torchrun itself."""
    line = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *map(str, words)]
    return subprocess.run(line, env=with_tests(), capture_output=True, text=True, timeout=LONG)


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
    ranks = start(print_losses, *proxy_widths)
    alone = losses(SINGLE_PROCESS, proxy_widths)
    assert [rank.wait() for rank in ranks] == [0, 0]
    reported = [json.loads(rank.text("out")) for rank in ranks]
    assert reported[0] == reported[1]
    assert max(abs(a - b) for a, b in zip(alone, reported[0], strict=True)) <= 1e-5
    assert alone[-1] < 0.95 * alone[0]


@pytest.fixture(autouse=True)
def few_data(few: str) -> None:
    """All ranks know the data set, those of torchrun, too."""


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Of a short training on drawn shapes, but for --out."""
    recipe = tmp_path_factory.mktemp("recipe") / "ranks.json"
    recipe.write_text(replace(RECIPE, stages=(Stage(12.0, 0.002, 0.0),)).to_json())
    return ["train", "--data", "few", "--recipe", str(recipe), "--no-report"]


@pytest.fixture
def whole(tmp_path_factory: pytest.TempPathFactory, words: list[str]) -> Path:
    """A run of two ranks that nothing happened to, started by torchrun; made once."""
    path = tmp_path_factory.getbasetemp() / "whole"
    if not path.exists():
        ended = torchrun("-m", "tenfold", *words, "--out", path)
        assert ended.returncode == 0, ended.stderr
    return path


def weights(run: Path) -> dict[str, np.ndarray]:
    return safetensors.numpy.load_file(run / "model.safetensors")


def test_torchrun_ends_the_others_where_a_rank_is_killed(tmp_path: Path, words: list[str], whole: Path) -> None:
    """To the bits of a run that nothing happened to."""
    strike = ("-m", "tests.support.ranks", "1", str(STRUCK_AT), str(int(signal.SIGKILL)))
    ended = torchrun(*strike, *words, "--out", tmp_path / "run")
    assert ended.returncode and newest_step(tmp_path / "run") == STRUCK_AT
    assert "tenfold: another rank ended, see its message; torchrun … train --resume resumes" in ended.stderr
    assert_resumes(run(command, *resume(tmp_path / "run")), tmp_path / "run", STRUCK_AT, whole)


@pytest.mark.parametrize(("rank", "number"), [(0, signal.SIGKILL), (1, signal.SIGTERM)])
def test_a_rank_that_ends_leaves_a_run_that_goes_on(
    tmp_path: Path, words: list[str], whole: Path, rank: int, number: signal.Signals
) -> None:
    """One directory, which only the first rank writes. A signal ends the step, on all ranks."""
    path = tmp_path / "run"
    ended = run(run_struck, rank, STRUCK_AT, int(number), *words, "--out", path)
    assert ended.returncode and not (path / "results.json").exists()
    newest = STRUCK_AT + (number == signal.SIGTERM)
    assert newest_step(path) == newest
    if number == signal.SIGTERM:
        how = f"the same torchrun … -m tenfold train --resume --out {path}"
        assert f"stopped at step {newest}; to resume: {how}" in ended.stderr
    assert_resumes(run(command, *resume(path)), path, newest, whole)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def newest_step(path: Path) -> int:
    return max(int(found.name[5:13]) for found in (path / "checkpoints").glob("step-*"))


def resume(path: Path) -> tuple[str | Path, ...]:
    return "train", "--resume", "--out", path, "--no-report", "--json"


def assert_resumes(again: Ended, path: Path, step: int, whole: Path) -> None:
    """It did so from that step, and ended with the bits of the whole run."""
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["run"] == str(path)
    assert f"resuming at step {step}" in again.stderr and "not bit for bit" not in again.stderr
    there, here = weights(whole), weights(path)
    assert all(np.array_equal(there[name], here[name]) for name in there)
    assert json.loads((path / "env.json").read_text())["ranks"] == 2


def test_ranks_train_a_plugins_network_and_the_first_calls_a_plugins_callback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plugins by path and by the name of a module, in every rank. The callback stops both."""
    plugins = (os.environ[registry.VARIABLE], str(ROOT / "examples" / "plugins" / "resnet.py"))
    monkeypatch.setenv(registry.VARIABLE, os.pathsep.join((*plugins, "tests.support.hooks_plugin")))
    recipe = {"name": "mine", "network": {"name": "resnet", "widths": [4, 8]}, "batch_size": 99, "tta": "one"}
    recipe["stages"] = [{"epochs": 3, "learning_rate": 0.1, "final_learning_rate": 0.0}]
    (tmp_path / "mine.json").write_text(json.dumps(recipe))
    words = ("train", "--data", "few", "--recipe", tmp_path / "mine.json", "--log", "hooks", "--no-report", "--json")
    ended = run(command, *words, "--out", tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout)
    assert (answer["parameters"], answer["epochs"]) == (1_358, 1.5)  # running means and variances are counted
    steps = [f"step end {step}" for step in range(1, 7)]
    steps.insert(4, "epoch end 1.0")
    hooks = ["fit start 0", *steps, "epoch end 1.5", "fit end 6", "evaluation end 1.5", "run end True"]
    assert (tmp_path / "run" / "logs" / "hooks.txt").read_text().splitlines() == [f"rank 0: {hook}" for hook in hooks]
    assert json.loads((tmp_path / "run" / "env.json").read_text())["ranks"] == 2


def test_what_is_wrong_is_said_once(tmp_path: Path, words: list[str]) -> None:
    """By the first rank; the other has waited for it."""
    (tmp_path / "there").mkdir()
    ended = run(command, *words, "--out", tmp_path / "there")
    assert ended.returncode and ended.stderr.count(f"tenfold: {tmp_path / 'there'}") == 1


def test_other_settings_for_a_resumed_run_are_refused_once(whole: Path) -> None:
    """By the first rank, which has the run directory. The other waits for it, so torchrun ends it."""
    ranks = start(command, "train", "--resume", "--out", whole, "--seed", 99)
    assert ranks[0].wait()
    ranks[1].kill()
    ended = end(ranks)
    assert ended.returncode and ended.stderr.count("was started with --seed") == 1


def test_ranks_share_a_label_file_and_corrections(words: list[str], tmp_path: Path) -> None:
    """The first rank has the options; the others read the same file and apply the same corrections."""
    drawn = make_shapes(train=150, test=1)
    lines = ["path,label,weight"]
    for number, label in enumerate(drawn.train.labels.tolist()):
        Image.fromarray(drawn.train.images[number]).save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,{'abc'[label % 3]},{1 + number % 2}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    (tmp_path / "corrections.csv").write_text("path,action,label\n0.png,drop,\n1.png,relabel,c\n")
    files = ("--labels", tmp_path / "labels.csv", "--corrections", tmp_path / "corrections.csv")
    recipe = words[words.index("--recipe") + 1]
    path = tmp_path / "run"
    ended = run(command, "train", "--recipe", recipe, *files, "--epochs", "2", "--no-report", "--out", path)
    assert ended.returncode == 0, ended.stderr
    assert json.loads((path / "env.json").read_text())["ranks"] == 2
    split = (path / "split.csv").read_text()
    assert "\n0.png," not in split and "\n1.png,c," in split
