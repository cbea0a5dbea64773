"""The compiled kernels against PyTorch in float64, and how they are compiled, kept and done without."""

import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tenfold.errors import UsageError
from tenfold.training import kernels
from tenfold.training.device import select_device
from tenfold.training.fitting import as_recipe
from tenfold.training.kernels import bias_relu, norm_gelu
from tenfold.training.kernels import build as compiled
from tenfold.training.trainer import Trainer
from tests.support.few_shapes import few_shapes
from tests.support.waiting import LONG

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="kernels are compiled by gcc")

SHAPES = [
    # images, channels, height, width, pooled, with a shortcut
    (4, 32, 8, 8, True, False),
    (3, 7, 5, 9, True, False),
    (2, 64, 4, 4, True, True),
    (3, 1, 4, 2, True, False),
    (3, 5, 5, 9, False, True),
    (16, 130, 3, 3, False, False),
    (70, 3, 2, 2, True, False),
]
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 0.006}
"""Of the largest number: what rounding to the format, and float32 within, may come to."""


def images(*shape: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator).to(dtype).contiguous(memory_format=torch.channels_last)


def by_definition(x: Tensor, norm: nn.BatchNorm2d, shortcut: Tensor | None, pool: bool) -> Tensor:
    x = norm(F.max_pool2d(x, 2) if pool else x)
    return F.gelu(x if shortcut is None else x + shortcut)


def norm_of(channels: int, dtype: torch.dtype) -> nn.BatchNorm2d:
    norm = nn.BatchNorm2d(channels, momentum=0.4, eps=1e-12).to(dtype)
    with torch.no_grad():
        norm.weight.copy_(torch.linspace(0.5, 2, channels))
        norm.bias.copy_(torch.linspace(-1, 1, channels))
    return norm


def everything(
    operation: object, x: Tensor, shortcut: Tensor | None, gradient: Tensor, pool: bool, exact: bool
) -> list[Tensor]:
    """The answer, all gradients and the running statistics."""
    dtype = torch.float64 if exact else x.dtype
    norm = norm_of(x.shape[1], torch.float64 if exact else torch.float32)
    x = x.to(dtype).detach().requires_grad_()
    shortcut = None if shortcut is None else shortcut.to(dtype).detach().requires_grad_()
    assert callable(operation)
    y = operation(x, norm, shortcut, pool)
    y.backward(gradient.to(dtype))
    gradients = [x.grad, norm.weight.grad, norm.bias.grad, *([] if shortcut is None else [shortcut.grad])]
    return [y.detach(), *gradients, norm.running_mean, norm.running_var, norm.num_batches_tracked]


def error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max().clamp_min(1e-30))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_norm_gelu_has_the_values_and_gradients_of_the_definition(
    shape: tuple[int, int, int, int, bool, bool], dtype: torch.dtype
) -> None:
    count, channels, height, width, pool, beside = shape
    x = images(count, channels, height, width, dtype=dtype) * 2 + 3
    sides = (height // 2, width // 2) if pool else (height, width)
    shortcut = images(count, channels, *sides, dtype=dtype, seed=1) if beside else None
    gradient = images(count, channels, *sides, dtype=dtype, seed=2)

    assert kernels.takes(x)
    found = everything(norm_gelu, x, shortcut, gradient, pool, exact=False)
    expected = everything(by_definition, x, shortcut, gradient, pool, exact=True)

    assert [tensor.shape for tensor in found] == [tensor.shape for tensor in expected]
    assert max(map(error, found, expected)) < TOLERANCE[dtype]
    assert found[0].dtype == found[1].dtype == dtype
    assert found[0].is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def test_bias_relu_has_the_values_and_the_gradient_of_the_definition(dtype: torch.dtype) -> None:
    x, bias = images(5, 19, 3, 4, dtype=dtype), torch.linspace(-1, 1, 19).requires_grad_()
    gradient = images(5, 19, 3, 4, dtype=dtype, seed=1)
    exact = bias.detach().double().requires_grad_()
    expected = F.relu(x.double() + exact.view(-1, 1, 1))
    expected.backward(gradient.double())

    found = bias_relu(x, bias)
    found.backward(gradient)

    assert bias.grad is not None and exact.grad is not None
    assert error(found.detach(), expected.detach()) < TOLERANCE[dtype]
    assert error(bias.grad, exact.grad) < TOLERANCE[dtype]


def test_a_frozen_layer_gets_no_gradients() -> None:
    x, norm = images(4, 8, 4, 4, dtype=torch.float32), norm_of(8, torch.float32).requires_grad_(False)
    assert not norm_gelu(x, norm).requires_grad
    assert not bias_relu(x, torch.zeros(8)).requires_grad
    norm.bias.requires_grad_()
    norm_gelu(x, norm).sum().backward()  # the bias's alone
    assert norm.bias.grad is not None and norm.weight.grad is None and x.grad is None


def test_the_first_of_equal_pixels_gets_the_gradient() -> None:
    x = torch.zeros(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    x[0] = images(1, 3, 4, 4, dtype=torch.float32)[0]
    x.requires_grad_()
    norm_gelu(x, norm_of(3, torch.float32), pool=True).backward(images(2, 3, 2, 2, dtype=torch.float32))
    assert x.grad is not None
    assert (x.grad[1].unfold(1, 2, 2).unfold(2, 2, 2).flatten(3)[..., 1:] == 0).all()
    assert (x.grad[1, :, ::2, ::2] != 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_does_not_get_lost(bad: float, dtype: torch.dtype) -> None:
    x = images(4, 8, 4, 4, dtype=dtype)
    x[1, 2, 3, 3] = bad
    for pool in (False, True):
        y = norm_gelu(x, norm_of(8, torch.float32), pool=pool)
        assert not torch.isfinite(y[:, 2]).any()
        assert torch.isfinite(y[:, 3:]).all() and torch.isfinite(y[:, :2]).all()


def test_numbers_far_from_zero_keep_their_variance() -> None:
    x = images(8, 4, 6, 6, dtype=torch.float32) + 4096
    norm, exact = norm_of(4, torch.float32), norm_of(4, torch.float64)
    assert error(norm_gelu(x, norm).detach(), by_definition(x.double(), exact, None, False).detach()) < 1e-3
    assert norm.running_var is not None and exact.running_var is not None
    assert error(norm.running_var, exact.running_var) < 1e-5


def test_large_numbers_pass_gelu() -> None:
    x = torch.tensor([-1e4, -14.0, -13.0, -1.0, 0.0, 1.0, 13.0, 14.0, 1e4]).view(1, 1, 1, -1)
    norm = nn.BatchNorm2d(1)
    with torch.no_grad():  # normalised numbers are small: a scale makes them large
        norm.weight.fill_(1e6)
    found = norm_gelu(x, norm).detach()
    assert error(found, F.gelu(F.batch_norm(x.double(), None, None, training=True) * 1e6)) < 1e-6
    assert (found[..., :4].abs() < 1e-6).all() and found[..., 5] > 100


def test_the_bits_do_not_depend_on_the_number_of_threads() -> None:
    x, gradient = images(9, 33, 10, 6, dtype=torch.bfloat16), images(9, 33, 5, 3, dtype=torch.bfloat16, seed=1)
    threads = torch.get_num_threads()
    found = []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            found.append(everything(norm_gelu, x, None, gradient, True, exact=False))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_a_first_layer_that_is_trained_gets_its_gradients() -> None:
    network = as_recipe("fast89").network.build(10, 32).train()
    patch = network.get_submodule("patch").requires_grad_()
    network(images(4, 3, 32, 32, dtype=torch.float32)).sum().backward()
    assert all(parameter.grad is not None for parameter in patch.parameters())


def test_other_images_are_not_taken() -> None:
    assert not kernels.takes(torch.zeros(4, 3, 8, 8, dtype=torch.float64))
    assert not kernels.takes(torch.zeros(4, 3, 8, 8, dtype=torch.float16))
    assert not kernels.takes(torch.zeros(4, 3, 8))
    assert not kernels.takes(torch.zeros(1, 3, 2, 2))  # one number a channel once pooled: PyTorch says what is wrong
    assert not kernels.takes(torch.zeros(0, 3, 8, 8))
    assert not kernels.takes(torch.zeros(9, 3, 8, 1))


@pytest.mark.parametrize("residual", [False, True])
def test_a_network_learns_the_same_without_kernels(residual: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    fast89 = as_recipe("fast89")
    network = replace(fast89.network, widths=(8, 16, 16), residual=residual)  # type: ignore[call-arg]
    data, recipe = few_shapes(), replace(fast89, network=network, batch_size=64, low_res_fraction=0.0)
    losses = []
    for with_kernels in (True, False):
        if not with_kernels:
            monkeypatch.setattr(compiled, "library", lambda: compiled.Library(None, "none"))
        trainer = Trainer(recipe, data, device=select_device("cpu", torch.float32))
        for _ in range(2):
            trainer.train_step()
        losses.append(trainer.log[:2, 0])
    assert torch.allclose(*losses, rtol=1e-3), losses
    assert not torch.equal(*losses)  # else one of them was the other


# --- compiling ---------------------------------------------------------------------------------------------------


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and kernels not loaded yet."""
    monkeypatch.setenv("TENFOLD_HOME", str(tmp_path / "home"))
    for name in ("CC", "TENFOLD_KERNELS"):
        monkeypatch.delenv(name, raising=False)
    compiled.library.cache_clear()
    monkeypatch.setattr(compiled, "library", compiled.library.__wrapped__)
    return tmp_path / "home" / "kernels"


def script(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


def test_kernels_are_compiled_once(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compiled.library().functions
    (file,) = fresh.glob("*.so")
    written = file.stat().st_mtime_ns
    monkeypatch.setattr(compiled, "_compile", None)  # which would fail
    assert compiled.library().functions
    assert file.stat().st_mtime_ns == written


def test_a_damaged_file_is_compiled_again(fresh: Path) -> None:
    compiled.library()
    (file,) = fresh.glob("*.so")
    whole = file.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2]):
        file.unlink()  # what is loaded stays mapped
        file.write_bytes(damaged)
        assert compiled.library().functions
        assert len(file.read_bytes()) == len(whole)


def test_another_cpu_or_compiler_gets_a_library_of_its_own(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled.library()
    monkeypatch.setattr(compiled, "cpu_features", lambda: {"cpu_name": "another"})
    compiled.library()
    assert len(list(fresh.glob("*.so"))) == 2
    monkeypatch.setenv("CC", "gcc -fno-inline")
    compiled.library()
    assert len(list(fresh.glob("*.so"))) == 3


@pytest.mark.parametrize("cache", ["a file", "no home", "open to all"])
def test_a_cache_that_is_of_no_use_is_done_without(
    cache: str, tmp_path: Path, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if cache == "a file":
        (tmp_path / "home").write_text("")
    elif cache == "no home":
        monkeypatch.setenv("TENFOLD_HOME", "~nobody-of-that-name")
    else:  # anybody could put code there
        fresh.mkdir(parents=True)
        fresh.chmod(0o777)
    assert compiled.library().functions
    assert not list(tmp_path.rglob("*.so"))


def test_the_cache_of_code_is_private(fresh: Path) -> None:
    compiled.library()
    assert fresh.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("echo 'no such option' >&2; exit 1", "the C compiler failed: no such option"),
        ("kill -9 $$", "the C compiler failed: exit code -9"),
        ("exit 0", "the kernels do not load"),
    ],
)
def test_without_a_working_compiler_pytorch_does_it(
    text: str, reason: str, fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CC", script(tmp_path / "compiler", text))
    found = compiled.library()
    assert found.functions is None and reason in found.reason and found.reason.startswith("PyTorch's operations")
    assert not list(tmp_path.rglob("*.so"))


def test_what_is_no_library_is_not_kept(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = 'while [ "$1" != -o ]; do shift; done; echo text > "$2"'
    monkeypatch.setenv("CC", script(tmp_path / "compiler", compiler))
    assert "the kernels do not load" in compiled.library().reason
    monkeypatch.setenv("CC", "gcc")
    assert compiled.library().functions


def test_a_missing_compiler_is_named(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert compiled.library().reason == "PyTorch's operations: no C compiler was found (gcc, cc, clang)"
    monkeypatch.setenv("CC", "nowhere-cc")
    assert "nowhere-cc" in compiled.library().reason


def test_kernels_can_be_switched_off(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENFOLD_KERNELS", "off")
    assert compiled.library() == compiled.Library(None, "PyTorch's operations: TENFOLD_KERNELS=off")
    assert not fresh.exists()
    monkeypatch.setenv("TENFOLD_KERNELS", "false")
    with pytest.raises(UsageError, match="TENFOLD_KERNELS must be on or off, not 'false'"):
        compiled.library()


def test_the_next_compiler_is_tried(fresh: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    script(folder / "gcc", "exit 1")
    (folder / "cc").symlink_to(str(shutil.which("gcc")))
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    assert compiled.library().reason == "compiled by cc for this CPU"


@pytest.mark.slow
def test_two_processes_at_once_get_whole_kernels(fresh: Path) -> None:
    code = "from tenfold.training.kernels import library; assert library().functions, library().reason"
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(LONG) for process in both] == [0, 0]
    assert len(list(fresh.glob("*.so"))) == 1 and not list(fresh.glob(".*.partial"))


@pytest.mark.slow
def test_kernels_touch_no_memory_but_their_own(tmp_path: Path) -> None:
    def runtime(name: str) -> str:
        return subprocess.run(
            ["gcc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()

    environment = os.environ | {
        "CC": "gcc -fsanitize=address,undefined -fno-sanitize-recover=all -g",
        "TENFOLD_HOME": str(tmp_path),
        "LD_PRELOAD": f"{runtime('libasan.so')} {runtime('libubsan.so')}",
        "ASAN_OPTIONS": "detect_leaks=0:protect_shadow_gap=0",
    }
    chosen = "definition or equal_pixels or threads or frozen or finite or large_numbers"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n0", __file__, "-k", chosen]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONG)
    assert found.returncode == 0, found.stdout + found.stderr
    assert len(list((tmp_path / "kernels").glob("*.so"))) == 1
