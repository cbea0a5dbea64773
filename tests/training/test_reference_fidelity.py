"""The `reference` recipe held against real Keras on TensorFlow: the same numbers at every step, not similar curves.

Keras runs in a process of its own (`tests/support/keras_steps.py`) on weights and batches that are given to it. Dropout
is off, since its draws cannot be the same; test_model.py has its share and scale. Steps are taken in float64, as the
first steps of Adam make every difference about forty times as large: rounding errors of float32 are a fifth of the way
after five.
"""

import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold.data.shapes import make_shapes
from tenfold.training.augment import make_batch, make_generator
from tenfold.training.device import DeviceConfig
from tenfold.training.model import l2_penalty
from tenfold.training.networks.reference import KerasNorm
from tenfold.training.optimizers import KerasAdam
from tenfold.training.recipes import REFERENCE
from tenfold.training.summary import count_parameters
from tenfold.training.trainer import Trainer, to_tensors
from tests.support.process import ROOT

pytestmark = pytest.mark.acceptance

CPU = DeviceConfig(torch.device("cpu"), torch.float32, 1, ())
STEPS = 8
BATCH = 16
RECIPE = replace(
    REFERENCE,
    batch_size=BATCH,
    val_size=0,
    network=replace(REFERENCE.network, dropout=0.0),
    stages=tuple(
        replace(stage, epochs=steps / STEPS) for stage, steps in zip(REFERENCE.stages, (5, 2, 1), strict=True)
    ),
)
DATASET = make_shapes(train=BATCH * STEPS, test=64)
BENCHMARKS = ROOT / "benchmarks"
KINDS = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
NO_GRADIENT = ("from_image/bias", "from_block/bias")
"""A shift of a whole channel, which the batch norm that follows takes out again."""

Arrays = dict[str, np.ndarray]


def keras_name(name: str) -> str:
    """`blocks.0.convs.1.weight` → `block1_conv2/kernel`."""
    *path, kind = name.split(".")
    words = "".join(str(int(part) + 1) if part.isdigit() else f"_{part.rstrip('s')}" for part in path)
    in_norm = path[-1] == "norm"
    return f"{words.lstrip('_')}/{KINDS[kind] if in_norm else {'weight': 'kernel', 'bias': 'bias'}[kind]}"


def to_keras(tensors: dict[str, Tensor]) -> Arrays:
    """Our names and layouts → Keras's: filters H×W×C_in×C_out, matrices inputs × outputs."""
    order = {4: (2, 3, 1, 0), 2: (1, 0), 1: (0,)}
    named = {name: tensor for name, tensor in tensors.items() if "num_batches" not in name}
    return {keras_name(name): tensor.detach().numpy().transpose(order[tensor.ndim]) for name, tensor in named.items()}


def prefixed(prefix: str, arrays: Arrays) -> Arrays:
    return {f"{prefix}/{name}": np.array(array) for name, array in arrays.items()}


def below(prefix: str, arrays: Arrays) -> Arrays:
    return {name.removeprefix(f"{prefix}/"): array for name, array in arrays.items() if name.startswith(f"{prefix}/")}


class DoubleFit(Trainer):
    """The same loop in float64, with the constants that Keras rounds to float32 rounded as it does."""

    def next_batch(self) -> tuple[Tensor, Tensor, Tensor]:
        batch, labels, indices = super().next_batch()
        return batch.double(), labels, indices

    def _set_up_step(self) -> None:
        super()._set_up_step()
        for group in self.optimizers[0].param_groups:
            group |= {name: float(np.float32(group[name])) for name in ("lr", "beta1", "beta2")}

    def train_step(self) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Tensor, "float", lambda x: x if x.dtype == torch.float64 else x.to(torch.float32))
            super().train_step()


class Ours:
    """What tenfold computes, and what Keras is given to compute the same from."""

    def __init__(self) -> None:
        self.trainer = DoubleFit(RECIPE, DATASET, device=CPU)
        self.given: Arrays = prefixed("before_0", to_keras(self.trainer.network.state_dict()))
        self.after: dict[int, Arrays] = {}
        self.train()
        self.look_at_one_batch()
        self.optimize()
        self.augment()

    def train(self) -> None:
        trainer, schedule = self.trainer, self.trainer.schedule
        trainer.network.double()
        batches, labels = [], []
        while not trainer.done:
            batch, label, _ = trainer.next_batch()
            batches.append(batch.permute(0, 2, 3, 1).numpy())
            labels.append(label.numpy())
            trainer.train_step()
            self.after[trainer.step] = to_keras({n: t.clone() for n, t in trainer.network.state_dict().items()})
        rates = [stage.learning_rate for stage in RECIPE.stages]
        self.given |= prefixed("before_5", self.after[5]) | prefixed("before_7", self.after[7])
        self.given |= {"batches": np.stack(batches), "labels": np.stack(labels)}
        self.given |= {"ends": np.array(schedule.ends), "rates": np.array(rates)}

    def look_at_one_batch(self) -> None:
        trainer = Trainer(RECIPE, DATASET, device=CPU)
        trainer.val = to_tensors(DATASET.test)
        network = trainer.network
        draw_numbers(network)
        moving = {name: tensor.clone() for name, tensor in network.state_dict().items() if "running" in name}
        self.given |= prefixed("drawn", to_keras(network.state_dict())) | prefixed("drawn_moving", to_keras(moving))
        scaled, labels = DATASET.test.images * np.float32(1 / 255), torch.from_numpy(DATASET.test.labels).long()
        self.given |= {"images": scaled, "image_labels": labels.numpy()}
        images = torch.from_numpy(scaled).permute(0, 3, 1, 2)
        loss = F.cross_entropy(network.train()(images), labels) + l2_penalty(network, RECIPE.l2)
        loss.backward()
        self.loss = loss.item()
        self.gradients = to_keras({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
        network.load_state_dict(moving, strict=False)
        self.validation = trainer._validate()
        with torch.no_grad():
            self.logits = network.eval()(images).numpy()

    def optimize(self) -> None:
        rng = np.random.default_rng(0)
        sizes = 10.0 ** rng.uniform(-10, 0, 1000)
        gradients = (rng.uniform(0.5, 1.5, (5, 1000)) * sizes).astype(np.float32)
        start = np.zeros(1000, np.float32)
        parameter = torch.nn.Parameter(torch.from_numpy(start.copy()))
        optimizer = KerasAdam([parameter], lr=3e-4)
        for gradient in gradients:
            parameter.grad = torch.from_numpy(gradient.copy())
            optimizer.step()
        self.adam = parameter.detach().numpy()
        self.given |= {"adam/start": start, "adam/gradients": gradients}

    def augment(self) -> None:
        images = DATASET.train.images[:64]
        params = REFERENCE.pipeline.sample(64, 32, seed=5, epoch=1)
        uniform = torch.rand(64, 3, generator=make_generator(5, "augment", 1)).numpy() * 2 - 1
        batch = make_batch(torch.from_numpy(images), self.trainer.normalization, params, torch.arange(64))
        self.augmented = batch.permute(0, 2, 3, 1).numpy()
        assert params["flip"] is not None
        self.given |= {"plain_images": images * np.float32(1 / 255), "transforms": uniform * [15, 3.2, 3.2]}
        self.given["flips"] = params["flip"].numpy()


def draw_numbers(network: torch.nn.Module) -> None:
    """Numbers as in the middle of training: no bias is zero, no scale is one."""
    torch.manual_seed(0)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, KerasNorm):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(0.5, 0.2), module.running_var.uniform_(0.2, 2.0)
                module.weight.uniform_(0.5, 1.5), module.bias.normal_(0.0, 0.2)
            elif isinstance(module, torch.nn.Conv2d | torch.nn.Linear) and module.bias is not None:
                module.bias.normal_(0.0, 0.05)


@pytest.fixture(scope="module")
def ours() -> Ours:
    return Ours()


@pytest.fixture(scope="module")
def theirs(ours: Ours, tmp_path_factory: pytest.TempPathFactory) -> Arrays:
    folder = tmp_path_factory.mktemp("keras")
    np.savez(folder / "in.npz", **ours.given)
    settings = {"KERAS_BACKEND": "tensorflow", "KERAS_HOME": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3"}
    words = [sys.executable, ROOT / "tests" / "support" / "keras_steps.py", folder / "in.npz", folder / "out.npz"]
    result = subprocess.run(
        words, env=os.environ | settings | {"PYTHONPATH": str(BENCHMARKS)}, capture_output=True, text=True, timeout=600
    )
    assert result.returncode == 0, result.stderr
    return dict(np.load(folder / "out.npz"))


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    return float(a @ b / math.sqrt((a @ a) * (b @ b)))


# --- the network ---------------------------------------------------------------------------------------------------


def test_the_same_numbers_are_counted(ours: Ours, theirs: Arrays) -> None:
    network = ours.trainer.network
    counts = [count_parameters(network), count_parameters(network, trainable=True)]
    assert counts == theirs["parameters"].tolist() == [17_001_930, 16_998_986]
    start = below("before_0", ours.given)
    assert {name: array.shape for name, array in below("initial", theirs).items()} == {
        name: array.shape for name, array in start.items()
    }


def test_weights_are_drawn_as_keras_draws_them(ours: Ours, theirs: Arrays) -> None:
    """Glorot uniform: the same bounds and spread, tensor by tensor; the rest are the same zeros and ones."""
    start = below("before_0", ours.given)
    for name, peer in below("initial", theirs).items():
        if name.endswith("kernel"):
            limit = math.sqrt(6 / (math.prod(peer.shape[:-2]) * sum(peer.shape[-2:])))
            spread = 4 / math.sqrt(peer.size)  # four standard deviations of what is estimated from so many numbers
            for drawn in (start[name], peer):
                assert limit * (1 - 10 / peer.size) * 0.95 < np.abs(drawn).max() <= limit * (1 + 1e-6), name
                assert drawn.std() == pytest.approx(limit / math.sqrt(3), rel=spread), name
        else:
            np.testing.assert_array_equal(start[name], peer, name)


def test_logits(ours: Ours, theirs: Arrays) -> None:
    assert np.abs(theirs["logits"]).max() > 0.1
    assert np.abs(ours.logits - theirs["logits"]).max() <= 1e-4


def test_the_loss_counts_the_l2_terms(ours: Ours, theirs: Arrays) -> None:
    assert ours.loss == pytest.approx(float(theirs["loss"]), rel=1e-5)


def test_gradients_of_every_tensor(ours: Ours, theirs: Arrays) -> None:
    """Nine biases have a true gradient of zero, and rounding errors of their own: they are small in both."""
    gradients = below("gradient", theirs)
    assert gradients.keys() == ours.gradients.keys() and len(gradients) == 62
    for name, peer in gradients.items():
        own = ours.gradients[name]
        if name.endswith(NO_GRADIENT):
            size = np.abs(gradients[name.replace("bias", "kernel")]).max()
            assert max(np.abs(own).max(), np.abs(peer).max()) < 1e-4 * size, name
        else:
            assert cosine(own, peer) >= 0.9999, name
            assert np.linalg.norm(own) == pytest.approx(np.linalg.norm(peer), rel=5e-3), name


# --- training ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("begin", "step"), [(0, 5), (5, 7), (7, 8)])
def test_weights_and_moving_statistics_after_a_stage(ours: Ours, theirs: Arrays, begin: int, step: int) -> None:
    """Five steps, then two and one with an optimizer that begins afresh; differences as a share of the way gone.

    Each stage begins where our last one ended. With the old optimizer kept on, most tensors differ by half of the way.
    """
    start, own = below(f"before_{begin}", ours.given), ours.after[step]
    for name, peer in below(f"after_{step}", theirs).items():
        if name.endswith(NO_GRADIENT):
            assert max(np.abs(own[name]).max(), np.abs(peer).max()) <= 1e-9, name
        else:
            way = np.linalg.norm(peer - start[name])
            assert way > 0 and np.linalg.norm(own[name] - peer) <= 5e-3 * way, name


def test_reported_losses_and_accuracies(ours: Ours, theirs: Arrays) -> None:
    """Of each batch, of the epoch, and of validation images, L2 terms included."""
    own, (row,) = ours.trainer.log.numpy(), ours.trainer.epochs
    np.testing.assert_allclose(own[:, 0], theirs["/losses"], rtol=1e-5)
    np.testing.assert_allclose(own[:, 1], theirs["/accuracies"], atol=1e-6)
    assert row.train_loss == pytest.approx(theirs["/losses"].mean(), rel=1e-5)
    assert ours.validation == pytest.approx(tuple(theirs["validation"]), rel=1e-5)


def test_adam_from_the_largest_to_the_smallest_gradients(ours: Ours, theirs: Arrays) -> None:
    """Five steps; with eps added after the bias correction, as in PyTorch, small ones go 14 to 31 times as far."""
    np.testing.assert_allclose(ours.adam, theirs["adam"], rtol=1e-4, atol=1e-12)


# --- pixels --------------------------------------------------------------------------------------------------------


def test_augmentation_is_that_of_keras(ours: Ours, theirs: Arrays) -> None:
    """The same angles and shifts, given to Keras's own code; pixels in [0, 1]."""
    assert theirs["augmented"].min() >= 0 and theirs["augmented"].max() <= 1
    assert np.abs(theirs["augmented"] - ours.given["plain_images"]).max() > 0.1
    np.testing.assert_allclose(ours.augmented, theirs["augmented"], atol=1e-5)
