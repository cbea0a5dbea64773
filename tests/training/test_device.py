"""What the machine offers, and the sentences that say what was chosen."""

import pytest
import torch

from tenfold.errors import UsageError
from tenfold.training import cpu
from tenfold.training.device import select_device
from tenfold.training.fitting import as_recipe, device_for


@pytest.fixture
def bare_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose only device is a CPU without bfloat16 instructions."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_bf16": False})


@pytest.mark.parametrize("name", ["tpu", "gpu", "", "CPU", "cpux", "cuda0"])
def test_an_unknown_device_is_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match=f"unknown device {name!r}: choose auto, cpu, cuda, mps"):
        select_device(name)


@pytest.mark.usefixtures("bare_machine")
@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps", "cpu:1"])
def test_an_absent_device_is_refused_by_name(name: str) -> None:
    with pytest.raises(UsageError, match=f"device '{name}' is not on this machine: choose auto or cpu"):
        select_device(name)


@pytest.mark.parametrize(("name", "there"), [("cuda:1", True), ("cuda:2", False), ("cuda:x", False)])
def test_gpus_are_counted(monkeypatch: pytest.MonkeyPatch, name: str, there: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)
    if there:
        assert select_device(name).device == torch.device(name)
    else:
        with pytest.raises(UsageError, match="is not on this machine"):
            select_device(name)


@pytest.mark.usefixtures("bare_machine")
def test_a_cpu_without_bfloat16_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(cpu, "cores", torch.get_num_threads)  # no quota
    device_config = select_device("auto")
    assert (device_config.device, device_config.dtype, device_config.dtype_name) == (
        torch.device("cpu"),
        torch.float32,
        "float32",
    )
    assert device_config.threads == torch.get_num_threads()
    assert device_config.reasons[:3] == (
        "device cpu: the fastest kind found here",
        "float32: no bfloat16 instructions are known of this CPU",
        f"{device_config.threads} thread{'s' if device_config.threads != 1 else ''}",
    )
    with device_config.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.float32


@pytest.mark.usefixtures("bare_machine")
def test_a_cpu_with_bfloat16_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    device_config = select_device("cpu")
    assert device_config.dtype_name == "bfloat16"
    assert device_config.reasons[0] == "device cpu: as asked"
    assert device_config.reasons[1].startswith("bfloat16: the CPU has instructions for it")
    with device_config.autocast():
        assert (torch.ones(2, 2) @ torch.ones(2, 2)).dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("features", "dtype"),
    [
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True}, "float32"),  # where it is half as fast
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, "bfloat16"),
        ({"cpu_name": "AMD EPYC 9575F", "avx512_bf16": True}, "bfloat16"),
    ],
)
@pytest.mark.usefixtures("bare_machine")
def test_bfloat16_is_used_where_it_is_faster(
    features: dict[str, object], dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: features)
    assert select_device("cpu").dtype_name == dtype


def test_the_dtype_of_a_recipe_can_be_asked_for() -> None:
    recipe = as_recipe("fast89")
    assert [device_for(recipe, "cpu", name).dtype_name for name in ("float32", "bfloat16")] == ["float32", "bfloat16"]
    assert device_for(recipe, "cpu", "auto").dtype == select_device("cpu").dtype
    with pytest.raises(UsageError, match="unknown dtype 'bfloat1': choose auto, bfloat16, float32; did you mean"):
        device_for(recipe, "cpu", "bfloat1")


def test_a_dtype_that_was_asked_for_is_used() -> None:
    device_config = select_device("cpu", torch.float32)
    assert device_config.dtype == torch.float32 and device_config.reasons[1] == "float32: as asked"


def test_an_allocator_that_the_user_set_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "131072")
    assert cpu.keep_freed_memory() == "allocator: left as the environment sets it"


def test_another_c_library_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.libc_ver", lambda: ("", ""))
    assert cpu.keep_freed_memory() == "allocator: the system's own (only glibc's is tuned)"
