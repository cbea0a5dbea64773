"""Folders whose decoded images do not fit into memory: the same results as in memory, with a part of the memory."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tenfold
from tenfold.data import Dataset, stored
from tenfold.data.check import find_alike
from tenfold.data.corrections import apply_corrections, parse_corrections
from tenfold.data.folder import load_folder
from tenfold.data.shapes import make_shapes
from tenfold.data.stored import StoredImages
from tenfold.evaluation.audit import _digest
from tenfold.evaluation.duplicates import find_duplicates
from tenfold.evaluation.outputs import digest_of_images
from tenfold.evaluation.plots import class_grid
from tenfold.training.augment import channel_stats
from tenfold.training.device import DeviceConfig
from tenfold.training.feature_cache import cached_features
from tenfold.training.images import StoredTensor, as_images, rows_of
from tenfold.training.infer import predict_logits
from tenfold.training.networks import EfficientNetLite0Spec, WhitenedSpec
from tenfold.training.recipe import Recipe
from tenfold.training.recipes import FAST89
from tenfold.training.trainer import Trainer
from tenfold.training.unlearned import find_unlearned_classes
from tests.support.images import write_mixed_shapes
from tests.support.waiting import LONG

CPU = DeviceConfig(torch.device("cpu"), torch.float32, 1, ())
RECIPE = replace(
    FAST89.with_epochs(2), network=WhitenedSpec(widths=(4, 8), whitening_pairs=4), batch_size=16, val_size=20
)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Dataset, Dataset]:
    """A folder of 160 shapes, a class of them rare, in memory and stored."""
    root, drawn = tmp_path_factory.mktemp("large"), make_shapes(train=200, test=0).train
    kept = np.flatnonzero((drawn.labels != 3) | (np.arange(200) < 60))[:160]
    for row in kept:
        folder = root / "photos" / f"{drawn.labels[row]}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(drawn.images[row])).save(folder / f"{row}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENFOLD_HOME", str(root / "home"))
        in_memory = load_folder(root / "photos")
        patch.setattr(stored, "MOST_IN_MEMORY", 0)
        return in_memory, load_folder(root / "photos")


def test_they_hold_the_same_images(both: tuple[Dataset, Dataset]) -> None:
    in_memory, large = both
    assert isinstance(in_memory.train.images, np.ndarray) and isinstance(large.train.images, StoredImages)
    for one, other in ((in_memory.train, large.train), (in_memory.test, large.test)):
        assert np.array_equal(one.images, np.asarray(other.images)) and np.array_equal(one.labels, other.labels)
        assert digest_of_images(one) == digest_of_images(other) and _digest(one) == _digest(other)
    assert list(find_alike(np.asarray(large.train.images))) == list(find_alike(large.train.images))


@pytest.mark.parametrize("changes", [{}, {"oversample": 0.5, "class_weight": 0.5, "low_res_fraction": 0.4}])
def test_training_ends_with_the_same_bits(both: tuple[Dataset, Dataset], changes: dict[str, float]) -> None:
    recipe: Recipe = replace(RECIPE, **changes)
    one, other = (Trainer(recipe, data, device=CPU).fit() for data in both)
    assert isinstance(other.images, StoredTensor) and other.val and isinstance(other.val[0], StoredTensor)
    assert torch.equal(one.log, other.log) and one.epochs[-1].val_loss == other.epochs[-1].val_loss
    for first, second in zip(one.network.parameters(), other.network.parameters(), strict=True):
        assert torch.equal(first, second)
    logits = [predict_logits(t.network, t.images, t.normalization, CPU, "six", 0.5) for t in (one, other)]
    assert torch.equal(logits[0].averaged, logits[1].averaged)
    assert find_unlearned_classes(*_asked(one)) == find_unlearned_classes(*_asked(other))


def _asked(trainer: Trainer) -> tuple[object, ...]:
    return trainer.network, trainer.images, trainer.labels, trainer.normalization, CPU


def test_features_and_their_cache_are_the_same(
    both: tuple[Dataset, Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TENFOLD_HOME", str(tmp_path))
    network = EfficientNetLite0Spec(weights="random").build(3, 32)
    images = [rows_of(as_images(data.train.images), slice(0, 20)) for data in both]
    normalization = channel_stats(images[0])
    assert channel_stats(images[1]) == normalization
    for mirrored in (False, True):
        first = cached_features(network, images[0], normalization, CPU, mirrored=mirrored)
        monkeypatch.setattr("tenfold.training.feature_cache._compute", None)  # so none would be computed again
        assert torch.equal(cached_features(network, images[1], normalization, CPU, mirrored=mirrored), first)
        monkeypatch.undo()
        monkeypatch.setenv("TENFOLD_HOME", str(tmp_path))


def test_duplicates_are_the_same(both: tuple[Dataset, Dataset]) -> None:
    features = torch.eye(160)[: len(both[0].train)], torch.eye(160)[: len(both[0].test)]
    found = [find_duplicates(data.train.images, data.test.images, *features) for data in both]
    assert found[0] == found[1]
    again = find_duplicates(both[1].test.images, both[0].test.images, features[1], features[1])
    assert [(pair.test, pair.train, pair.score) for pair in again] == [(n, n, 1.0) for n in range(len(features[1]))]


MEMORY = """
import re, sys
from pathlib import Path
import numpy as np, torch
from torch import nn
from tenfold.data import Dataset, Split, stored
from tenfold.data.cache import npy_header, open_images
from tenfold.evaluation.audit import _digest
from tenfold.evaluation.duplicates import find_duplicates
from tenfold.evaluation.outputs import digest_of_images
from tenfold.training.networks import specs
from tenfold.training.networks.module import Network
from tenfold.training.trainer import Trainer
import dataclasses
from tenfold.training.recipes import PRETRAINED


class Stub(Network):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return self.head(x.mean((2, 3)))


def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024


specs.EfficientNetLite0Spec.build = lambda self, classes, size: Stub()
specs.EfficientNetLite0Spec.initial_images = 1
path, shape = Path(sys.argv[1]), (4000, 224, 224, 3)
with path.open("wb") as file:  # sparse: it takes no disk
    file.write(npy_header(shape))
    for row in range(0, 4000, 2):
        file.seek(len(npy_header(shape)) + row * 224 * 224 * 3)
        file.write(b"\\xff" * 3000)
    file.truncate(len(npy_header(shape)) + 4000 * 224 * 224 * 3)
images, labels = open_images(path, shape), np.arange(4000) % 2
some = Split(images[:64], labels[:64].astype(np.uint8))
torch.set_num_threads(1)
recipe = dataclasses.replace(PRETRAINED, fine_tune="off")
Trainer(recipe, Dataset("small", ("a", "b"), some, some)).fit()  # so that all is imported
before = peak()
whole = Split(images, labels.astype(np.uint8))
order = np.random.default_rng(0).permutation(4000)
data = Dataset("large", ("a", "b"), whole[order[:3000]], whole[order[3000:]])
recipe = dataclasses.replace(recipe, val_size=500)
trainer = Trainer(recipe, data).fit()
digest_of_images(data.test), _digest(data.train)
features = [torch.ones(len(part), 2) for part in (data.test, data.train)]
find_duplicates(data.test[:20].images, data.train.images, features[0][:20], features[1])
print(peak() - before, images.nbytes)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_folder_takes_a_fraction_of_its_size(tmp_path: Path) -> None:
    """Splitting, features, scores and the audit's passes; without `StoredImages`, all of it and more."""
    call = [sys.executable, "-c", MEMORY, str(tmp_path / "images.npy")]
    env = {"TENFOLD_HOME": str(tmp_path / "home"), "PATH": "", "OMP_NUM_THREADS": "1"}
    answer = subprocess.run(call, capture_output=True, text=True, check=True, timeout=LONG, env=env)
    more, size = map(int, answer.stdout.split())
    assert size == 602_112_000 and more < 0.25 * size


@pytest.mark.slow
def test_a_run_on_stored_images_is_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scores, report, audit, file in 8 bits, card, maps, corrections, comparison, `data check`, classes as a plot."""
    monkeypatch.setenv("TENFOLD_HOME", str(tmp_path / "home"))
    folder = write_mixed_shapes(tmp_path / "photos", 120)
    recipe, runs = replace(RECIPE, val_size=10, name="narrow", images=100), dict[str, tenfold.Run]()
    for name, most in (("memory", 2**29), ("stored", 0)):
        monkeypatch.setattr(stored, "MOST_IN_MEMORY", most)
        run = runs[name] = tenfold.train(recipe, folder, tmp_path / name, report=name == "stored")
        found = run.audit()
        assert found.corruptions and found.labels
        assert run.export(int8="on", out=tmp_path / f"{name}.onnx", card=True).quantized
    assert runs["memory"].metrics.test_loss == runs["stored"].metrics.test_loss
    assert (tmp_path / "stored" / "report.html").is_file() and (tmp_path / "stored.md").is_file()
    kept = [json.loads((run.path / "audit" / "duplicates.json").read_text())["value"] for run in runs.values()]
    assert kept[0] == kept[1]
    assert runs["stored"].evaluate().scores.test_loss == runs["memory"].evaluate().scores.test_loss
    tenfold.compare(list(runs.values()), tmp_path / "comparison.html")
    data = tenfold.load(f"{folder}/")
    assert isinstance(data.train.images, StoredImages) and "32×32" in repr(data)
    class_grid(data.train.images, data.train.labels, data.classes, "shapes")
    name = str(data.train.names[0]) if data.train.names is not None else ""
    corrected = apply_corrections(data, parse_corrections(f"path,action\n{name},drop\n".encode()))
    assert len(corrected.train) == len(data.train) - 1 and isinstance(corrected.train.images, StoredImages)
