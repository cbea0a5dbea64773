"""Many runs on a cluster: the numbers of one machine, also where a node dies in the middle."""

import contextlib
import csv
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from PIL import Image
from pyarrow import parquet

import tenfold
from tenfold import registry
from tenfold.data.shapes import make_shapes
from tenfold.errors import DivergedError, UsageError
from tenfold.scaling import bench, cluster
from tenfold.scaling.address import check
from tenfold.scaling.space import Range, with_fields
from tenfold.scaling.tune import Search, Setting, Trial
from tenfold.training.recipe import Recipe
from tenfold.training.recipes import FAST89
from tests.support.process import ROOT, Command, Invoke

RAY = pytest.mark.filterwarnings("ignore")  # Ray's own
RUNS = 3
IMAGES, DRAWN = 16_000, 500


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:1", "no Ray cluster at 127.0.0.1:1: begin one with ray start --head"),
        ("nowhere", "--cluster nowhere: write HOST:PORT"),
        ("ray://10.0.0.1:10001", "--cluster ray://10.0.0.1:10001: write 10.0.0.1:6379, the address that ray start"),
        ("http://10.0.0.1:8265", "--cluster http://10.0.0.1:8265: write 10.0.0.1:6379, the address that ray start"),
        ("no-such-host.invalid:6379", "there is no machine named no-such-host.invalid"),
        ("127.0.0.1:99999", "write HOST:PORT"),
    ],
)
@RAY
def test_where_there_is_no_cluster_it_is_said(address: str, said: str) -> None:
    began = time.monotonic()
    with pytest.raises(UsageError, match=said), cluster.connected(address):
        pass
    assert time.monotonic() - began < 60  # of them, importing Ray on a busy machine takes most
    assert os.environ["RAY_USAGE_STATS_ENABLED"] == "0"


@contextlib.contextmanager
def listening(first: bytes | None) -> Iterator[str]:
    """Something that is not Ray, on every address of this machine: it says `first` to whoever comes, then nothing."""
    server, kept = socket.create_server(("", 0)), []

    def answer() -> None:
        with contextlib.suppress(OSError):
            while True:
                kept.append(server.accept()[0])
                kept[-1].sendall(first or b"")

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        server.shutdown(socket.SHUT_RDWR)
        thread.join()
        for each in (*kept, server):
            each.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "said"),
    [
        (None, "nothing answers at ADDRESS within 1 seconds: begin one"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "what answers at ADDRESS is no Ray cluster, or one that wants a token"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "what answers at ADDRESS is no Ray cluster, or one that wants a token"),
        (bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]), "what answers at ADDRESS is no Ray cluster, or one that wants a token"),
    ],
    ids=["silent", "web", "ssh", "another gRPC"],
)
@RAY
def test_what_is_no_cluster_is_said(monkeypatch: pytest.MonkeyPatch, first: bytes | None, said: str) -> None:
    """Each kept Ray waiting for minutes, with warnings of its own."""
    if first is None or first[:1] == b"\0":  # these are given up by time
        monkeypatch.setattr("tenfold.scaling.address.PATIENCE", 1.0 if first is None else 6.0)
    with listening(first) as address, pytest.raises(UsageError) as caught, cluster.connected(address):
        pass
    assert str(caught.value).startswith(said.replace("ADDRESS", address))


def test_a_cluster_with_tls_is_left_to_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its first bytes are an alert of TLS, since ours are none of it: that was taken for another service."""
    alert = bytes([21, 3, 3, 0, 2, 2, 70])
    with listening(alert) as address:
        with pytest.raises(UsageError, match="is no Ray cluster"):
            check(address)
        monkeypatch.setenv("RAY_USE_TLS", "1")
        check(address)
    with pytest.raises(UsageError, match="no Ray cluster at"):
        check(address)  # nothing listens there any more


@pytest.mark.slow
def test_a_client_address_ends_with_one_line(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    words = ["predict", "a.png", "--out", "x", "--cluster", "ray://10.0.0.1:10001"]
    answer = invoke(*words, cwd=tmp_path)
    assert answer.returncode == 2 and answer.stderr.count("\n") == 1 and "write 10.0.0.1:6379" in answer.stderr


@pytest.mark.slow
def test_without_ray_the_extra_is_named(command: Command, tmp_path: Path) -> None:
    hidden = tmp_path / "sitecustomize.py"
    hidden.write_text(
        "import importlib.util as u\nfind = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name == 'ray' else find(name, *rest)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    answer = command("bench", "--cluster", "auto", env=environment)
    assert answer.returncode == 2 and "this needs ray of the extra 'cluster'" in answer.stderr


def test_cpus_are_asked_of_a_cluster_only(invoke: Invoke) -> None:
    answer = invoke("bench", "--cpus", 1)
    assert answer.returncode == 2 and "--cpus goes with --cluster" in answer.stderr


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["a.png", "b.png", "--out", "x"], 2, "takes one source"),
        (["a.png"], 2, "takes one source"),
        (["absent", "--out", "x"], 3, "absent is not there"),
        (["a.png", "--out", "x"], 2, "no Ray cluster at 127.0.0.1:1"),
    ],
)
def test_wrong_questions_are_refused_here(
    invoke: Invoke, tmp_path: Path, words: list[str], code: int, said: str
) -> None:
    """A source that is not there leaves no folder behind, which would be another request's afterwards."""
    (tmp_path / "a.png").touch()
    answer = invoke("predict", *words, "--cluster", "127.0.0.1:1", cwd=tmp_path)
    assert answer.returncode == code and said in answer.stderr and len(answer.stderr.splitlines()) == 1
    assert (tmp_path / "x").exists() == ("no Ray" in said)


def test_answers_are_kept_apart(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    question = cluster.PredictJob("a", "", 1, False, "digest", "onnxruntime")
    with pytest.raises(UsageError, match="holds other things"):
        question.claim_folder(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".request.json.x.partial").touch()  # as a killed process leaves it
    question.claim_folder(tmp_path / "out")
    question.claim_folder(tmp_path / "out")
    with pytest.raises(UsageError, match="another request"):
        replace(question, source="b").claim_folder(tmp_path / "out")
    with pytest.raises(UsageError, match="another request"):
        replace(question, runtime="openvino").claim_folder(tmp_path / "out")


NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """Two Ray nodes of one CPU each on this machine, which know the data set `few`; their files go when they do."""
    from ray.cluster_utils import Cluster

    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="tf-", dir="/tmp", ignore_cleanup_errors=True) as folder,  # short: sockets
    ):
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_worker_niceness", "0")  # by default workers get what other tests leave
        patch.setenv(registry.VARIABLE, str(ROOT / "tests" / "support" / "few_plugin.py"))
        nodes = Cluster(initialize_head=True, head_node_args=NODE | {"include_dashboard": False})
        nodes.second, nodes.folder = nodes.add_node(**NODE), folder
        patch.undo()
        yield nodes
        nodes.shutdown()


@pytest.fixture
def two_nodes(nodes: Any, monkeypatch: pytest.MonkeyPatch, few: str) -> Any:
    """The same two for all tests; where one was killed, another one in its place."""
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    if nodes.second not in nodes.worker_nodes:
        nodes.second = nodes.add_node(**NODE)
    return nodes


@pytest.mark.acceptance
@RAY
def test_a_node_dies_and_the_numbers_are_those_of_one_machine(
    command: Command, two_nodes: Any, tiny_recipe: Path, tmp_path: Path
) -> None:
    """Ray's message on the dead node once stood before the JSON."""
    words = ["bench", "--recipe", str(tiny_recipe), "--runs", str(RUNS), "--data", "few", "--json", "--out"]
    line = [sys.executable, "-m", "tenfold", *words, str(tmp_path / "far"), "--cluster", two_nodes.address]
    process = subprocess.Popen([*line, "--cpus", "1"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list((tmp_path / "far").glob("tiny-*.json")) and process.poll() is None:
        time.sleep(0.1)
    two_nodes.remove_node(two_nodes.second, allow_graceful=False)
    answer, remarks = process.communicate(timeout=900)
    assert process.returncode == 0, remarks
    (far,) = json.loads(answer)["results"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    (near,) = json.loads(command(*words, tmp_path / "near", env=environment).stdout)["results"]
    assert [run["accuracy"] for run in far["runs"]] == [run["accuracy"] for run in near["runs"]] and far["n"] == RUNS
    for name in (f"tiny-{seed}" for seed in range(RUNS)):
        weights = [(tmp_path / place / name / "model.safetensors").read_bytes() for place in ("near", "far")]
        assert weights[0] == weights[1]
    assert {path.name for path in (tmp_path / "far").iterdir()} == {path.name for path in (tmp_path / "near").iterdir()}


@pytest.mark.acceptance
@RAY
def test_a_run_that_no_node_can_take_is_refused(two_nodes: Any, tmp_path: Path) -> None:
    request = cluster.Request(cpus=64)
    with pytest.raises(UsageError, match="no node of the cluster has 64 CPUs: ask for fewer with --cpus"):
        where = (("shapes", 32, "stretch", "1%"), two_nodes.address, request)
        cluster.bench({"fast89": FAST89}, [0], tmp_path / "out", bench.Setting(), *where)
    setting = Setting(FAST89, {"weight_decay": Range(0.0, 1e-5)}, 500, "shapes", 32, "stretch", "cpu", 0)
    with pytest.raises(UsageError, match="no node of the cluster has 64 CPUs"):
        cluster.tune(setting, 2, tmp_path / "out", two_nodes.address, request)
    assert not (tmp_path / "out").exists()


@pytest.mark.acceptance
@RAY
def test_workers_die_and_every_image_is_answered_once(
    command: Command, two_nodes: Any, tiny_recipe: Path, tmp_path: Path
) -> None:
    """Two workers are killed in the middle; then the command is, and goes on. Against one machine, bit for bit."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, image in enumerate(make_shapes(train=1, test=DRAWN).test.images):
        Image.fromarray(image).save(folder / f"{i:05}.png")
    for i in range(DRAWN, IMAGES):
        (folder / f"{i:05}.png").hardlink_to(folder / f"{i % DRAWN:05}.png")
    (folder / "00077.png").unlink()
    (folder / "00077.png").write_bytes(b"no picture")
    trained = tenfold.train(tiny_recipe, "few", tmp_path / "run", epochs=0.5, report=False, progress=False)
    model = str(trained.path / "model.onnx")
    far, words = tmp_path / "far", ["predict", str(folder), "--model", model, "--cluster", two_nodes.address, "--out"]
    process = subprocess.Popen([sys.executable, "-m", "tenfold", *words, str(far)], stderr=subprocess.DEVNULL)
    for count in (1, 2):
        await_files(far, count, process)
        kill_a_worker()
    await_files(far, 4, process)
    process.kill()
    process.wait()
    answer = command(*words, far)
    assert answer.returncode == 8 and f"1 of {IMAGES:,} images could not be read" in answer.stderr
    assert "00077.png: " in answer.stderr
    rows = [row for part in sorted(far.glob("*.parquet")) for row in parquet.read_table(part).to_pylist()]
    near = command("predict", folder, "--model", model, "--out", tmp_path / "near.jsonl")
    assert near.returncode == 8
    lines = [json.loads(line) for line in (tmp_path / "near.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == [line["path"] for line in lines] and len(rows) == IMAGES
    assert [row["label"] for row in rows] == [line.get("label") for line in lines]
    assert [row["probability"] for row in rows] == [line.get("probability") for line in lines]


def await_files(folder: Path, count: int, process: "subprocess.Popen[bytes]") -> None:
    """Until so many shards are answered."""
    while len(list(folder.glob("*.parquet"))) < count:
        assert process.poll() is None, "it ended before it could be disturbed"
        time.sleep(0.02)


def kill_a_worker() -> None:
    """SIGKILL to one process that answers a shard now."""
    while True:
        children = psutil.Process().children(recursive=True)
        for child in children:
            with contextlib.suppress(psutil.Error):
                if "predict_remotely" in " ".join(child.cmdline()):
                    child.kill()
                    return
        time.sleep(0.02)


@pytest.mark.acceptance
@RAY
def test_a_search_tries_two_at_once(command: Command, two_nodes: Any, tiny_recipe: Path, tmp_path: Path) -> None:
    """Each trial scores what it scores on one machine; the search goes on where it was, there or here."""
    space = tmp_path / "space.json"
    space.write_text(json.dumps({"stages.0.learning_rate": {"low": 0.05, "high": 0.5, "log": True}}))
    words = ["tune", tiny_recipe, "--space", space, "--data", "few", "--out", tmp_path / "t", "--json"]
    far = ("--cluster", two_nodes.address, "--cpus", "1")
    answer = command(*words, "--trials", "4", *far)
    assert answer.returncode == 0, answer.stderr
    result = json.loads(answer.stdout)
    assert (result["completed"], result["failed"]) == (4, 0)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    more = json.loads(command(*words, "--trials", "5", env=environment).stdout)
    assert more["trials"][:4] == result["trials"] and len(more["trials"]) == 5
    recipe = with_fields(Recipe.from_json(tiny_recipe.read_bytes()), result["trials"][1]["fields"])
    (tmp_path / "one.json").write_text(recipe.to_json())
    run = ["train", "--recipe", tmp_path / "one.json", "--data", "few", "--val-size", result["val_images"], "--json"]
    assert command(*run, "--out", tmp_path / "run", "--no-report", env=environment).returncode == 0
    *_, last = csv.DictReader((tmp_path / "run" / "metrics.csv").read_text().splitlines())
    assert float(last["val_accuracy"]) == pytest.approx(result["trials"][1]["val_accuracy"], abs=1e-6)


@pytest.mark.acceptance
@RAY
def test_a_search_whose_trials_diverge_says_so(two_nodes: Any, tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = with_fields(Recipe.from_json(tiny_recipe.read_bytes()), {"optimizer": "adam"})
    space = {"stages.0.learning_rate": Range(1e30, 1e31)}
    setting = Setting(recipe, space, 40, "few", 32, "stretch", "cpu", 0)
    with pytest.raises(DivergedError, match=r"none of 2 trials came through; the last: loss is \w+ at step"):
        cluster.tune(setting, 2, tmp_path / "t", two_nodes.address, cluster.Request(1))


@pytest.mark.acceptance
@RAY
def test_a_trial_ended_early_leaves_its_node_to_others(
    two_nodes: Any, tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first trial would train for hours; both nodes are needed to tell that it is gone."""
    judge = Search.report

    def report(self: Search, trial: Trial, accuracy: float) -> bool:
        if trial.recipe.epochs < 1000:
            return judge(self, trial, accuracy)
        self._end(trial.drawn, "PRUNED", "pruned", "ended early")
        return False

    monkeypatch.setattr(Search, "report", report)
    monkeypatch.setattr(Search, "_draw", lambda self: fixed(self, [5000.0, 1.0, 1.0]))
    setting = Setting(
        Recipe.from_json(tiny_recipe.read_bytes()),
        {"stages.0.epochs": Range(1.0, 5000.0)},
        40,
        "few",
        32,
        "stretch",
        "cpu",
        0,
    )
    study = cluster.tune(setting, 3, tmp_path / "t", two_nodes.address, cluster.Request(1))
    assert [trial.state.name for trial in study.trials] == ["PRUNED", "COMPLETE", "COMPLETE"]
    until = time.monotonic() + 20
    while left := trials_at_work(two_nodes.folder):
        assert time.monotonic() < until, f"still at work: {left}"
        time.sleep(0.2)


def fixed(search: Search, epochs: list[float]) -> Any:
    """The next trial, with its epochs given."""
    search.study.enqueue_trial({"stages.0.epochs": epochs[search.asked]})
    search.asked += 1
    return search.study.ask()


def trials_at_work(folder: str) -> list[int]:
    """Processes that train a trial of the cluster with its files in `folder`."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        with contextlib.suppress(psutil.Error):  # it has ended
            is_trial = "tenfold.training.trial" in (process.info["cmdline"] or [])
            if is_trial and process.environ().get("RAY_TMPDIR") == folder:
                found.append(process.pid)
    return found
