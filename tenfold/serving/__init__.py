"""A run → answers. Whatever runs a model here reports to nobody."""

import os

# As soon as it is imported, ONNX Runtime (of 2026, on Linux and macOS, too) writes an identifier of this machine to the
# user's cache and reports to its maker, unless this is set before. Who has set it keeps what they chose.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
