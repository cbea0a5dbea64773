"""A `.keras` file, which Keras and TensorFlow open."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from tenfold.data.dataset import Dataset
from tenfold.serving import keras_file
from tenfold.serving.export import Int8
from tenfold.serving.exporters.base import Exporter, register_exporter
from tenfold.serving.source import Exported, Source
from tenfold.training.provenance import FoundData
from tenfold.training.run import Run


@register_exporter("keras")
class Keras(Exporter):
    """Keras's own layers, to look at and to train on."""

    file: ClassVar[str] = keras_file.RUN_FILE
    suffix: ClassVar[str] = ".keras"
    extra: ClassVar[tuple[str, tuple[str, ...]]] = ("keras", ("keras",))

    def write(self, source: Source) -> bytes:
        """As `Exporter.write`."""
        return keras_file.to_bytes(source)

    def predict(self, content: bytes, images: np.ndarray) -> np.ndarray:
        """As `Exporter.predict`."""
        return keras_file.predict(content, images)

    def export(
        self,
        run: Run,
        out: Path | None = None,
        int8: Int8 = "off",
        data: Dataset | Path | FoundData | None = None,
    ) -> Exported:
        """As `Exporter.export`."""
        del int8
        return keras_file.export_keras(run, out, data)
