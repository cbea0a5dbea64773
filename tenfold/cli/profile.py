"""tenfold profile."""

from typing import TYPE_CHECKING, Annotated

import typer

from tenfold import extras
from tenfold.cli.app import (
    SKIP_BAD,
    Data,
    DType,
    Epochs,
    Json,
    LabelColumns,
    Labels,
    Resize,
    Size,
    SkipBad,
    app,
    labelled,
    print_json,
    print_table,
)

if TYPE_CHECKING:
    from tenfold.training.profile import StepProfile


@app.command()
def profile(
    context: typer.Context,
    recipe: Annotated[str, typer.Option(help="Name of a recipe, or a JSON file.")] = "fast89",
    data: Data = "cifar10",
    dtype: DType = "auto",
    epochs: Epochs = None,
    size: Size = None,
    resize: Resize = "stretch",
    skip_bad: SkipBad = SKIP_BAD,
    labels: Labels = None,
    label_columns: LabelColumns = "",
    as_json: Json = False,
) -> None:
    """Measure the parts of a training step on this machine's CPU: convolutions, activations, optimizers."""
    extras.require("train", extras.TRAIN)
    from tenfold.training.fitting import choose_recipe, log_size, size_for

    data, label_file = labelled(context, "data", labels, label_columns)
    size = size_for(recipe, data, size)
    choose_recipe(recipe, epochs, None, size=size)  # a wrong recipe is reported before any data is read
    log_size(recipe, size)
    from tenfold.data import load
    from tenfold.training.profile import profile_step

    dataset = load(data, size=size, resize=resize, skip_bad=skip_bad, labels=label_file)
    fitted = choose_recipe(recipe, epochs, None, dataset if dataset.origin else None, size)
    profiled = profile_step(fitted, dataset.train, len(dataset.classes), dtype)
    if as_json:
        _print_json(fitted.name, profiled)
    else:
        _print_table(profiled)


def _print_json(recipe: str, profiled: "StepProfile") -> None:
    from dataclasses import asdict

    parts = [asdict(part) | {"gflop_per_second": part.rate} for part in profiled.parts]
    keys = ("batch_size", "dtype", "milliseconds", "gflop", "share_of_ceiling")
    whole = {key: getattr(profiled, key) for key in keys}
    print_json({"recipe": recipe, **whole, "ceiling_gflop_per_second": profiled.ceiling, "parts": parts})


def _print_table(profiled: "StepProfile") -> None:
    ceiling = profiled.ceiling
    rows = [
        (part.name, part.direction, f"{part.milliseconds:.1f}", *_rate_cells(part.rate, ceiling))
        for part in profiled.parts
    ]
    rows.append(("whole step", "", f"{profiled.milliseconds:.1f}", *_rate_cells(profiled.rate, ceiling)))
    print_table(("part", "direction", "ms", "GFLOP/s", "of the ceiling"), rows)
    print(f"{profiled.batch_size} images a step; ceiling: {ceiling:.0f} GFLOP/s in a {profiled.dtype} matrix product")


def _rate_cells(rate: float | None, ceiling: float) -> tuple[str, str]:
    return ("", "") if rate is None else (f"{rate:.0f}", f"{rate / ceiling:.0%}")
