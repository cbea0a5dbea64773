"""The proxy: it picks what its network finds hardest, learns from it at every fourth step, and goes on as it was."""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold.data.shapes import make_shapes
from tenfold.errors import DivergedError
from tenfold.training.augment import Normalization, downsample
from tenfold.training.device import DeviceConfig
from tenfold.training.networks import WhitenedSpec
from tenfold.training.optim import make_optimizers
from tenfold.training.proxy import ProxyModel
from tenfold.training.pruning import class_minimum, top_loss_indices
from tenfold.training.recipe import Recipe, Stage
from tenfold.training.schedule import Schedule

CPU = DeviceConfig(torch.device("cpu"), torch.float32, torch.get_num_threads(), ())
RECIPE = Recipe(
    "with-proxy",
    WhitenedSpec(widths=(32, 32), whitening_pairs=4, depth=3, residual=True),
    (Stage(1, 0.1, 0.05), Stage(1, 0.1, 0.0)),
    batch_size=20,
    label_smoothing=0.1,
    proxy_prune_fraction=0.5,
    proxy_widths=(8, 16),
)
SCHEDULE = Schedule(RECIPE, 20, 18, (18, 36))
TRAIN = make_shapes(train=400, test=1).train
IMAGES = Normalization().normalize(torch.from_numpy(TRAIN.images))
LABELS = torch.from_numpy(TRAIN.labels.astype(np.int64))


def make(seed: int = 0, schedule: Schedule = SCHEDULE) -> ProxyModel:
    return ProxyModel(schedule, 10, IMAGES[:100], seed, CPU)


def dealt(step: int) -> slice:
    """The forty images of a step."""
    return slice(40 * step % 400, 40 * step % 400 + 40)


def select_steps(proxy: ProxyModel, steps: range) -> list[list[int]]:
    return [proxy.select(step, IMAGES[dealt(step)], LABELS[dealt(step)]).tolist() for step in steps]


def weights(proxy: ProxyModel) -> dict[str, Tensor]:
    """What it learns; without the norms' running statistics, which every look at a batch changes."""
    return {name: parameter.detach().clone() for name, parameter in proxy.network.named_parameters()}


def plain_losses(proxy: ProxyModel, batch: Tensor, labels: Tensor) -> np.ndarray:
    """Smoothed cross entropy of the images at half their size, in NumPy but for the network."""
    with torch.no_grad():
        logits = proxy.network(batch.unflatten(3, (16, 2)).unflatten(2, (16, 2)).mean((3, 5))).double().numpy()
    logarithms = logits - np.log(np.exp(logits).sum(1, keepdims=True))
    return -(0.9 * logarithms[np.arange(len(labels)), labels] + 0.1 * logarithms.mean(1))


@pytest.mark.parametrize("step", [0, 16, 17, 20])
def test_it_picks_the_images_of_the_greatest_losses(step: int) -> None:
    """The hardest quarter of each class, then the hardest of all others. With the easiest instead: others."""
    proxy = make()
    select_steps(proxy, range(step))
    labels = LABELS[dealt(step)].numpy()
    losses = plain_losses(proxy, IMAGES[dealt(step)], LABELS[dealt(step)])
    owed = set()
    for label in np.unique(labels):
        own = np.flatnonzero(labels == label)
        owed |= set(own[np.argsort(-losses[own])][: math.ceil(len(own) / 4)].tolist())
    others = [n for n in np.argsort(-losses).tolist() if n not in owed]
    selected = proxy.select(step, IMAGES[dealt(step)], LABELS[dealt(step)]).tolist()
    assert selected == sorted(owed | set(others[: 20 - len(owed)]))


def test_it_learns_what_it_picks() -> None:
    """Fifty lessons of twenty images each. Without them: a loss as before, 2.40."""
    proxy = make(schedule=Schedule(RECIPE, 20, 100, (100, 200)))
    before = plain_losses(proxy, IMAGES, LABELS).mean()
    select_steps(proxy, range(200))
    assert plain_losses(proxy, IMAGES, LABELS).mean() < 0.8 * before


def test_it_learns_at_every_fourth_step_only() -> None:
    proxy, learned = make(), []
    for step in range(9):
        before = weights(proxy)
        select_steps(proxy, range(step, step + 1))
        after = weights(proxy)
        learned += [step] if any(not torch.equal(before[name], after[name]) for name in before) else []
        assert all(parameter.grad is None for parameter in proxy.network.parameters())
    assert learned == [0, 4, 8]


def test_only_picked_images_teach() -> None:
    """The norms see all forty. Taught by all of them, or by the others: weights further off."""
    proxy, plain = make(), make()
    batch, labels = IMAGES[:40], LABELS[:40]
    selected = proxy.select(0, batch, labels)
    logits = plain.network(F.avg_pool2d(batch, 2))
    F.cross_entropy(logits[selected], labels[selected], label_smoothing=0.1).backward()
    for optimizer in make_optimizers(RECIPE, plain.network, 0, 20):
        optimizer.step()
    for name, parameter in weights(plain).items():
        torch.testing.assert_close(weights(proxy)[name], parameter, rtol=1e-2, atol=1e-3)


def test_its_network_is_its_own() -> None:
    network = make().network
    names = {name: tuple(p.shape) for name, p in network.named_parameters() if name.endswith("weight") and p.ndim > 1}
    assert names == {
        "patch.weight": (8, 3, 3, 3),
        "groups.0.convs.0.weight": (8, 8, 3, 3),
        "groups.0.convs.1.weight": (8, 8, 3, 3),
        "groups.1.convs.0.weight": (16, 8, 3, 3),
        "groups.1.convs.1.weight": (16, 16, 3, 3),
        "head.weight": (10, 16),
    }
    assert not any(getattr(group, "residual", False) for group in network.groups)  # type: ignore[union-attr]


def test_its_rates_are_those_of_the_schedule() -> None:
    """18 steps a stage; the first falls from 0.1 to 0.05, and the second begins with fresh optimizers."""
    proxy = make()
    select_steps(proxy, range(10))
    muon = proxy.optimizers[1]
    assert muon.param_groups[0]["lr"] == pytest.approx(0.1 - 0.05 * 9 / 18)
    select_steps(proxy, range(10, 19))
    assert proxy.optimizers[1] is not muon and proxy.optimizers[1].param_groups[0]["lr"] == pytest.approx(0.1)
    assert proxy.optimizers[1].states() == {}, "step 18 is no lesson"


def test_the_same_seed_picks_the_same() -> None:
    first, second, other = (select_steps(make(seed), range(12)) for seed in (3, 3, 4))
    assert first == second != other


@pytest.mark.parametrize("step", [1, 3, 8, 18, 19, 25])
def test_a_restored_proxy_goes_on_with_the_same_bits(step: int) -> None:
    """In both stages and at their border. Without the optimizers' tensors: other weights."""
    straight, restored = make(), make(seed=1)
    select_steps(straight, range(step))
    saved = {name: tensor.clone() for name, tensor in straight.state().items()}
    expected = select_steps(straight, range(step, 36))
    restored.restore(saved, step)
    assert select_steps(restored, range(step, 36)) == expected
    there, here = straight.state(), restored.state()
    assert there.keys() == here.keys()
    assert all(torch.equal(there[name], here[name]) for name in there)


def test_another_proxys_state_does_not_fit() -> None:
    other = ProxyModel(replace(SCHEDULE, recipe=replace(RECIPE, proxy_widths=(8, 8))), 10, IMAGES[:100], 0, CPU)
    select_steps(other, range(1))
    with pytest.raises(RuntimeError, match=r"groups\.1\.convs"):
        make().restore(other.state(), 1)


@pytest.mark.parametrize("step", [4, 5])
def test_a_loss_that_is_not_finite_is_said(step: int) -> None:
    """Without that test it picks something, and learns nothing ever after."""
    proxy = make()
    select_steps(proxy, range(step))
    with torch.no_grad():
        proxy.network.get_parameter("head.weight")[3, 0] = math.nan
    before = weights(proxy)
    with pytest.raises(DivergedError, match=f"the proxy's loss is not finite at step {step}: a lower learning rate"):
        select_steps(proxy, range(step, step + 1))
    after = weights(proxy)
    assert all(torch.equal(before[name], after[name]) for name in before if name != "head.weight")


def test_in_bfloat16_it_ranks_by_losses_in_float32() -> None:
    device_config = replace(CPU, dtype=torch.bfloat16)
    proxy = ProxyModel(SCHEDULE, 10, IMAGES[:100], 0, device_config)
    select_steps(proxy, range(5))
    batch, labels = IMAGES[dealt(5)], LABELS[dealt(5)]
    with torch.no_grad(), device_config.autocast():
        logits = copy.deepcopy(proxy.network)(downsample(batch, 16))
    assert logits.dtype == torch.bfloat16
    losses = F.cross_entropy(logits.float(), labels, label_smoothing=0.1, reduction="none")
    expected = top_loss_indices(losses, labels, 20, class_minimum(labels, 0.5))
    assert proxy.select(5, batch, labels).tolist() == expected.tolist()
