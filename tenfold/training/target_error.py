"""The share of wrong answers that a run's rejection threshold is to keep: its bounds, and what was asked for."""

from numbers import Real

from tenfold.errors import UsageError
from tenfold.training.aliases import target_error_in
from tenfold.training.run import Run

TARGET_ERROR = 0.01
"""The share of wrong answers that a threshold is to keep, unless the user says otherwise."""
LEAST_TARGET_ERROR, MOST_TARGET_ERROR = 0.001, 0.5


def check_target_error(value: float | None) -> float | None:
    """The share of wrong answers that a threshold is to keep, or None. Raises `UsageError` outside of 0.001 to 0.5."""
    if value is None:
        return None
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    if not (is_number and LEAST_TARGET_ERROR <= value <= MOST_TARGET_ERROR):  # nan is not, either
        bounds = f"from {LEAST_TARGET_ERROR} to {MOST_TARGET_ERROR} (0.01 is 1 %)"
        raise UsageError(f"target_error must be a number {bounds}, not {value!r}")
    return float(value)


def target_error_of(run: Run) -> float:
    """The value given last, when the run was scored or when its training was started; else 1 %."""
    calibration = run.read_json("results.json").get("calibration") if run.scored else None
    asked = target_error_in(calibration or {}) or run.env.get("target_error")
    return float(asked or TARGET_ERROR)
