"""A trained network on disk: its numbers as safetensors, and JSON from which it is rebuilt. No pickle, ever."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import pydantic
import pydantic.dataclasses
import safetensors
import safetensors.torch
import torch
from pydantic import Field, TypeAdapter
from torch import nn

from tenfold.data.resize import Resize
from tenfold.errors import ModelError, UsageError, one_line
from tenfold.files import format_object, write_bytes, write_text
from tenfold.training.aliases import with_current_names
from tenfold.training.augment import Normalization
from tenfold.training.device import DeviceConfig
from tenfold.training.model import build, channels_last
from tenfold.training.networks import AnyNetwork, NetworkSpec
from tenfold.training.networks.module import Network
from tenfold.training.spec import STRICT, first_error

WEIGHTS, DESCRIPTION = "model.safetensors", "model.json"
MODEL_FORMAT: Final = 1


@dataclass(frozen=True)
class Model:
    """A trained network with what it must know about its input."""

    network: Network
    classes: tuple[str, ...]
    size: int
    normalization: Normalization


@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class ModelDescription:
    """model.json: all that is needed to rebuild the network and to feed it."""

    format: Literal[1]
    network: AnyNetwork
    classes: Annotated[tuple[str, ...], Field(min_length=2, max_length=1000)]
    size: Annotated[int, Field(ge=1, le=1024)]
    """Side of the images, in pixels."""
    resize: Resize
    """How images of other shapes are brought to that size."""
    mean: tuple[float, float, float]
    std: tuple[Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)], Annotated[float, Field(gt=0)]]
    bit_depth: Annotated[int, Field(ge=8, le=16)] = 16
    """How many bits of 16-bit images are brought to 8; older files do not say it, and mean all."""


_ADAPTER = TypeAdapter(ModelDescription)


def describe_model(
    spec: NetworkSpec,
    classes: tuple[str, ...],
    size: int,
    normalization: Normalization,
    resize: str = "stretch",
    bit_depth: int = 16,
) -> dict[str, Any]:
    """Say in JSON all that `read_model` needs."""
    mean, std = normalization.mean, normalization.std
    described = ModelDescription(MODEL_FORMAT, spec, classes, size, resize, mean, std, bit_depth)  # type: ignore[arg-type]
    return _ADAPTER.dump_python(described, mode="json")


def write_model(folder: Path, network: nn.Module, description: dict[str, Any]) -> None:
    """Write weights and buffers, and what `describe_model` said of them. Raises `StorageError`."""
    tensors = {name: tensor.contiguous().cpu() for name, tensor in network.state_dict().items()}
    write_bytes(folder / WEIGHTS, safetensors.torch.save(tensors))
    write_text(folder / DESCRIPTION, format_object(description))


def read_description(folder: Path) -> ModelDescription:
    """What model.json says. Raises `ModelError`."""
    try:
        text = (folder / DESCRIPTION).read_text(encoding="utf-8")
        return _ADAPTER.validate_json(with_current_names(text, trained=True), strict=True)
    except (OSError, ValueError) as error:
        raise _not_understood(folder, error) from error


def read_model(folder: Path, device_config: DeviceConfig) -> Model:
    """Rebuild the network on that device, ready to predict. Raises `ModelError`."""
    description = read_description(folder)
    try:
        network = build(description.network, len(description.classes), description.size)
    except UsageError as error:
        raise _not_understood(folder, error) from error
    _fill(network, folder / WEIGHTS)
    network = channels_last(network.to(device_config.device)).eval()
    return Model(network, description.classes, description.size, Normalization(description.mean, description.std))


def _not_understood(folder: Path, error: Exception) -> ModelError:
    what = first_error(error) if isinstance(error, pydantic.ValidationError) else one_line(error)
    return ModelError(f"{folder / DESCRIPTION}: not understood ({what})")


def _fill(network: nn.Module, path: Path) -> None:
    try:
        tensors = safetensors.torch.load(path.read_bytes())
        network.load_state_dict(tensors)
    except (safetensors.SafetensorError, RuntimeError, OSError) as error:
        raise ModelError(f"{path}: not the weights that model.json describes ({one_line(error)})") from error
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise ModelError(f"{path}: {bad[0]} holds numbers that are not finite")
