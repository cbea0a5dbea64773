"""ONNX, which `predict` and `serve` answer with."""

from pathlib import Path
from typing import ClassVar

import numpy as np

from tenfold.data.dataset import Dataset
from tenfold.serving import export
from tenfold.serving.exporters.base import Exporter, register_exporter
from tenfold.serving.model_file import RUN_FILE
from tenfold.serving.predictor import open_bytes
from tenfold.serving.source import Exported, Source
from tenfold.training.provenance import FoundData
from tenfold.training.run import Run


@register_exporter("onnx")
class Onnx(Exporter):
    """One graph from pixels to probabilities, on request in 8 bits."""

    file: ClassVar[str] = RUN_FILE
    extra: ClassVar[tuple[str, tuple[str, ...]]] = ("train", ("onnx",))
    options: ClassVar[frozenset[str]] = frozenset({"int8", "card"})

    def write(self, source: Source) -> bytes:
        """As `Exporter.write`, in float32."""
        return export.to_bytes(source)

    def predict(self, content: bytes, images: np.ndarray) -> np.ndarray:
        """As `Exporter.predict`."""
        return open_bytes(content, RUN_FILE).predict(images)

    def export(
        self,
        run: Run,
        out: Path | None = None,
        int8: export.Int8 = "off",
        data: Dataset | Path | FoundData | None = None,
    ) -> Exported:
        """As `Exporter.export`."""
        return export.export(run, out, int8, data)
