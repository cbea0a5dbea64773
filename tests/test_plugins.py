"""The examples in examples/plugins, from outside the package: registered, trained with, resumed, exported, checked."""

import gzip
import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tenfold
from tenfold import registry
from tenfold.data import DATASETS
from tenfold.errors import DataError, ModelError, UsageError
from tenfold.serving.exporters import EXPORTERS
from tenfold.training.augment import AUGMENTATIONS, Normalization, make_batch
from tenfold.training.networks import NETWORKS
from tests.support.process import Command, Invoke
from tests.support.waiting import LONG

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parents[1] / "examples" / "plugins"
NAMES = ("mnist", "resnet", "brightness", "npz")
PLUGINS = os.pathsep.join(str(FOLDER / f"{name}.py") for name in NAMES)
RECIPE = {
    "name": "mine",
    "network": {"name": "resnet", "widths": [4, 8]},
    "stages": [{"epochs": 2, "learning_rate": 0.1, "final_learning_rate": 0.0}],
    "batch_size": 32,
    "flip": "none",
    "augmentations": [{"name": "brightness", "amount": 0.1}],
    "low_res_fraction": 0.25,
    "tta": "one",
}


@pytest.fixture
def plugins(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """This process has the plugins, and has not loaded them yet."""
    registries: tuple[registry.Registry[Any], ...] = (DATASETS, NETWORKS, AUGMENTATIONS, EXPORTERS)
    for found in registries:
        monkeypatch.setattr(found, "_entries", dict(found._entries))
    monkeypatch.setattr(registry, "_loaded", False)
    monkeypatch.setenv(registry.VARIABLE, PLUGINS)
    yield
    registry._loaded = False


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TENFOLD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture(scope="module")
def idx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with MNIST's files, of 160 and 40 images: the digit d is a bar of width d + 1. Two are compressed."""
    folder = tmp_path_factory.mktemp("idx")
    rng = np.random.default_rng(0)
    for split, count in (("train", 160), ("t10k", 40)):
        labels = np.arange(count, dtype=np.uint8) % 10
        images = rng.integers(0, 60, (count, 28, 28), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[:, 4 : 6 + 2 * label] += 150
        write = gzip.compress if split == "train" else bytes
        suffix = ".gz" if split == "train" else ""
        header = struct.pack(">HBB3I", 0, 8, 3, count, 28, 28)
        (folder / f"{split}-images-idx3-ubyte{suffix}").write_bytes(write(header + images.tobytes()))
        header = struct.pack(">HBBI", 0, 8, 1, count)
        (folder / f"{split}-labels-idx1-ubyte{suffix}").write_bytes(write(header + labels.tobytes()))
    return folder


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(RECIPE))
    return path


def test_a_run_with_all_plugins_goes_through_the_commands(
    fork: Command, idx: Path, recipe_file: Path, tmp_path: Path
) -> None:
    """Each command is a process of its own, which knows the plugins by the environment only."""
    env = os.environ | {"TENFOLD_HOME": str(tmp_path / "home"), registry.VARIABLE: PLUGINS}

    def run(*words: str | Path) -> dict[str, Any]:
        ended = fork(*words, "--json", env=env, cwd=tmp_path)
        assert ended.returncode == 0, ended.stderr
        answer: dict[str, Any] = json.loads(ended.stdout)
        return answer

    kept = run("data", "download", "mnist", "--from", idx)
    assert (kept["train"], kept["test"]) == (160, 40)
    trained = run("train", "--data", "mnist", "--recipe", recipe_file, "--out", "run", "--no-report")
    assert (tmp_path / "run" / "model.onnx").is_file()
    assert trained["parameters"] == tenfold.Run.open(tmp_path / "run").metrics.parameters
    assert run("evaluate", "run")["test_accuracy"] == trained["test_accuracy"]
    exported = run("export", "run", "--to", "npz")
    assert (exported["format"], exported["verified_on"], exported["top1_agreement"]) == ("npz", "test images", 1)
    with np.load(tmp_path / "run" / "model.npz", allow_pickle=False) as arrays:
        assert arrays["classes"].tolist() == list("0123456789")
        assert arrays["weights/head.weight"].shape == (10, 8)


def test_without_the_plugin_a_run_says_what_is_missing(recipe_file: Path) -> None:
    with pytest.raises(UsageError) as caught:
        tenfold.Recipe.from_json(recipe_file.read_text(), "mine.json")
    assert str(caught.value) == (
        "mine.json: network.name: unknown network 'resnet'; known are reference, whitened, "
        "efficientnet-lite0; plugins add others (TENFOLD_PLUGINS)"
    )


# --- the data set ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("plugins", "home")
def test_idx_files_become_a_data_set(invoke: Invoke, idx: Path) -> None:
    code, out, _ = invoke("data", "download", "mnist", "--from", idx)
    assert code == 0 and "160 training and 40 test images, verified" in out
    mnist = tenfold.load("mnist")
    assert mnist.train.images.shape == (160, 28, 28, 3) and mnist.test.labels[:11].tolist() == [*range(10), 0]
    raw = gzip.decompress((idx / "train-images-idx3-ubyte.gz").read_bytes())[16:]
    assert np.ascontiguousarray(mnist.train.images[..., 2]).tobytes() == raw
    listed = json.loads(invoke("data", "list", "--json").stdout)["data"]
    assert [entry["name"] for entry in listed] == ["cifar10", "shapes", "mnist"]
    assert (listed[2]["available"], listed[2]["train"], listed[2]["shape"]) == (True, 60_000, [28, 28, 3])
    assert invoke("data", "delete", "mnist")[0] == 0
    with pytest.raises(DataError, match=r"MNIST cannot be downloaded: .*tenfold data download mnist --from PATH"):
        tenfold.load("mnist")


@pytest.mark.usefixtures("plugins", "home")
def test_a_cached_copy_without_published_checksums_is_checked_by_its_own(idx: Path, home: Path) -> None:
    from tenfold.data import get

    get("mnist", idx)
    path = home / "data" / "mnist" / "train_images.npy"
    content = bytearray(path.read_bytes())
    content[5_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="MNIST cannot be downloaded"):
        tenfold.load("mnist")


@pytest.mark.usefixtures("plugins", "home")
def test_a_file_that_is_cut_short_is_named(invoke: Invoke, idx: Path, tmp_path: Path) -> None:
    for path in idx.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    bad = tmp_path / "t10k-labels-idx1-ubyte"
    bad.write_bytes(bad.read_bytes()[:-1])
    code, _, err = invoke("data", "download", "mnist", "--from", tmp_path)
    assert code == 3 and f"{bad} is not an IDX file of bytes, or it is cut short" in err


@pytest.mark.usefixtures("plugins")
def test_a_typo_in_a_plugins_name_gets_a_suggestion(invoke: Invoke) -> None:
    code, _, err = invoke("data", "download", "mnits")
    assert code == 2 and "unknown data set 'mnits'; known are cifar10, shapes, mnist" in err
    assert "did you mean mnist?" in err


# --- network and augmentation ------------------------------------------------------------------------------------


def weights(trainer: tenfold.Trainer) -> list[torch.Tensor]:
    return [tensor.clone() for tensor in trainer.network.state_dict().values()]


@pytest.mark.usefixtures("plugins")
def test_a_resumed_run_of_plugins_ends_bit_identical(recipe_file: Path) -> None:
    recipe = tenfold.find_recipe(str(recipe_file))
    data = tenfold.load("shapes")
    data = tenfold.Dataset("few", data.classes, data.train[:160], data.test[:40])
    whole = tenfold.Trainer(recipe, data, device="cpu")
    while whole.step < 7:  # in the second epoch
        whole.train_step()
    checkpoint = whole.checkpoint()
    whole.fit()
    resumed = tenfold.Trainer(recipe, data, device="cpu")
    resumed.restore(checkpoint)
    resumed.fit()
    assert resumed.step == whole.step == 10
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed), weights(whole), strict=True))


@pytest.mark.usefixtures("plugins")
def test_brightness_is_added_to_values_in_0_to_1_before_they_are_normalised(recipe_file: Path) -> None:
    recipe = tenfold.find_recipe(str(recipe_file))
    images = np.random.default_rng(0).integers(0, 256, (200, 8, 8, 3), np.uint8)
    params = recipe.pipeline.sample(200, 8, seed=3, epoch=1)
    change, other = params["brightness"], recipe.pipeline.sample(200, 8, seed=3, epoch=2)["brightness"]
    assert change is not None and other is not None and not torch.equal(change, other)
    assert -0.1 <= change.min() < -0.09 and 0.09 < change.max() <= 0.1
    indices = torch.tensor([7, 3])
    shift = params["translate"]
    assert shift is not None
    shift[indices] = 0  # of the others test_augment.py tells
    normalization = Normalization((0.1, 0.2, 0.3), (0.5, 0.25, 2.0))
    batch = make_batch(torch.from_numpy(images), normalization, params, indices).permute(0, 2, 3, 1).numpy()
    for image, row in zip(batch, indices.tolist(), strict=True):
        lighter = np.clip(images[row] / 255 + change[row].item(), 0, 1)
        np.testing.assert_allclose(image, (lighter - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2.0], rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"augmentations": [{"name": "brightnes"}]}, "augmentations.name: unknown augmentation 'brightnes'; known are"),
        (
            {"augmentations": [{"name": "brightness", "amout": 1}]},
            "augmentations.amout: augmentation 'brightness' has no such field; did you mean amount?",
        ),
        ({"augmentations": [{"name": "brightness", "amount": 2}]}, "augmentations.amount: Input should be less"),
        ({"network": {"name": "resnet", "widths": "4"}}, "network.widths: Input should be a valid"),
        ({"low_res_size": 1, "network": {"name": "resnet"}}, "low_res_size: 1 pixels are too few: network 'resnet'"),
        ({"freeze_fraction": 0.5}, "freeze_fraction: network 'resnet' has no first group"),
        ({"l2": 0.5}, "l2: network 'resnet' has no such term"),
        ({"proxy_widths": [8]}, "proxy_widths: network 'resnet' can have no proxy"),
    ],
)
def test_what_does_not_fit_a_plugin_is_said_in_a_line(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        tenfold.Recipe.from_json(json.dumps(RECIPE | change), "mine.json")
    assert str(caught.value).startswith(f"mine.json: {message}") and "\n" not in str(caught.value)


# --- the exporter ------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("plugins")
def test_a_file_with_other_weights_is_not_kept(shapes_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    npz = EXPORTERS.find("npz")
    right = npz.write
    monkeypatch.setattr(npz, "write", lambda self, source: right(self, source._replace(about=_hotter(source.about))))
    with pytest.raises(ModelError, match="not exported: the file would differ from the network"):
        tenfold.Run.open(shapes_run).export("npz")
    assert not (shapes_run / "model.npz").exists()


def _hotter(about: Any) -> Any:
    from dataclasses import replace

    return replace(about, temperature=3.0)


@pytest.fixture
def shapes_run(tmp_path: Path, recipe_file: Path, plugins: None) -> Path:
    del plugins
    data = tenfold.load("shapes")
    data = tenfold.Dataset("few", data.classes, data.train[:160], data.test[:40])
    run = tenfold.train(recipe_file, data, out=tmp_path / "run", report=False, export=False)
    return run.path


def test_the_network_is_the_same_in_onnx(shapes_run: Path) -> None:
    exported = tenfold.Run.open(shapes_run).export()
    assert exported.max_abs_diff < 1e-4 and exported.top1_agreement == 1


def test_the_process_of_a_searchs_trial_knows_plugins() -> None:
    """It gets its recipe as text, and the environment of the search."""
    stages = [{"epochs": 0.05, "learning_rate": 0.1, "final_learning_rate": 0.0}]
    recipe = json.dumps(RECIPE | {"stages": stages, "val_size": 40})
    request = {"recipe": recipe, "data": "shapes", "size": 32, "resize": "stretch", "seed": 0}
    request |= {"skip_bad": "1%", "device": "cpu"}
    words = [sys.executable, "-m", "tenfold.training.trial"]
    env = os.environ | {registry.VARIABLE: PLUGINS}
    ended = subprocess.run(words, input=json.dumps(request), env=env, capture_output=True, text=True, timeout=LONG)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["epoch"] == pytest.approx(0.05, abs=0.01)
