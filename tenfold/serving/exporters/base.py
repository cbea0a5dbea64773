"""What an export format is, and the registry of those that `tenfold export --to NAME` takes."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np

from tenfold.data.dataset import Dataset
from tenfold.registry import Registry
from tenfold.serving.source import Exported, Source, read_source, verified, write_into
from tenfold.training.provenance import FoundData
from tenfold.training.run import Run

if TYPE_CHECKING:
    from tenfold.serving.export import Int8


class Exporter:
    """One file format: `write` a model, and `predict` with what was written, to compare it with the network."""

    name: ClassVar[str]
    file: ClassVar[str]
    """Name of the file in a run directory, such as `model.onnx`."""
    suffix: ClassVar[str] = ""
    """What `--out` has to end in, if anything."""
    extra: ClassVar[tuple[str, tuple[str, ...]]] = ("train", ())
    """The extra that it needs, and the modules of it."""
    options: ClassVar[frozenset[str]] = frozenset()
    """Which of `int8` and `card` it takes."""

    @property
    def runtime(self) -> str:
        """What opens the file."""
        return self.name

    def write(self, source: Source) -> bytes:
        """The content of the file, for `source.model`, `source.about` and uint8 N×S×S×3 images.

        Raises `ModelError` for a network that the format cannot hold.
        """
        raise NotImplementedError

    def predict(self, content: bytes, images: np.ndarray) -> np.ndarray:
        """What a file with that content answers: images uint8 N×S×S×3 to probabilities float32 N×K."""
        raise NotImplementedError

    def export(
        self,
        run: Run,
        out: Path | None = None,
        int8: "Int8" = "off",
        data: Dataset | Path | FoundData | None = None,
    ) -> Exported:
        """Write a run's model, compared with the network before it gets its name. Raises as `serving.export.export`."""
        del int8  # of those that take it only

        def make(path: Path) -> tuple[bytes, Exported]:
            source = read_source(run, data)
            return verified(source, path, self.name, self.runtime, self.write(source), self.predict)

        return write_into(run, out, self.file, make)


EXPORTERS: Registry[type[Exporter]] = Registry("export format")

E = TypeVar("E", bound=type[Exporter])


def register_exporter(name: str) -> Callable[[E], E]:
    """Let `tenfold export --to NAME` write a format; decorates a subclass of `Exporter`.

    Raises `UsageError` where the name is taken.
    """

    def register(exporter: E) -> E:
        exporter.name = name
        EXPORTERS.add(name, exporter, exporter.__module__)
        return exporter

    return register
