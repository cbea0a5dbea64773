"""Export formats, one a file: write, read back, verify. `register_exporter` adds others."""

from tenfold.serving.exporters import keras, onnx  # noqa: F401  (they register themselves)
from tenfold.serving.exporters.base import EXPORTERS, Exporter, register_exporter

__all__ = ["EXPORTERS", "Exporter", "register_exporter"]
