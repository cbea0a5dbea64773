"""The loop: it learns, it takes the steps of a plain loop, it repeats itself bit for bit, it stops at a bad loss."""

import copy
import math
from dataclasses import asdict, replace
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.data.dataset import Dataset, Split
from tenfold.data.shapes import make_shapes
from tenfold.errors import DataError, DivergedError, ModelError, UsageError
from tenfold.training.augment import AugmentParams
from tenfold.training.callbacks import Callback
from tenfold.training.device import DeviceConfig
from tenfold.training.distributed import DistContext
from tenfold.training.holdout import split
from tenfold.training.infer import predict_logits
from tenfold.training.networks import WhitenedSpec
from tenfold.training.recipe import Recipe, Stage
from tenfold.training.recipes import FAST89, REFERENCE
from tenfold.training.trainer import Trainer

CPU = DeviceConfig(torch.device("cpu"), torch.float32, torch.get_num_threads(), ())
DATASET = make_shapes(train=2000, test=500)
SMALL = DATASET.train[:120]
SMALL_VAL = DATASET.test[:40]
SMALL_DATA = replace(DATASET, train=SMALL)

QUICK = Recipe(
    "quick",
    WhitenedSpec(widths=(8, 16), whitening_pairs=4),
    (Stage(1.5, 0.1, 0.05), Stage(1.0, 0.05, 0.0)),
    batch_size=20,
    whiten_bias_epochs=0.5,
    label_smoothing=0.1,
)
ADAM = replace(QUICK, name="adam", optimizer="adam", stages=(Stage(1.5, 1e-2, 5e-3), Stage(1.0, 5e-3, 0.0)))


def make_trainer(recipe: Recipe = QUICK, seed: int = 0, val: Split | None = None, train: Split = SMALL) -> Trainer:
    recipe = replace(recipe, val_size=0)
    if val is not None:
        images, labels = np.concatenate((train.images, val.images)), np.concatenate((train.labels, val.labels))
        train, recipe = Split(images, labels), recipe.with_val_size(len(val))
    return Trainer(recipe, Dataset("mine", DATASET.classes, train, DATASET.test), seed=seed, device=CPU)


def finish(trainer: Trainer) -> Trainer:
    while not trainer.done:
        trainer.train_step()
    return trainer


def weights(trainer: Trainer) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.network.state_dict().items()}


def assert_same(a: dict[str, Tensor], b: dict[str, Tensor]) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


class NoteSteps(Callback):
    """Notes the numbers of the steps that were taken."""

    def __init__(self, steps: list[int]):
        self.steps = steps

    def on_step_end(self, trainer: Trainer) -> None:
        self.steps.append(trainer.step)


# --- it learns --------------------------------------------------------------------------------------------------------


def test_it_learns_shapes() -> None:
    """Ten classes, so 10 % is chance; a hundred steps of 50 images reach about 98 %."""
    recipe = replace(FAST89, network=WhitenedSpec(widths=(8, 16, 16)), batch_size=50, stages=(Stage(3, 0.1, 0.0),))
    steps: list[int] = []
    trainer = Trainer(recipe, DATASET, [NoteSteps(steps)], device=CPU).fit()
    logits = predict_logits(trainer.network, torch.from_numpy(DATASET.test.images), trainer.normalization, CPU).single
    assert (logits.argmax(1).numpy() == DATASET.test.labels).mean() > 0.9
    assert steps == list(range(1, 121))


# --- the same steps as a plain loop -----------------------------------------------------------------------------------


def plain_batch(train: Split, params: AugmentParams, indices: np.ndarray) -> Tensor:
    """Flip, shift by two pixels at most with a mirrored border, normalise: image by image in NumPy."""
    scaled = train.images / 255
    mean, std = scaled.mean((0, 1, 2)), scaled.std((0, 1, 2))
    assert params["flip"] is not None and params["translate"] is not None
    batch = []
    for number in indices:
        image = train.images[number][:, ::-1] if params["flip"][number] else train.images[number]
        padded = np.pad(image, ((2, 2), (2, 2), (0, 0)), mode="reflect")
        down, right = params["translate"][number].tolist()
        batch.append((padded[2 - down : 34 - down, 2 - right : 34 - right] / 255 - mean) / std)
    return torch.from_numpy(np.stack(batch).astype(np.float32)).permute(0, 3, 1, 2)


def plain_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    targets = F.one_hot(labels, 10) * (1 - smoothing) + smoothing / 10
    return -(targets * logits.log_softmax(1)).sum(1).mean()


def plain_adam(parameters: dict[str, nn.Parameter], state: dict[str, Any], rate: float, step: int) -> None:
    for name, p in parameters.items():
        assert p.grad is not None
        m, v = state.get(name, (0.0, 0.0))
        m, v = 0.9 * m + 0.1 * p.grad, 0.999 * v + 0.001 * p.grad**2
        state[name] = m, v
        p -= rate * math.sqrt(1 - 0.999 ** (step + 1)) / (1 - 0.9 ** (step + 1)) * m / (v.sqrt() + 1e-7)


def plain_muon(parameters: dict[str, nn.Parameter], state: dict[str, Any], rate: float, step: int) -> None:
    """QUICK's rates: 0.1 falling for filters, 0.053 and 0.67 per image of the 20 for biases and head."""
    factor = rate / 0.1
    for name, p in parameters.items():
        assert p.grad is not None
        if p.ndim == 4:
            buffer = state[name] = 0.6 * state.get(name, 0.0) + p.grad
            left, values, right = torch.linalg.svd((p.grad + 0.6 * buffer).flatten(1).double(), full_matrices=False)
            values = values / values.norm()
            for _ in range(3):
                values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
            p *= math.sqrt(len(p)) / p.norm()
            p -= rate * (left * values @ right).float().view(p.shape)
        else:
            whitening = name == "patch.bias"
            group_rate = 20 * (0.67 if p.ndim == 2 else 0.053) * (max(0, 1 - step / 3) if whitening else factor)
            decay = 2e-6 / (0.67 if p.ndim == 2 else 0.053)
            gradient = p.grad + decay * p
            buffer = state[name] = 0.85 * state[name] + gradient if name in state else gradient
            p -= group_rate * (gradient + 0.85 * buffer)


@pytest.mark.parametrize(
    ("recipe", "update", "tolerance"),
    [(ADAM, plain_adam, 1e-3), (QUICK, plain_muon, 2e-2)],  # Muon's directions are kept to 8 bits
    ids=["adam", "muon"],
)
def test_it_takes_the_steps_of_a_plain_loop(recipe: Recipe, update: Any, tolerance: float) -> None:
    """Eight steps, over the end of an epoch; within the first stage, whose rate falls from its first to its last."""
    trainer = make_trainer(recipe)
    network = copy.deepcopy(trainer.network)
    state: dict[str, Any] = {}
    first, last = recipe.stages[0].learning_rate, recipe.stages[0].final_learning_rate
    for step in range(8):
        epoch, index = divmod(step, 6)
        params = recipe.pipeline.sample(120, 32, 0, epoch)
        indices = params.order[20 * index : 20 * index + 20].numpy()
        labels = torch.from_numpy(SMALL.labels[indices].astype(np.int64))
        logits = network(plain_batch(SMALL, params, indices))
        loss = plain_loss(logits, labels, 0.1)
        network.zero_grad()
        loss.backward()
        trained = {name: p for name, p in network.named_parameters() if p.grad is not None}
        with torch.no_grad():
            update(trained, state, first + (last - first) * step / 9, step)
        trainer.train_step()
        ours = trainer.log[step].tolist()
        assert ours[0] == pytest.approx(loss.item(), rel=tolerance)
        if recipe is ADAM:
            assert ours[1] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
        if step == 2:  # the recipe trains the first layer's bias for half an epoch
            network.patch.bias.requires_grad_(False)
            network.zero_grad(set_to_none=True)
    assert step == 7


def test_the_logged_loss_of_reference_includes_the_l2_terms() -> None:
    recipe = replace(
        REFERENCE, network=replace(REFERENCE.network, dropout=0.0), degrees=0, affine_translate=0, flip="none"
    )
    recipe = replace(recipe, batch_size=4, stages=(Stage(1, 3e-4, 3e-4),))
    trainer = make_trainer(recipe, train=DATASET.train[:4])
    network, squares = copy.deepcopy(trainer.network), 0.0
    for name, parameter in network.named_parameters():
        if ".convs." in name and name.endswith("weight"):
            squares += parameter.detach().double().square().sum().item()
    order = recipe.pipeline.sample(4, 32, 0, 0).order.numpy()
    images = torch.from_numpy(DATASET.train.images[order].astype(np.float32) / 255).permute(0, 3, 1, 2)
    cross_entropy = plain_loss(network(images), torch.from_numpy(DATASET.train.labels[order].astype(np.int64)), 0.0)
    trainer.train_step()
    assert trainer.log[0, 0].item() == pytest.approx(cross_entropy.item() + 1e-4 * squares, rel=1e-5)


# --- it stops at a bad loss -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("recipe", [QUICK, ADAM], ids=["muon", "adam"])
def test_a_bad_loss_stops_training_before_the_update(bad: float, recipe: Recipe) -> None:
    """Without the test of the loss: no error."""
    trainer = make_trainer(recipe)
    for _ in range(3):
        trainer.train_step()
    with torch.no_grad():
        trainer.network.get_parameter("head.weight")[3, 0] = bad
    trained = {name: parameter.detach().clone() for name, parameter in trainer.network.named_parameters()}
    with pytest.raises(DivergedError, match=r"loss is (nan|inf) at step 3, epoch 0\.50: a lower learning rate may do"):
        trainer.train_step()
    assert trainer.step == 3
    for name, parameter in trainer.network.named_parameters():
        torch.testing.assert_close(parameter.detach(), trained[name], rtol=0, atol=0, equal_nan=True)


def test_weights_that_are_not_finite_make_no_checkpoint() -> None:
    """Without that test: it does, and pushes a good one out."""
    trainer = make_trainer()
    trainer.train_step()
    trainer.checkpoint()
    with torch.no_grad():
        trainer.network.get_parameter("head.weight")[3, 0] = math.nan
    with pytest.raises(DivergedError, match=r"head\.weight is not finite after step 1"):
        trainer.checkpoint()


# --- it repeats itself ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", [QUICK, ADAM], ids=["muon", "adam"])
def test_the_same_seed_gives_the_same_bits(recipe: Recipe) -> None:
    first, second, other = (finish(make_trainer(recipe, seed)) for seed in (7, 7, 8))
    assert_same(weights(first), weights(second))
    assert torch.equal(first.log, second.log)
    assert not torch.equal(first.network.get_parameter("head.weight"), other.network.get_parameter("head.weight"))


def test_dropout_repeats_itself() -> None:
    """Whatever else drew from torch's generator meanwhile."""
    recipe = replace(REFERENCE, batch_size=4, stages=(Stage(2, 3e-4, 3e-4),))
    logs = []
    for disturb in (False, True):
        trainer = make_trainer(recipe, train=DATASET.train[:4])
        while not trainer.done:
            if disturb:
                torch.rand(5)
            trainer.train_step()
        logs.append(trainer.log)
    assert torch.equal(*logs)


@pytest.mark.parametrize(
    "recipe",
    [
        QUICK,
        ADAM,
        replace(QUICK, flip="random", degrees=15.0),
        replace(QUICK, prune_fraction=0.4, freeze_fraction=0.5),
        replace(QUICK, proxy_prune_fraction=0.4, proxy_widths=(8, 8), low_res_fraction=0.3),
        replace(ADAM, proxy_prune_fraction=0.4, proxy_widths=(8, 8)),
    ],
    ids=["muon", "adam", "turning", "hard images, first group frozen", "proxy", "proxy by adam"],
)
def test_a_restored_run_ends_with_the_same_bits(recipe: Recipe) -> None:
    """Steps: 6 an epoch; the first stage ends after 9, the first layer's bias is done after 3.

    Without the optimizers' states in the checkpoint: other weights. Without the first layer's bias in the optimizers of
    a stage that begins when it is done: states under other numbers, restored to other parameters. Without the proxy's
    tensors in the checkpoint: other images.
    """
    straight = make_trainer(recipe, val=SMALL_VAL)
    saved = {}
    while not straight.done:
        straight.train_step()
        if straight.step in (1, 4, 6, 9, 11, 15):
            saved[straight.step] = straight.checkpoint()  # a snapshot: without the clone, later steps changed it
    for step, checkpoint in saved.items():
        restored = make_trainer(recipe, val=SMALL_VAL)
        restored.restore(checkpoint)
        assert restored.step == step
        finish(restored)
        assert_same(restored.checkpoint().tensors, straight.checkpoint().tensors)
        assert timeless(restored) == timeless(straight)


def test_the_first_group_stays_as_it_is_in_the_last_steps() -> None:
    """15 steps, the last 6 of them frozen. Without it, everything moves until the end."""
    trainer = make_trainer(replace(QUICK, freeze_fraction=0.4))
    while trainer.step < 9:
        trainer.train_step()
    before = weights(trainer)
    finish(trainer)
    after = weights(trainer)
    learned = {
        name for name in before if name.endswith(("weight", "bias")) and not torch.equal(before[name], after[name])
    }
    assert learned == {"head.weight", *(f"groups.1.{name}" for name in GROUP)}


def test_the_first_steps_see_small_images() -> None:
    """15 steps, the first 6 of them at 16×16. Without the shrinking in the loop, all of them were at full size."""
    trainer, full = make_trainer(replace(QUICK, low_res_fraction=0.4)), make_trainer()
    sizes = []
    while not trainer.done:
        small, large = trainer.next_batch()[0], full.next_batch()[0]
        sizes.append(small.shape[2])
        if small.shape[2] == 16:
            expected = large.numpy().reshape(20, 3, 16, 2, 16, 2).mean((3, 5))
            np.testing.assert_allclose(small, expected, atol=1e-6)
        trainer.train_step(), full.train_step()
    assert sizes == [16] * 6 + [32] * 9


def test_losses_are_noted_by_image_and_unsmoothed() -> None:
    """Without the note every pass would leave out the same images, whatever the network makes of them."""
    trainer = make_trainer(replace(QUICK, prune_fraction=0.4))
    for _ in range(3):
        batch, labels, indices = trainer.next_batch()
        with torch.no_grad():
            logits = copy.deepcopy(trainer.network)(batch).double().numpy()
        expected = np.log(np.exp(logits).sum(1)) - logits[np.arange(20), labels]
        before = trainer.sampler.losses.clone()
        trainer.train_step()
        np.testing.assert_allclose(trainer.sampler.losses[indices], expected, rtol=1e-4)
        others = torch.ones(120, dtype=torch.bool)
        others[indices] = False
        assert torch.equal(trainer.sampler.losses[others], before[others])


def test_a_proxy_leaves_the_easier_images_out_before_they_are_shrunk() -> None:
    """33 of 120 images dealt, 20 of them trained on; an epoch stays 6 steps, whoever is seen."""
    recipe = replace(QUICK, proxy_prune_fraction=0.4, proxy_widths=(8, 8), low_res_fraction=0.4)
    trainer = make_trainer(recipe)
    assert (trainer.schedule.steps_per_epoch, trainer.schedule.total) == (6, 15)
    assert trainer.schedule.ends == make_trainer().schedule.ends
    for step in range(15):
        whole, numbers = trainer.next_candidates()
        assert whole.shape == (33, 3, 32, 32)
        proxy = copy.deepcopy(trainer.proxy)
        assert proxy is not None
        selected = proxy.select(step, whole, trainer.labels[numbers])
        with patch.object(trainer, "network", wraps=trainer.network) as network:
            trainer.train_step()
        (seen,) = network.call_args.args
        side = 16 if step < 6 else 32
        assert seen.shape == (20, 3, side, side) and seen.is_contiguous(memory_format=torch.channels_last)
        np.testing.assert_allclose(seen, F.avg_pool2d(whole[selected], 32 // side), atol=1e-6)


def test_with_nothing_to_leave_out_there_is_no_proxy() -> None:
    """As a search may draw it, or a small data set has it: the recipe is then as without."""
    trainer = make_trainer(replace(QUICK, proxy_prune_fraction=0.0, proxy_widths=(8, 8)))
    assert trainer.proxy is None and not trainer.sampler.prunes
    assert make_trainer(replace(QUICK, proxy_prune_fraction=0.4, proxy_widths=(8, 8)), train=SMALL[:20]).proxy is None
    assert (
        make_trainer(replace(QUICK, proxy_prune_fraction=0.4, proxy_widths=(8, 8)), train=SMALL[:21]).proxy is not None
    )
    plain = finish(make_trainer(replace(QUICK, prune_fraction=0.0)))
    assert torch.equal(finish(trainer).log, plain.log)


def test_a_proxy_takes_the_place_of_the_losses() -> None:
    trainer = make_trainer(replace(QUICK, proxy_prune_fraction=0.4, proxy_widths=(8, 8)))
    before = trainer.sampler.losses.clone()
    finish(trainer)
    assert torch.equal(trainer.sampler.losses, before)
    names = set(trainer.checkpoint().tensors)
    assert not any(name.startswith("sampler.") for name in names)
    assert {"proxy.network.head.weight", "proxy.optimizer.0.0.momentum_buffer"} <= names


def test_a_rank_takes_its_share_of_what_the_first_one_picked() -> None:
    """Whatever it would have selected itself. Without `broadcast`: its own choice."""
    recipe = replace(QUICK, proxy_prune_fraction=0.4, proxy_widths=(8, 8))
    trainer = Trainer(recipe, replace(DATASET, train=SMALL), device=CPU, dist=DistContext(1, 2))
    whole, numbers = trainer.next_candidates()
    with patch.object(DistContext, "broadcast", lambda _self, _value: list(range(13, 33))):
        batch, labels, indices = trainer.next_batch()
    assert torch.equal(indices, numbers[23:33]) and torch.equal(batch, whole[23:33])
    assert torch.equal(labels, trainer.labels[indices])


def test_a_proxy_that_is_not_finite_makes_no_checkpoint() -> None:
    trainer = make_trainer(replace(QUICK, proxy_prune_fraction=0.4, proxy_widths=(8, 8)))
    trainer.train_step()
    trainer.checkpoint()
    assert trainer.proxy is not None
    with torch.no_grad():
        trainer.proxy.network.get_parameter("head.weight")[3, 0] = math.nan
    with pytest.raises(DivergedError, match=r"proxy\.network\.head\.weight is not finite after step 1"):
        trainer.checkpoint()


def test_a_checkpoint_without_the_proxy_is_refused() -> None:
    trainer = make_trainer()
    trainer.train_step()
    with pytest.raises(ModelError, match="the checkpoint of step 1 does not fit this recipe"):
        make_trainer(replace(QUICK, proxy_prune_fraction=0.4, proxy_widths=(8, 8))).restore(trainer.checkpoint())


def test_a_proxy_sees_no_image_larger_than_it_is() -> None:
    with pytest.raises(UsageError, match="low_res_size: 40 is more than the images' 32 pixels"):
        make_trainer(replace(QUICK, proxy_prune_fraction=0.4, proxy_widths=(8, 8), low_res_size=40))


GROUP = ("convs.0.weight", "convs.1.weight", "norms.0.bias", "norms.1.bias")


def timeless(trainer: Trainer) -> list[dict[str, float]]:
    return [{name: value for name, value in asdict(row).items() if name != "seconds"} for row in trainer.epochs]


def test_a_checkpoint_holds_everything() -> None:
    trainer = make_trainer()
    for _ in range(4):
        trainer.train_step()
    checkpoint = trainer.checkpoint()
    names = set(checkpoint.tensors)
    assert {f"network.{name}" for name in trainer.network.state_dict()} <= names
    momentum = {name for name in names if name.startswith("optimizer.")}
    assert len(momentum) == 4 + 4 + 1 + 1  # four filters, four biases of norms, the first layer's bias, the head
    assert checkpoint.tensors["log"].tolist() == trainer.log[:4].tolist()
    assert checkpoint.step == 4 and set(checkpoint.notes) == {"seconds", "epochs"}


def test_a_checkpoint_of_another_network_is_refused() -> None:
    trainer = make_trainer()
    trainer.train_step()
    other = make_trainer(replace(QUICK, network=WhitenedSpec(widths=(8, 8), whitening_pairs=4)))
    with pytest.raises(
        ModelError, match=r"the checkpoint of step 1 does not fit this recipe: .*groups\.1\.convs"
    ) as got:
        other.restore(trainer.checkpoint())
    assert "\n" not in str(got.value)


# --- the log ----------------------------------------------------------------------------------------------------------


def test_an_epoch_is_a_row() -> None:
    trainer = finish(make_trainer(QUICK, val=SMALL_VAL))  # 6 steps an epoch; 9 in the first stage and 6 in the second
    rows = [asdict(row) for row in trainer.epochs]
    assert [row["epoch"] for row in rows] == [1, 2, 2.5]
    assert [row["stage"] for row in rows] == [1, 2, 2]
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.1 - 0.05 * 5 / 9, 0.05 * 4 / 6, 0.05 / 6])
    for row, steps in zip(rows, [slice(0, 6), slice(6, 12), slice(12, 15)], strict=True):
        assert row["train_loss"] == pytest.approx(trainer.log[steps, 0].mean().item())
        assert row["train_accuracy"] == pytest.approx(trainer.log[steps, 1].mean().item())
    assert sum(row["seconds"] for row in rows) == pytest.approx(trainer.seconds)
    logits = predict_logits(trainer.network, torch.from_numpy(SMALL_VAL.images), trainer.normalization, CPU).single
    labels = torch.from_numpy(SMALL_VAL.labels.astype(np.int64))
    assert rows[-1]["val_loss"] == pytest.approx(plain_loss(logits, labels, 0.1).item(), rel=1e-5)
    assert rows[-1]["val_accuracy"] == pytest.approx((logits.argmax(1) == labels).float().mean().item())
    assert trainer.network.training


def test_without_validation_images_there_are_no_validation_scores() -> None:
    rows = [asdict(row) for row in finish(make_trainer(QUICK)).epochs]
    assert all(math.isnan(row["val_loss"]) and math.isnan(row["val_accuracy"]) for row in rows)


def test_validation_changes_no_weight() -> None:
    assert_same(weights(finish(make_trainer(QUICK, val=SMALL_VAL))), weights(finish(make_trainer(QUICK))))


# --- what is held out -------------------------------------------------------------------------------------------------


def numbers(part: Split) -> list[int]:
    """Which of SMALL's images these are."""
    return [int(np.flatnonzero((SMALL.images == image).all((1, 2, 3)))[0]) for image in part.images]


def test_the_last_images_are_held_out() -> None:
    train, val = split(SMALL_DATA, replace(QUICK, val_size=20), seed=0)
    assert val is not None
    assert numbers(train) == list(range(100)) and numbers(val) == list(range(100, 120))
    assert val.labels.tolist() == SMALL.labels[100:].tolist()


def test_images_are_held_out_by_the_seed() -> None:
    recipe = replace(QUICK, val_size=20, val_split="random")
    (train, val), (_, again), (_, other) = (split(SMALL_DATA, recipe, seed) for seed in (0, 0, 1))
    assert val is not None and again is not None and other is not None
    assert sorted(numbers(train) + numbers(val)) == list(range(120)) and len(val) == 20
    assert numbers(val) == numbers(again) != numbers(other)
    assert numbers(val) != list(range(100, 120))
    assert train.labels.tolist() == SMALL.labels[numbers(train)].tolist()


def test_nothing_is_held_out_unless_asked() -> None:
    train, val = split(SMALL_DATA, QUICK, seed=0)
    assert train is SMALL and val is None


@pytest.mark.parametrize("size", [120, 121])
def test_something_must_be_left_to_train_on(size: int) -> None:
    with pytest.raises(UsageError, match=f"a validation set of {size} leaves nothing of 120 training images"):
        split(SMALL_DATA, replace(QUICK, val_size=size), seed=0)


def test_no_images_at_all() -> None:
    with pytest.raises(DataError, match="there are no training images"):
        split(replace(DATASET, train=SMALL[:0]), QUICK, seed=0)


# --- rare classes -----------------------------------------------------------------------------------------------------


def test_images_of_rare_classes_come_more_often() -> None:
    """64 squares and 4 disks: 4·√(64/4) = 16 disks a cycle, and an epoch still is 68 images."""
    labels = np.array([0] * 64 + [1] * 4, np.uint8)
    trainer = make_trainer(replace(QUICK, oversample=0.5, batch_size=4), train=Split(SMALL.images[:68], labels))
    assert trainer.labels.bincount().tolist() == [64, 16]
    assert trainer.class_counts == [64, 4, *[0] * 8]
    assert trainer.schedule.steps_per_epoch == 17
    seen = torch.cat([trainer.sampler.next_indices(step)[1] for step in range(20)])
    assert seen.sort().values.tolist() == list(range(80))  # one cycle
    alike = Split(SMALL.images, np.arange(120, dtype=np.uint8) % 10)
    with_it, without = (finish(make_trainer(replace(QUICK, oversample=power), train=alike)) for power in (0.5, 0.0))
    assert_same(weights(with_it), weights(without))
