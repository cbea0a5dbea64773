"""Optimizers against NumPy, schedules against numbers worked out by hand."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tenfold.training import optimizers
from tenfold.training.augment import make_generator
from tenfold.training.model import build
from tenfold.training.networks import WhitenedSpec
from tenfold.training.optim import make_optimizers, set_rates
from tenfold.training.optimizers import KerasAdam, Muon, Nesterov, Optimizer, orthogonalize
from tenfold.training.recipe import Recipe, Stage
from tenfold.training.recipes import REFERENCE
from tenfold.training.schedule import make_schedule

RECIPE = Recipe(
    "mine",
    WhitenedSpec(widths=(8, 16), whitening_pairs=4),
    (Stage(2.4, 0.24, 0.0),),
    batch_size=500,
    bias_lr=0.053,
    head_lr=0.67,
    sgd_momentum=0.85,
    weight_decay=2e-6,
    momentum=0.6,
    whiten_bias_epochs=3.0,
)


# --- Adam ----------------------------------------------------------------------------------------------------------


def keras_adam(gradients: list[float], rate: float) -> float:
    """A number that starts at 0, after Keras's Adam: scalar Python from the formulas in Keras's documentation."""
    value = m = v = 0.0
    for t, gradient in enumerate(gradients, start=1):
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        value -= rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-7)
    return value


def walk(optimizer: type[Optimizer], gradients: list[float], **options: float) -> float:
    parameter = nn.Parameter(torch.zeros(()))
    stepping = optimizer([parameter], **options)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        stepping.step()
    return parameter.item()


@pytest.mark.parametrize(
    "gradients", [[0.3, -0.2, 0.5, 0.1, -0.4], [1e-6, 3e-6, -2e-6, 1e-6, 5e-7], [0.0, 1e-8, 0.0, 100.0, 0.0]]
)
def test_adam_takes_keras_steps(gradients: list[float]) -> None:
    assert walk(KerasAdam, gradients, lr=1e-3) == pytest.approx(keras_adam(gradients, 1e-3), rel=1e-5)


def test_eps_stands_where_keras_has_it() -> None:
    """One step at gradient 1e-6, by hand: √v = 3.162e-8, so Keras's eps of 1e-7 counts; PyTorch's √v̂ is 1e-6."""
    ours = walk(KerasAdam, [1e-6], lr=1.0)
    torchs = walk(torch.optim.Adam, [1e-6], lr=1.0, eps=1e-7)
    assert ours == pytest.approx(-(0.031623 / 0.1) * 1e-7 / (3.1623e-8 + 1e-7), rel=1e-4)  # -0.2402
    assert torchs == pytest.approx(-1e-6 / (1e-6 + 1e-7), rel=1e-4)  # -0.9091


def test_adam_treats_every_parameter_as_alone() -> None:
    a, b, idle = (nn.Parameter(torch.zeros(2, 3)) for _ in range(3))
    optimizer = KerasAdam([a, b, idle], lr=0.1)
    generator = make_generator(0, "test")
    gradients = torch.randn(4, 2, 2, 3, generator=generator)
    for pair in gradients:
        a.grad, b.grad = pair[0].clone(), pair[1].clone()
        optimizer.step()
    for i, row, column in [(0, 0, 0), (0, 1, 2), (1, 0, 1)]:
        expected = keras_adam(gradients[:, i, row, column].tolist(), 0.1)
        assert (a, b)[i][row, column].item() == pytest.approx(expected, rel=1e-4)
    assert not idle.any()


# --- Muon ----------------------------------------------------------------------------------------------------------


def orthogonalize_by_hand(matrix: np.ndarray) -> np.ndarray:
    """Three rounds of s → 3.4445 s - 4.775 s³ + 2.0315 s⁵ on the singular values, in float64."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    values = values / np.linalg.norm(values)
    for _ in range(3):
        values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
    return (left * values) @ right


@pytest.mark.parametrize(("in_hardware", "error"), [(True, 0.02), (False, 1e-5)])  # bfloat16 keeps 8 bits
@pytest.mark.parametrize("shape", [(16, 144), (144, 16), (64, 288), (128, 27), (24, 24)])
def test_orthogonalize_is_the_polynomial_of_the_singular_values(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int], in_hardware: bool, error: float
) -> None:
    monkeypatch.setattr(optimizers, "bfloat16_pays", lambda: in_hardware)
    matrix = torch.randn(shape, generator=make_generator(0, "test"))
    expected = orthogonalize_by_hand(matrix.double().numpy())
    result = orthogonalize(matrix).numpy()
    assert result.dtype == np.float32
    difference = np.linalg.norm(result - expected) / np.linalg.norm(expected)
    assert difference < error and (difference > 1e-4) == in_hardware


@pytest.mark.parametrize("shape", [(16, 144), (144, 16), (64, 288), (288, 64)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_orthogonalize_brings_singular_values_near_one(shape: tuple[int, int], scale: float) -> None:
    matrix = torch.randn(shape, generator=make_generator(1, "test")) * scale
    values = np.linalg.svd(orthogonalize(matrix).numpy(), compute_uv=False)
    assert values.min() > 0.6 and values.max() < 1.3


def test_muon_steps_by_hand() -> None:
    """Nesterov momentum, filters rescaled to a norm of √C_out, then a step along the orthogonalised direction."""
    generator = make_generator(2, "test")
    start = torch.randn(8, 4, 3, 3, generator=generator)
    parameter = nn.Parameter(start.clone(memory_format=torch.channels_last))
    optimizer = Muon([parameter], lr=0.3, momentum=0.6)
    filters, buffer = start.double().numpy().reshape(8, 36), np.zeros((8, 36))
    for _ in range(3):
        parameter.grad = torch.randn(8, 4, 3, 3, generator=generator)
        gradient = parameter.grad.double().numpy().reshape(8, 36)
        optimizer.step()
        buffer = 0.6 * buffer + gradient
        filters = filters * np.sqrt(8) / np.linalg.norm(filters)
        filters = filters - 0.3 * orthogonalize_by_hand(gradient + 0.6 * buffer)
        ours = parameter.detach().double().numpy().reshape(8, 36)
        assert np.linalg.norm(ours - filters) < 0.02 * 0.3 * np.sqrt(8)  # 2 % of a step
        filters = ours


def test_muon_leaves_filters_without_a_gradient() -> None:
    parameter = nn.Parameter(torch.ones(2, 2, 3, 3))
    Muon([parameter], lr=1.0, momentum=0.5).step()
    assert torch.equal(parameter, torch.ones(2, 2, 3, 3))


def test_keras_adam_adds_the_gradient_of_the_l2_terms() -> None:
    """Six steps of the formula in NumPy: two filters with L2, one without, gradients so small that eps rules."""
    filters = [torch.randn(8, 4, 3, 3, generator=make_generator(4, "test", index)) for index in range(3)]
    ours = [nn.Parameter(start.clone(memory_format=torch.channels_last)) for start in filters]
    optimizer = KerasAdam(ours, lr=0.01, l2=1e-4, l2_parameters=ours[:2])
    theirs = [start.double().numpy() for start in filters]
    state = [(np.zeros_like(start), np.zeros_like(start)) for start in theirs]
    for step in range(1, 7):
        for index, (p, scale) in enumerate(zip(ours, (1e-3, 1e-8, 1e-8), strict=True)):
            drawn = torch.randn(8, 4, 3, 3, generator=make_generator(5, "test", 10 * step + index)) * scale
            p.grad = drawn.contiguous(memory_format=torch.channels_last)
            gradient = drawn.double().numpy() + (2e-4 * theirs[index] if index < 2 else 0)
            m, v = state[index]
            state[index] = m, v = 0.9 * m + 0.1 * gradient, 0.999 * v + 0.001 * gradient**2
            rate = 0.01 * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            theirs[index] = theirs[index] - rate * m / (np.sqrt(v) + 1e-7)
        optimizer.step()
    for p, peer, start in zip(ours, theirs, filters, strict=True):
        assert np.abs(peer - start.numpy()).max() > 1e-4
        np.testing.assert_allclose(p.detach().numpy(), peer, rtol=1e-5, atol=1e-6)


def test_nesterov_is_pytorchs() -> None:
    """Five steps, the rate falling, with weight decay; a parameter without a gradient stays as it is."""
    ours, theirs, idle = (nn.Parameter(torch.randn(4, 3, generator=make_generator(3, "test"))) for _ in range(3))
    start = idle.detach().clone()
    optimizer = Nesterov([{"params": [ours, idle], "lr": 0.5, "weight_decay": 0.01}], momentum=0.85)
    peer = torch.optim.SGD([theirs], lr=0.5, momentum=0.85, nesterov=True, weight_decay=0.01)
    for step in range(5):
        ours.grad = torch.randn(4, 3, generator=make_generator(3, "gradient", step))
        theirs.grad = ours.grad.clone()
        for group in (*optimizer.param_groups, *peer.param_groups):
            group["lr"] = 0.5 / (step + 1)
        optimizer.step()
        peer.step()
    assert torch.allclose(ours, theirs, rtol=1e-6, atol=1e-7)
    assert torch.equal(idle, start)


def test_states_of_other_parameters_are_refused() -> None:
    parameter = nn.Parameter(torch.ones(2, 2, 3, 3))
    optimizer = Muon([parameter], lr=1.0, momentum=0.5)
    with pytest.raises(ValueError, match=r"0\.momentum_buffer is \(4,\), not \(2, 2, 3, 3\)"):
        optimizer.restore({"0.momentum_buffer": torch.ones(4)})
    with pytest.raises(IndexError):
        optimizer.restore({"1.momentum_buffer": torch.ones(2, 2, 3, 3)})


# --- who is trained by what ------------------------------------------------------------------------------------------


def groups_of(recipe: Recipe) -> tuple[nn.Module, list[Optimizer]]:
    network = build(recipe.network)
    return network, make_optimizers(recipe, network, stage=0, batch_size=500)


def test_every_trained_parameter_has_one_optimizer() -> None:
    network, (sgd, muon) = groups_of(RECIPE)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    groups = {group["kind"]: {names[id(p)] for p in group["params"]} for group in sgd.param_groups}
    groups["filters"] = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    layers = [f"groups.{group}.{{}}.{index}" for group in (0, 1) for index in (0, 1)]
    assert groups == {
        "whitening": {"patch.bias"},
        "bias": {layer.format("norms") + ".bias" for layer in layers},
        "head": {"head.weight"},
        "filters": {layer.format("convs") + ".weight" for layer in layers},
    }
    assert isinstance(sgd, Nesterov) and isinstance(muon, Muon)


def test_rates_per_image_are_multiplied_by_the_batch() -> None:
    _, (sgd, muon) = groups_of(RECIPE)
    rates = {group["kind"]: group["lr"] for group in sgd.param_groups}
    assert rates == pytest.approx({"whitening": 26.5, "bias": 26.5, "head": 335.0})  # 0.053 and 0.67 × 500
    for group in sgd.param_groups:
        assert group["lr"] * group["weight_decay"] == pytest.approx(0.001)  # 2e-6 × 500 a step, whatever the rate
        assert group["initial_lr"] == group["lr"]
    (group,) = muon.param_groups
    assert (group["lr"], group["initial_lr"]) == (0.24, 0.24)
    assert isinstance(sgd, Nesterov) and isinstance(muon, Muon)
    assert (sgd.momentum, muon.momentum) == (0.85, 0.6)


def test_a_rate_of_zero_needs_no_decay() -> None:
    _, (sgd, _) = groups_of(replace(RECIPE, bias_lr=0.0))
    assert {group["kind"]: group["weight_decay"] for group in sgd.param_groups}["bias"] == 0


def test_reference_trains_all_with_adam() -> None:
    network = build(REFERENCE.network)
    (adam,) = make_optimizers(REFERENCE, network, stage=1, batch_size=64)
    assert isinstance(adam, KerasAdam)
    assert sum(p.numel() for group in adam.param_groups for p in group["params"]) == 16_998_986
    assert adam.param_groups[0]["lr"] == 1e-4


def test_rates_of_a_step() -> None:
    """Step 60 of 240: three quarters of the rate are left; of the first layer's three epochs, 0.6 are gone."""
    _, optimizers = groups_of(RECIPE)
    set_rates(optimizers, make_schedule(RECIPE, 50_000), 60)
    rates = {group.get("kind", "filters"): group["lr"] for optimizer in optimizers for group in optimizer.param_groups}
    assert rates == pytest.approx({"whitening": 26.5 * 0.8, "bias": 26.5 * 0.75, "head": 335 * 0.75, "filters": 0.18})


# --- schedules -------------------------------------------------------------------------------------------------------


def test_reference_schedule() -> None:
    schedule = make_schedule(REFERENCE, 40_000)
    assert (schedule.steps_per_epoch, schedule.ends, schedule.total) == (625, (12_500, 18_750, 21_875), 21_875)
    assert [step for step in range(21_876) if schedule.starts_stage(step)] == [0, 12_500, 18_750]
    rates = {0: 3e-4, 6_000: 3e-4, 12_499: 3e-4, 12_500: 1e-4, 18_749: 1e-4, 18_750: 5e-5, 21_874: 5e-5}
    assert {step: schedule.learning_rate(step) for step in rates} == pytest.approx(rates)
    assert [schedule.stage(step) for step in (0, 12_499, 12_500, 18_750, 21_874)] == [0, 0, 1, 2, 2]
    assert schedule.epoch(12_500) == 20


def test_one_stage_that_falls_to_zero() -> None:
    schedule = make_schedule(RECIPE, 50_000)
    assert (schedule.steps_per_epoch, schedule.ends) == (100, (240,))
    rates = {0: 0.24, 1: 0.239, 60: 0.18, 120: 0.12, 239: 0.001}
    assert {step: schedule.learning_rate(step) for step in rates} == pytest.approx(rates)
    assert schedule.factor(120) == pytest.approx(0.5)
    assert [schedule.starts_stage(step) for step in (0, 1, 240)] == [True, False, False]


def test_small_and_frozen_steps_are_counted_from_the_ends() -> None:
    schedule = make_schedule(replace(RECIPE, low_res_fraction=0.25, freeze_fraction=0.1), 50_000)  # of 240 steps
    assert [schedule.small(step) for step in (0, 59, 60, 239)] == [True, True, False, False]
    assert [schedule.frozen(step) for step in (0, 215, 216, 239)] == [False, False, True, True]
    plain = make_schedule(replace(RECIPE, low_res_fraction=0.0, freeze_fraction=0.0), 50_000)
    assert not any(plain.small(step) or plain.frozen(step) for step in range(240))


def test_the_first_layer_stops_early() -> None:
    schedule = make_schedule(replace(RECIPE, whiten_bias_epochs=0.5), 50_000)
    assert [schedule.whitening_factor(step) for step in (0, 10, 49, 50, 100)] == pytest.approx([1, 0.8, 0.02, 0, 0])
    never = make_schedule(replace(RECIPE, whiten_bias_epochs=0.0), 50_000)
    assert never.whitening_factor(0) == 0


def test_stages_end_where_their_sum_rounds_to() -> None:
    """Three stages of 1.3 epochs of 3 steps: they end at 3.9, 7.8 and 11.7 steps."""
    recipe = replace(RECIPE, stages=(Stage(1.3, 1.0, 0.5),) * 3, batch_size=10)
    schedule = make_schedule(recipe, 39)  # the last 9 images of an epoch make no batch
    assert (schedule.steps_per_epoch, schedule.ends) == (3, (4, 8, 12))
    assert [schedule.learning_rate(step) for step in (3, 4, 5, 7)] == pytest.approx([0.625, 1.0, 0.875, 0.625])


def test_a_stage_has_at_least_a_step() -> None:
    schedule = make_schedule(replace(RECIPE, stages=(Stage(0.001, 1.0, 0.0),) * 3), 50_000)
    assert schedule.ends == (1, 2, 3)
    assert [schedule.learning_rate(step) for step in range(3)] == [1, 1, 1]


def test_a_batch_is_never_larger_than_the_data_set() -> None:
    schedule = make_schedule(RECIPE, 120)
    assert (schedule.batch_size, schedule.steps_per_epoch, schedule.ends) == (120, 1, (2,))
