"""The run directory: owned by one process, checkpoints that vouch for themselves, and a manifest that notices all."""

import hashlib
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from tenfold.errors import BusyError, ModelError, StorageError, UsageError
from tenfold.training.augment import Normalization
from tenfold.training.checkpoint import Checkpoint
from tenfold.training.device import DeviceConfig
from tenfold.training.manifest import MANIFEST
from tenfold.training.model import build
from tenfold.training.networks import WhitenedSpec
from tenfold.training.recipe import Recipe, Stage
from tenfold.training.run import Run, check_new
from tenfold.training.unfinished import find_unfinished
from tenfold.training.weights import describe_model

CPU = DeviceConfig(torch.device("cpu"), torch.float32, 1, ())
RECIPE = Recipe("mine", WhitenedSpec(widths=(8, 16), whitening_pairs=4), (Stage(1, 0.1, 0.0),))
CLASSES = ("ant", "bee", "猫")
PIXELS = Normalization((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = Run.create(tmp_path / "run", RECIPE, {"seed": 3})
    yield run
    run.unlock()


def make_network() -> nn.Module:
    torch.manual_seed(0)
    network = build(RECIPE.network, len(CLASSES), 16)
    network(torch.rand(4, 3, 16, 16))  # so that norms have seen something
    return network.eval()


@pytest.fixture
def finished(run: Run) -> Run:
    run.save_model(make_network(), describe_model(RECIPE.network, CLASSES, 16, PIXELS))
    run.write_json("results.json", {"test_accuracy": 0.5})
    (run.path / "plots").mkdir()
    (run.path / "plots" / "history.png").write_bytes(bytes(range(256)))
    run.write_manifest()
    return run


def make_checkpoint(step: int) -> Checkpoint:
    tensors = {"network.w": torch.full((3, 4), step / 7), "optimizer.0.1.m": torch.arange(5.0) * step}
    return Checkpoint(step, tensors, {"seconds": step * 1.5, "epochs": [{"epoch": 1.0, "val_loss": float("nan")}]})


def assert_is_checkpoint(checkpoint: Checkpoint | None, step: int) -> None:
    assert checkpoint is not None and checkpoint.step == step
    expected = make_checkpoint(step)
    assert checkpoint.tensors.keys() == expected.tensors.keys()
    assert all(torch.equal(checkpoint.tensors[name], tensor) for name, tensor in expected.tensors.items())
    assert str(checkpoint.notes) == str(expected.notes)  # as text: nan is no equal of nan


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def flip_bit(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


# --- making and finding ----------------------------------------------------------------------------------------------


def test_a_new_run_holds_its_recipe_and_environment(run: Run) -> None:
    assert files(run.path) == {"recipe.json", "env.json", ".lock", ".owner.json", ".tenfold"}
    assert Run.open(run.path).recipe == RECIPE
    assert run.read_json("env.json") == {"seed": 3}
    assert not run.trained and not run.scored


def test_a_path_that_exists_is_refused(tmp_path: Path, run: Run) -> None:
    run.unlock()
    for path in (run.path, tmp_path / "file"):
        path.exists() or path.write_text("mine")
        with pytest.raises(
            UsageError, match=f"{path} exists: choose another --out, or resume it: --resume --out {path}"
        ):
            Run.create(path, RECIPE, {})
    assert (tmp_path / "file").read_text() == "mine"


def test_a_path_where_a_run_is_in_use_is_busy(run: Run) -> None:
    """Two trainings into one `--out`: exit code 6, as for everything else that wants a run in use."""
    with pytest.raises(BusyError, match=f"{run.path} is in use by process {os.getpid()} since"):
        Run.create(run.path, RECIPE, {})
    with pytest.raises(BusyError):
        check_new(run.path)


def test_a_run_that_another_process_made_meanwhile_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the second look: "Directory not empty", and exit code 7."""
    path = tmp_path / "run"

    def make(_run: Run, _name: str, _value: object) -> None:
        path.mkdir()
        (path / "mine").touch()

    monkeypatch.setattr(Run, "write_json", make)
    with pytest.raises(UsageError, match=f"{path} exists: choose another --out"):
        Run.create(path, RECIPE, {})
    assert files(tmp_path) == {"run/mine"}


def test_a_beginning_that_fails_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the draft's removal: a folder ….partial stays."""

    def fail(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match="No space left on device"):
        Run.create(tmp_path / "run", RECIPE, {})
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=f"{tmp_path} is not a run directory: it has no recipe.json"):
        Run.open(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_a_file_that_is_no_json_object_is_named(run: Run, content: str) -> None:
    (run.path / "env.json").write_text(content, encoding="latin-1")
    with pytest.raises(ModelError, match=r"run/env\.json"):
        run.read_json("env.json")


def test_a_damaged_recipe_is_a_model_error(run: Run) -> None:
    (run.path / "recipe.json").write_text('{"name": 3}')
    with pytest.raises(ModelError, match=r"run/recipe\.json: name: "):
        _ = run.recipe


def test_the_newest_unfinished_run_is_found(tmp_path: Path) -> None:
    for age, name in enumerate(["old", "newest", "middle", "scored", ".draft"]):
        run = Run.create(tmp_path / name, RECIPE, {})
        if name == "scored":
            run.write_json("results.json", {})
            run.write_manifest()
        run.unlock()
        os.utime(run.path, (1e9, 1e9 + {"newest": 50, "scored": 60, ".draft": 70}.get(name, age)))
    assert find_unfinished(tmp_path).path == tmp_path / "newest"
    middle = Run.open(tmp_path / "middle")
    middle.lock()
    middle.save_checkpoint(make_checkpoint(1))  # a run that saves is touched
    middle.unlock()
    os.utime(middle.path, (1e9, 1e9))
    assert find_unfinished(tmp_path).path == tmp_path / "middle"


def test_a_damaged_run_and_one_in_use_are_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the `except` in `find_unfinished`: the first of them ended the search."""
    for name in ("wanted", "damaged", "in use"):
        run = Run.create(tmp_path / name, RECIPE, {})
        if name != "in use":
            run.unlock()
    (tmp_path / "damaged" / "manifest.json").write_text("{")
    os.utime(tmp_path / "wanted", (1e9, 1e9))
    assert find_unfinished(tmp_path).path == tmp_path / "wanted"
    assert capsys.readouterr().err.count("passed over") == 2
    run.unlock()


def test_nothing_to_resume(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "absent"):
        with pytest.raises(ModelError, match="nothing to resume: no unfinished run in"):
            find_unfinished(folder)


# --- one owner -------------------------------------------------------------------------------------------------------

OWNER = """
import sys
from pathlib import Path
from tenfold.training.run import Run
run = Run.open(Path(sys.argv[1]))
run.lock()
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_run_has_one_owner_and_a_killed_one_leaves_no_lock(run: Run) -> None:
    """Without `lock.acquire`: no error. With a timeout of 3 instead of 0: too late."""
    run.unlock()
    words = [sys.executable, "-c", OWNER, str(run.path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == "locked\n"
        refusal = f"{run.path} is in use by process {owner.pid} since 20.*: wait for it or stop"
        seconds = []
        for _ in range(3):
            began = time.perf_counter()
            with pytest.raises(BusyError, match=refusal):
                run.lock()
            seconds.append(time.perf_counter() - began)
        assert min(seconds) < 1, "each waits, not only one that a busy machine kept"
        owner.send_signal(signal.SIGKILL)
    run.lock()
    assert run.read_json(".owner.json")["pid"] == os.getpid()


def test_the_owner_removes_what_killed_ones_left(run: Run) -> None:
    run.unlock()
    for name in (".model.safetensors.x1.partial", "checkpoints/.step-00000001.x2.partial"):
        path = run.path / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    run.lock()
    assert files(run.path) == {"recipe.json", "env.json", ".lock", ".owner.json", ".tenfold"}


# --- checkpoints -----------------------------------------------------------------------------------------------------


def test_a_checkpoint_comes_back_as_it_went(run: Run) -> None:
    assert run.load_checkpoint() is None
    path = run.save_checkpoint(make_checkpoint(7))
    assert path.name == f"step-00000007-{hashlib.sha256(path.read_bytes()).hexdigest()[:16]}.safetensors"
    assert_is_checkpoint(run.load_checkpoint(), 7)


def test_the_newest_two_are_kept(run: Run) -> None:
    for step in (9, 10, 100):
        run.save_checkpoint(make_checkpoint(step))
    assert [path.name[:13] for path in run.checkpoints()] == ["step-00000100", "step-00000010"]
    assert_is_checkpoint(run.load_checkpoint(), 100)


def damage(path: Path) -> Iterator[str]:
    """Five truncations and fifty flipped bits, one after another; the file is whole again in the end."""
    whole, draw = path.read_bytes(), random.Random(0)
    for length in (0, 7, len(whole) // 2, len(whole) - 4, len(whole) - 1):
        path.write_bytes(whole[:length])
        yield f"cut to {length} bytes"
    for bit in draw.sample(range(8 * len(whole)), 50):
        path.write_bytes(whole)
        flip_bit(path, bit)
        yield f"bit {bit} flipped"
    path.write_bytes(whole)


def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Without the comparison with the name: safetensors' own error at the first truncation."""
    run.save_checkpoint(make_checkpoint(1))
    newest = run.save_checkpoint(make_checkpoint(2))
    count = 0
    for what in damage(newest):
        assert_is_checkpoint(run.load_checkpoint(), 1)
        assert capsys.readouterr().err == f"{newest} is damaged and skipped\n", what
        count += 1
    assert count == 55
    assert_is_checkpoint(run.load_checkpoint(), 2)
    flip_bit(newest, 800)
    assert_is_checkpoint(run.load_checkpoint(), 1)
    run.save_checkpoint(make_checkpoint(2))
    assert len(run.checkpoints()) == 2, "damaged ones do not take the place of sound ones"
    assert_is_checkpoint(run.load_checkpoint(), 2)


def test_if_all_are_damaged_there_is_no_silent_restart(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Without `if paths: raise`: None, as if nothing had ever been trained."""
    for path in [run.save_checkpoint(make_checkpoint(step)) for step in (1, 2)]:
        flip_bit(path, 800)
    with pytest.raises(ModelError, match="run/checkpoints: every checkpoint is damaged; remove the folder to restart"):
        run.load_checkpoint()
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_a_full_disk_leaves_the_checkpoints_there_were(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the write to a temporary name: nothing whole is left; without its removal: a file ….partial."""
    for step in (1, 2):
        run.save_checkpoint(make_checkpoint(step))
    before = files(run.path)

    def fail(_handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(StorageError, match=r"cannot write .*step-00000003.*: No space left on device"):
        run.save_checkpoint(make_checkpoint(3))
    monkeypatch.undo()
    assert files(run.path) == before
    assert_is_checkpoint(run.load_checkpoint(), 2)


# --- the model -------------------------------------------------------------------------------------------------------


def test_a_model_comes_back_with_all_it_must_know(finished: Run) -> None:
    model = Run.open(finished.path).load_model(CPU)
    assert (model.classes, model.size, model.normalization) == (CLASSES, 16, PIXELS)
    assert not model.network.training
    images = torch.rand(5, 3, 16, 16).contiguous(memory_format=torch.channels_last)
    assert torch.equal(model.network(images), make_network()(images))
    filters = [p for p in model.network.parameters() if p.ndim == 4]
    assert len(filters) == 5
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in filters)  # safetensors keeps it not


def rewrite_description(run: Run, **changes: Any) -> None:
    run.write_json("model.json", run.read_json("model.json") | changes)
    run.write_manifest()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        (
            {"network": {"name": "whitened", "widths": [8, 32], "whitening_pairs": 4}},
            r"size mismatch for groups\.1\.convs",
        ),
        (
            {"network": {"name": "reference"}, "size": 32},
            r"Missing key\(s\) in state_dict: \"blocks\.0\.convs\.0\.weight",
        ),
        ({"classes": ["ant", "bee"]}, r"size mismatch for head\.weight.*\[3, 16\].*\[2, 16\]"),
        ({"network": {"name": "resnet"}}, r"model\.json: not understood"),
        ({"network": {"nombre": "whitened"}}, r"model\.json: not understood"),
        ({"network": None}, r"model\.json: not understood"),
        ({"size": 1}, r"model\.json: not understood \(1×1 images are too small"),
    ],
)
def test_weights_of_another_network_are_refused_by_what_differs(
    finished: Run, changes: dict[str, Any], named: str
) -> None:
    """Without the `except` in `_fill`: torch's own errors, a screenful each."""
    rewrite_description(finished, **changes)
    with pytest.raises(ModelError, match=named) as caught:
        finished.load_model(CPU)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(finished: Run, bad: float) -> None:
    """Without that test: they load."""
    network = make_network()
    with torch.no_grad():
        network.get_parameter("groups.1.convs.0.weight")[3, 2, 1, 0] = bad
    finished.save_model(network, describe_model(RECIPE.network, CLASSES, 16, PIXELS))
    finished.write_manifest()
    with pytest.raises(
        ModelError, match=r"model\.safetensors: groups\.1\.convs\.0\.weight holds numbers that are not fin"
    ):
        finished.load_model(CPU)


class Bomb:
    """What must never be unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("raise AssertionError('a pickle was opened')",)


@pytest.mark.parametrize("kind", ["pickle", "torch"])
def test_a_pickle_is_refused_unopened(finished: Run, kind: str) -> None:
    """Without the `except` in `_fill`: safetensors' error "header too large"; nothing here could run a pickle."""
    path = finished.path / "model.safetensors"
    if kind == "torch":
        torch.save({"weights": Bomb()}, path)
    else:
        path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(ModelError, match=r"model\.safetensors is damaged"):
        finished.load_model(CPU)
    finished.write_manifest()  # even where the manifest vouches for it
    with pytest.raises(ModelError, match=r"model\.safetensors: not the weights that model\.json describes"):
        finished.load_model(CPU)


# --- the manifest ----------------------------------------------------------------------------------------------------


def test_the_manifest_holds_every_file_but_private_ones(finished: Run) -> None:
    finished.save_checkpoint(make_checkpoint(1))
    finished.write_manifest()
    manifest = json.loads((finished.path / MANIFEST).read_text())
    assert manifest["format"] == 1
    listed = {"recipe.json", "env.json", "results.json", "model.json", "model.safetensors", "plots/history.png"}
    assert set(manifest["files"]) == listed
    for name, digest in manifest["files"].items():
        assert digest == hashlib.sha256((finished.path / name).read_bytes()).hexdigest()
    finished.verify()
    assert finished.trained and finished.scored


def test_two_hundred_damages_are_all_noticed(finished: Run) -> None:
    """Bits flipped and ends cut off in every file. Without `verify`'s comparison: the first is not."""
    draw, count = random.Random(1), 0
    names = sorted(files(finished.path) - {".lock", ".owner.json", ".tenfold"})
    assert len(names) == 7
    while count < 200:
        path = finished.path / names[count % len(names)]
        whole = path.read_bytes()
        if draw.random() < 0.7:
            flip_bit(path, draw.randrange(8 * len(whole)))
        else:
            path.write_bytes(whole[: draw.randrange(len(whole) - 1)])  # a last newline may go
        with pytest.raises(ModelError, match=path.name if path.name != MANIFEST else r"manifest\.json|missing|damaged"):
            finished.verify()
        path.write_bytes(whole)
        count += 1
    finished.verify()


def test_a_missing_file_is_named(finished: Run) -> None:
    (finished.path / "plots" / "history.png").unlink()
    with pytest.raises(ModelError, match=r"plots/history\.png is missing"):
        finished.verify()


@pytest.mark.parametrize("version", [2, None, "1"])
def test_another_format_is_refused_by_its_number(finished: Run, version: Any) -> None:
    manifest = finished.read_json(MANIFEST)
    finished.write_json(MANIFEST, manifest | {"format": version})
    with pytest.raises(ModelError, match=f"manifest.json: format {version!r} is unknown to this version"):
        finished.load_model(CPU)


def test_a_run_that_has_not_finished_gives_no_model(run: Run) -> None:
    run.save_model(make_network(), describe_model(RECIPE.network, CLASSES, 16, PIXELS))
    with pytest.raises(
        ModelError, match=f"has not finished training: resume it with tenfold train --resume --out {run.path}"
    ):
        run.load_model(CPU)


def test_a_file_that_nobody_vouches_for_is_damaged(finished: Run) -> None:
    (finished.path / "model.onnx").write_bytes(b"new")
    with pytest.raises(ModelError, match=r"model\.onnx is damaged"):
        finished.verify("model.onnx")


def test_scores_written_again_are_sound_wherever_a_kill_cuts_in(finished: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without what the manifest says of before: a kill between the file and the manifest left it damaged for good."""
    replace_file = Path.replace

    def killed_after(count: int) -> None:
        left = iter(range(count))

        def replaced(self: Path, target: Path) -> Path:
            if next(left, None) is None:
                raise KeyboardInterrupt
            return replace_file(self, target)

        monkeypatch.setattr(Path, "replace", replaced)

    finished.rewrite_in_manifest({"results.json": "{}\n", "predictions.csv": "0\n"})
    for round_ in range(3):
        for count in range(4):  # manifest, scores, predictions, manifest
            contents = {"results.json": f'{{"round": {round_}, "cut": {count}}}\n', "predictions.csv": f"{count}\n"}
            killed_after(count)
            with pytest.raises(KeyboardInterrupt):
                finished.rewrite_in_manifest(contents)
            finished.verify()
            assert finished.scored
    monkeypatch.undo()
    finished.rewrite_in_manifest({"results.json": "{}\n", "predictions.csv": "\n"})
    finished.verify()
    assert "before" not in finished.read_json(MANIFEST)
    (finished.path / "results.json").write_text("{} \n")
    with pytest.raises(ModelError, match=r"results\.json is damaged"):
        finished.verify()


def test_all_weights_and_buffers_are_in_the_file(finished: Run) -> None:
    stored = safetensors.torch.load_file(finished.path / "model.safetensors")
    expected = make_network().state_dict()
    assert stored.keys() == expected.keys()
    assert all(torch.equal(stored[name], expected[name]) for name in expected)
    assert replace(RECIPE.network) == finished.description.network
