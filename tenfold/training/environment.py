"""The content of env.json: where and with what a run is trained."""

import platform
from importlib.metadata import version
from typing import Any

import torch

from tenfold.training import kernels
from tenfold.training.device import DeviceConfig
from tenfold.training.distributed import SINGLE_PROCESS, DistContext
from tenfold.training.lock import now
from tenfold.training.precision import cpu_features


def describe_environment(
    data: str, seed: int, device_config: DeviceConfig, dist: DistContext = SINGLE_PROCESS
) -> dict[str, Any]:
    """What a run needs to be repeated: seed, data, device, versions, platform."""
    packages = ("tenfold", "torch", "numpy")
    return {
        "seed": seed,
        "data": data,
        "device": str(device_config.device),
        "dtype": device_config.dtype_name,
        "threads": device_config.threads,
        "kernels": "C" if device_config.device.type == "cpu" and kernels.library().functions else "PyTorch",
        "ranks": dist.count,
        "reasons": list(device_config.reasons),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in packages}},
        "platform": platform.platform(),
        "cpu": cpu_features().get("cpu_name", platform.processor()),
        "gpu": torch.cuda.get_device_name(device_config.device) if device_config.device.type == "cuda" else None,
        "started": now(),
    }
