"""The networks: every layer of the reference counted by hand, its forward pass computed twice, whitening in NumPy."""

import math
from collections.abc import Callable, Iterator
from typing import Literal

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tenfold.data.shapes import make_shapes
from tenfold.errors import UsageError
from tenfold.training.model import build, l2_penalty
from tenfold.training.networks import EfficientNetLite0Spec, NetworkSpec, WhitenedSpec
from tenfold.training.networks.reference import KerasNorm, Reference
from tenfold.training.networks.whitened import ConvGroup, WhitenedConvNet
from tenfold.training.recipes import REFERENCE
from tenfold.training.summary import Layer, count_parameters, fold_blocks, summarize

REFERENCE_LAYERS = [
    # worked out from SEED.md: a convolution holds in × out × 9 (or × 1) weights and out biases; a norm 4 × channels
    ("blocks.0.convs.0", (64, 32, 32), 1_792),
    ("blocks.0.convs.1", (64, 32, 32), 36_928),
    ("blocks.0.from_image", (64, 32, 32), 256),
    ("blocks.0.norm", (64, 32, 32), 256),
    ("blocks.1.convs.0", (128, 16, 16), 73_856),
    ("blocks.1.convs.1", (128, 16, 16), 147_584),
    ("blocks.1.from_image", (128, 16, 16), 512),
    ("blocks.1.from_block", (128, 16, 16), 8_320),
    ("blocks.1.norm", (128, 16, 16), 512),
    ("blocks.2.convs.0", (256, 8, 8), 295_168),
    ("blocks.2.convs.1", (256, 8, 8), 590_080),
    ("blocks.2.convs.2", (256, 8, 8), 590_080),
    ("blocks.2.from_image", (256, 8, 8), 1_024),
    ("blocks.2.from_block", (256, 8, 8), 33_024),
    ("blocks.2.norm", (256, 8, 8), 1_024),
    ("blocks.3.convs.0", (512, 4, 4), 1_180_160),
    ("blocks.3.convs.1", (512, 4, 4), 2_359_808),
    ("blocks.3.convs.2", (512, 4, 4), 2_359_808),
    ("blocks.3.from_image", (512, 4, 4), 2_048),
    ("blocks.3.from_block", (512, 4, 4), 131_584),
    ("blocks.3.norm", (512, 4, 4), 2_048),
    ("blocks.4.convs.0", (512, 2, 2), 2_359_808),
    ("blocks.4.convs.1", (512, 2, 2), 2_359_808),
    ("blocks.4.convs.2", (512, 2, 2), 2_359_808),
    ("blocks.4.from_image", (512, 2, 2), 2_048),
    ("blocks.4.from_block", (512, 2, 2), 262_656),
    ("blocks.4.norm", (512, 2, 2), 2_048),
    ("dense.0", (1024,), 525_312),
    ("dense.1", (1024,), 1_049_600),
    ("dense.2", (256,), 262_400),
    ("head", (10,), 2_570),
]


@pytest.fixture(scope="module")
def reference() -> Reference:
    torch.manual_seed(0)
    network = build(REFERENCE.network)
    assert isinstance(network, Reference)
    return network


@pytest.fixture
def whitened() -> WhitenedConvNet:
    torch.manual_seed(0)
    network = build(WhitenedSpec(widths=(8, 16)))
    assert isinstance(network, WhitenedConvNet)
    return network


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    """Normalised N×3×32×32, of drawn shapes."""
    images = make_shapes(train=300, test=10).train.images
    return torch.from_numpy((images.astype(np.float32) / 255 - 0.45) / 0.25).permute(0, 3, 1, 2)


# --- reference ---------------------------------------------------------------------------------------------------


def test_reference_layer_by_layer(reference: Reference) -> None:
    assert [(layer.name, layer.shape, layer.parameters) for layer in summarize(reference)] == REFERENCE_LAYERS


def test_reference_counts(reference: Reference) -> None:
    assert count_parameters(reference) == 17_001_930
    assert count_parameters(reference, trainable=True) == 16_998_986
    assert sum(parameters for _, _, parameters in REFERENCE_LAYERS) == 17_001_930


def test_many_layers_are_shown_block_by_block() -> None:
    """The 51 layers of the recipe pretrained filled a screen."""
    network = build(EfficientNetLite0Spec(), 3, 64)
    layers = summarize(network, 64)
    folded = fold_blocks(layers, 20)
    assert len(layers) > 45 and len(folded) <= 20
    assert sum(layer.parameters for layer in folded) == count_parameters(network)
    own = [layer for layer in layers if layer.name.startswith("blocks.3.")]
    row = Layer("blocks.3", f"{len(own)} layers", own[-1].shape, sum(layer.parameters for layer in own))
    assert row in folded and layers[0] in folded and layers[-1] in folded
    assert fold_blocks(layers[:20], 20) == layers[:20]


def test_summarize_leaves_no_trace(reference: Reference) -> None:
    reference.train()
    before = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
    summarize(reference)
    assert reference.training
    assert not any(module._forward_hooks for module in reference.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in reference.state_dict().items())


def test_reference_forward_pass_computed_twice() -> None:
    """Once as the module does, once in plain calls written from SEED.md's table, weights and moving values random."""
    torch.manual_seed(1)
    network = build(REFERENCE.network).eval()
    with torch.no_grad():
        for name, tensor in network.state_dict().items():
            if "norm." in name and tensor.is_floating_point():
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("bias"):
                tensor.uniform_(-0.1, 0.1)
        images = torch.rand(4, 3, 32, 32)
        expected = reference_by_hand(network.state_dict(), images)
        torch.testing.assert_close(network(images), expected, rtol=1e-5, atol=1e-5 * expected.abs().max().item())


def reference_by_hand(w: dict[str, Tensor], images: Tensor) -> Tensor:
    def conv(x: Tensor, name: str) -> Tensor:
        kernel = w[f"{name}.weight"]
        return F.conv2d(x, kernel, w[f"{name}.bias"], padding=kernel.shape[2] // 2)

    x = images
    for block, depth in enumerate([2, 2, 3, 3, 3]):
        y = x
        for index in range(depth):
            y = conv(y, f"blocks.{block}.convs.{index}").clamp(min=0)
        image = images.unfold(2, 2**block, 2**block).unfold(3, 2**block, 2**block).mean((4, 5))
        y = y + conv(image, f"blocks.{block}.from_image")
        if block > 0:
            y = y + conv(x, f"blocks.{block}.from_block")
        mean, variance, scale, shift = (
            w[f"blocks.{block}.norm.{part}"].view(1, -1, 1, 1)
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        y = (y - mean) / torch.sqrt(variance + 1e-3) * scale + shift
        x = y.unfold(2, 2, 2).unfold(3, 2, 2).amax((4, 5))
    x = x.reshape(len(x), 512)
    for index in range(3):
        x = (x @ w[f"dense.{index}.weight"].T + w[f"dense.{index}.bias"]).clamp(min=0)
    return x @ w["head.weight"].T + w["head.bias"]


def test_reference_starts_as_keras_does(reference: Reference) -> None:
    """Glorot uniform: within ±√(6 / (fan in + fan out)), with the variance of that; biases zero."""
    for module in (m for m in reference.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)):
        field = module.weight[0, 0].numel() if module.weight.ndim == 4 else 1
        limit = math.sqrt(6 / (field * sum(module.weight.shape[:2])))
        assert module.weight.abs().max().item() <= limit * (1 + 1e-6)
        if module.weight.numel() > 10_000:
            assert module.weight.std().item() == pytest.approx(limit / math.sqrt(3), rel=0.03)
        assert module.bias is not None and not module.bias.any()


def test_reference_drops_a_share_of_each_hidden_dense_layer_in_training_only(reference: Reference) -> None:
    kept = []
    handle = reference.head.register_forward_pre_hook(lambda _module, inputs: kept.append(inputs[0]))
    alive = []
    other = reference.dense[2].register_forward_hook(lambda _module, _inputs, output: alive.append(output > 0))
    images = torch.rand(64, 3, 32, 32)
    with torch.no_grad():
        reference.train()(images)
        reference.eval()(images)
    handle.remove()
    other.remove()
    dropped = [((k == 0) & a).sum().item() / a.sum().item() for k, a in zip(kept, alive, strict=True)]
    assert dropped[0] == pytest.approx(0.3, abs=0.03)
    assert dropped[1] == 0


def test_the_penalty_is_that_of_the_thirteen_large_kernels(reference: Reference) -> None:
    kernels = [p.detach().double().numpy() for n, p in reference.named_parameters() if n.endswith("weight")]
    squares = [float((kernel**2).sum()) for kernel in kernels if kernel.ndim == 4 and kernel.shape[2:] == (3, 3)]
    assert len(squares) == 13
    value = l2_penalty(reference, 1e-4)
    assert isinstance(value, Tensor) and value.requires_grad
    assert value.item() == pytest.approx(1e-4 * sum(squares), rel=1e-5)
    assert l2_penalty(reference, 0.0) == 0


def test_keras_norm_averages_the_biased_variance() -> None:
    x = torch.from_numpy(np.random.default_rng(0).normal(3, 2, (4, 2, 3, 3)).astype(np.float32))
    norm = KerasNorm(2, momentum=1 - 0.99, eps=1e-3)
    torch.nn.init.constant_(norm.weight, 1.5)
    torch.nn.init.constant_(norm.bias, -0.5)
    y = norm.train()(x)
    values = x.double().numpy()
    mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3))  # NumPy's variance is the biased one
    np.testing.assert_allclose(norm.running_mean, 0.01 * mean, rtol=1e-5)
    np.testing.assert_allclose(norm.running_var, 0.99 + 0.01 * variance, rtol=1e-6)
    expected = (values - mean[:, None, None]) / np.sqrt(variance + 1e-3)[:, None, None] * 1.5 - 0.5
    np.testing.assert_allclose(y.detach(), expected, rtol=1e-4, atol=1e-5)
    unbiased = values.var((0, 2, 3), ddof=1)
    assert (np.abs(norm.running_var.numpy() - (0.99 + 0.01 * unbiased)) > 1e-4).all()  # 36 values tell them apart


def test_keras_norm_uses_the_moving_values_afterwards() -> None:
    norm = KerasNorm(1, momentum=0.01, eps=1e-3).eval()
    norm.running_mean.fill_(2)
    norm.running_var.fill_(4 - 1e-3)
    assert norm(torch.full((1, 1, 1, 1), 8.0)).item() == pytest.approx(3)  # (8 - 2) / √4


# --- whitened ----------------------------------------------------------------------------------------------------


def patches(images: Tensor) -> np.ndarray:
    """All 3×3 patches of N×3×H×W as rows, channel by channel, in float64."""
    windows = np.lib.stride_tricks.sliding_window_view(images.double().numpy(), (3, 3), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 27)


def test_whitening_makes_patches_uncorrelated_with_unit_power(pictures: Tensor) -> None:
    network = build(WhitenedSpec(widths=(8,), whitening_pairs=10))
    assert isinstance(network, WhitenedConvNet)
    network.initialize_from(pictures)
    rows = patches(pictures)
    responses = rows @ network.patch.weight[:10].double().reshape(10, 27).numpy().T
    power = responses.T @ responses / len(rows)
    values = np.sort(np.linalg.eigvalsh(rows.T @ rows / len(rows)))[::-1][:10]  # strongest first
    assert values[-1] > 10 * 5e-4
    np.testing.assert_allclose(power, np.diag(values / (values + 5e-4)), atol=2e-3)


def test_whitening_filters_come_in_pairs_with_fixed_signs(whitened: WhitenedConvNet, pictures: Tensor) -> None:
    whitened.initialize_from(pictures)
    weight = whitened.patch.weight.flatten(1)
    assert torch.equal(weight[16:], -weight[:16])
    largest = weight[:16].abs().argmax(1)
    assert (weight[:16].gather(1, largest[:, None]) > 0).all()
    assert not whitened.patch.weight.requires_grad


def test_no_channel_of_grey_images_is_always_zero(pictures: Tensor) -> None:
    """Their colours never vary: two thirds of the channels were zero, and digits ended in NaN at the second step."""
    network = build(WhitenedSpec())
    assert isinstance(network, WhitenedConvNet)
    grey = pictures.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    network.initialize_from(grey)
    with torch.no_grad():
        assert network.patch(grey).var((0, 2, 3)).min() > 1e-3
    weight = network.patch.weight.flatten(1)
    assert torch.equal(weight[9:16], weight[:7]), "nine vary, which come again"


def test_more_pairs_than_principal_patches_are_refused() -> None:
    with pytest.raises(ValueError, match=r"network\.whitening_pairs: patches of this size have only 12"):
        WhitenedSpec(widths=(8,), whitening=2, whitening_pairs=13)


def test_whitened_layers_are_counted() -> None:
    network = build(WhitenedSpec(widths=(8, 16), depth=2, whitening=3, whitening_pairs=4), classes=7, size=16)
    counted = [(layer.name, layer.shape, layer.parameters) for layer in summarize(network, 16)]
    assert counted == [
        ("patch", (8, 16, 16), 8 * 27 + 8),
        ("groups.0.convs.0", (8, 16, 16), 8 * 8 * 9),
        ("groups.0.norms.0", (8, 8, 8), 4 * 8),
        ("groups.0.convs.1", (8, 8, 8), 8 * 8 * 9),
        ("groups.0.norms.1", (8, 8, 8), 4 * 8),
        ("groups.1.convs.0", (16, 8, 8), 8 * 16 * 9),
        ("groups.1.norms.0", (16, 4, 4), 4 * 16),
        ("groups.1.convs.1", (16, 4, 4), 16 * 16 * 9),
        ("groups.1.norms.1", (16, 4, 4), 4 * 16),
        ("head", (7,), 16 * 7),
    ]


def test_a_residual_group_adds_what_its_first_convolution_gave() -> None:
    group = ConvGroup(4, 8, depth=3, momentum=0.4, residual=True).eval()
    x = torch.rand(2, 4, 6, 6)
    (first, second, third), norms = group.convs, group.norms
    shortcut = F.gelu(norms[0](F.max_pool2d(first(x), 2)))
    expected = F.gelu(norms[2](third(F.gelu(norms[1](second(shortcut))))) + shortcut)
    torch.testing.assert_close(group(x), expected)


def test_the_first_filters_of_a_convolution_pass_the_signal_on(whitened: WhitenedConvNet) -> None:
    conv = whitened.groups[1].convs[0]
    x = torch.rand(2, 8, 5, 5)
    torch.testing.assert_close(conv(x)[:, :8], x)


def test_the_head_starts_with_unit_spread_and_its_scale(whitened: WhitenedConvNet) -> None:
    assert whitened.head.weight.std().item() == pytest.approx(1, rel=1e-5)
    assert build(WhitenedSpec(widths=(8, 16), head_scale=4.0)).scale == 4 / 16


@pytest.mark.parametrize(("name", "activation"), [("gelu", F.gelu), ("relu", F.relu)])
def test_what_follows_the_first_layer(
    name: Literal["gelu", "relu"], activation: Callable[[Tensor], Tensor], pictures: Tensor
) -> None:
    network = build(WhitenedSpec(widths=(8,), whitening_pairs=4, first_activation=name))
    assert isinstance(network, WhitenedConvNet)
    network.initialize_from(pictures)
    seen: list[Tensor] = []
    network.groups.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    network(pictures)
    torch.testing.assert_close(
        seen[0], activation(F.conv2d(pictures, network.patch.weight, network.patch.bias, padding=1))
    )


# --- both --------------------------------------------------------------------------------------------------------


def filters(network: torch.nn.Module) -> Iterator[Tensor]:
    return (p for p in network.parameters() if p.ndim == 4)


def test_filters_lie_channels_last(reference: Reference, whitened: WhitenedConvNet) -> None:
    for network in (reference, whitened):
        assert all(p.is_contiguous(memory_format=torch.channels_last) for p in filters(network))


@pytest.mark.parametrize(
    ("spec", "size"),
    [(WhitenedSpec(widths=(8, 8, 8)), 7), (WhitenedSpec(widths=(8,), stride=2), 3), (REFERENCE.network, 31)],
)
def test_images_that_are_too_small_are_refused(spec: NetworkSpec, size: int) -> None:
    with pytest.raises(UsageError, match=f"{size}×{size} images are too small for"):
        build(spec, 10, size)


@pytest.mark.parametrize(("widths", "size"), [((8, 8, 8), 8), ((8,), 33), ((8, 8), 64)])
def test_any_other_size_gives_logits(widths: tuple[int, ...], size: int) -> None:
    network = build(WhitenedSpec(widths=widths), classes=3, size=size).eval()
    assert network(torch.rand(2, 3, size, size)).shape == (2, 3)


def test_weights_depend_on_torchs_generator_alone() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(build(WhitenedSpec(widths=(8,))).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["head.weight"], states[2]["head.weight"])


def test_keras_norm_does_not_read_memory_that_nobody_wrote() -> None:
    """Without zeros to begin with: NaN now and then, where the memory happened to hold NaN."""
    norm = KerasNorm(2, momentum=0.01, eps=1e-3)
    torch.use_deterministic_algorithms(True)  # fills what is not initialised with NaN
    try:
        norm(torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0)))
    finally:
        torch.use_deterministic_algorithms(False)
    assert torch.isfinite(norm.running_mean).all() and torch.isfinite(norm.running_var).all()
