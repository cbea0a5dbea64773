"""tenfold bench, tenfold runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold.cli.app import (
    RUNS,
    TRAIN_EXTRA,
    Data,
    Device,
    Epochs,
    Json,
    Resize,
    Size,
    ValSize,
    app,
    choose_recipe,
    print_json,
    print_table,
    require_extra,
)
from tenfold.errors import UsageError

if TYPE_CHECKING:
    from tenfold.data import Dataset
    from tenfold.training.recipe import Recipe


@app.command()
def bench(
    recipe: Annotated[str, typer.Option(help="Names or JSON files of recipes, with commas between.")] = "fast89",
    runs: Annotated[int, typer.Option(min=1, help="Runs of each recipe.")] = 5,
    seed0: Annotated[int, typer.Option(min=0, help="Seed of the first run; the others follow.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the runs, by default runs/bench-RECIPES; runs in it are kept.")
    ] = None,
    data: Data = "cifar10",
    device: Device = "auto",
    epochs: Epochs = None,
    val_size: ValSize = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Train nothing: say where the time of a recipe's step goes.")
    ] = False,
    size: Size = 32,
    resize: Resize = "squash",
    as_json: Json = False,
) -> None:
    """Train recipes many times, alternately, and say what can be said: means, spreads, intervals, differences."""
    require_extra("train", TRAIN_EXTRA)
    from tenfold.data import load

    if profile:
        if device not in ("auto", "cpu"):
            raise UsageError("--profile looks at the CPU only")
        _profile(choose_recipe(recipe, epochs, val_size), load(data, size=size, resize=resize), as_json)
        return
    from tenfold.evaluation import plots
    from tenfold.scaling import bench as benching

    names = recipe.split(",")
    for name in names:
        choose_recipe(name, epochs, val_size)  # what is wrong with one is said before any of them is trained
    stems = [benching.stem(name) for name in names]
    if len(set(stems)) < len(stems):
        raise UsageError(f"recipes must have different names: {', '.join(stems)}")
    dataset = load(data, size=size, resize=resize)  # so that no run's time holds a download, nor a folder's decoding
    options = ["--data", data, "--device", device]
    options += ["--size", str(size), "--resize", resize] if dataset.origin else []
    options += [] if epochs is None else ["--epochs", str(epochs)]
    options += [] if val_size is None else ["--val-size", str(val_size)]
    path = out or RUNS / f"bench-{'-'.join(stems)}"
    timed = benching.bench(names, range(seed0, seed0 + runs), path, options)
    rows = [benching.summarize(stem, timed[name]) for stem, name in zip(stems, names, strict=True)]
    comparison = [
        benching.compare(stems[0], stem, rows[0]["accuracies"], row["accuracies"])
        for stem, row in zip(stems[1:], rows[1:], strict=True)
    ]
    plots.save(plots.accuracy_and_time(rows), path / "bench.png")
    if as_json:
        print_json({"results": rows, "comparison": comparison, "path": str(path)})
    else:
        sentences = [benching.describe(row) for row in rows] + [compared["verdict"] for compared in comparison]
        print(*sentences, path / "bench.png", sep="\n")


def _profile(recipe: "Recipe", dataset: "Dataset", as_json: bool) -> None:
    from dataclasses import asdict

    from tenfold.training.profile import profile_step

    profiled = profile_step(recipe, dataset.train, len(dataset.classes))
    ceiling = profiled.ceiling
    if as_json:
        parts = [asdict(part) | {"gflop_per_second": part.rate} for part in profiled.parts]
        whole = {key: getattr(profiled, key) for key in ("batch_size", "milliseconds", "gflop", "share_of_ceiling")}
        print_json({"recipe": recipe.name, **whole, "ceiling_gflop_per_second": ceiling, "parts": parts})
        return
    rows = [
        (part.name, part.direction, f"{part.milliseconds:.1f}", *_rate_cells(part.rate, ceiling))
        for part in profiled.parts
    ]
    rows.append(("whole step", "", f"{profiled.milliseconds:.1f}", *_rate_cells(profiled.rate, ceiling)))
    print_table(("part", "direction", "ms", "GFLOP/s", "of the ceiling"), rows)
    print(f"{profiled.batch_size} images a step; ceiling: {ceiling:.0f} GFLOP/s in a bfloat16 matrix product")


def _rate_cells(rate: float | None, ceiling: float) -> tuple[str, str]:
    return ("", "") if rate is None else (f"{rate:.0f}", f"{rate / ceiling:.0%}")


@app.command("runs")
def list_runs(
    pair: Annotated[list[Path] | None, typer.Argument(metavar="[RUN RUN]", help="Two runs to compare.")] = None,
    folder: Annotated[Path, typer.Option(help="Where the runs are.")] = RUNS,
    sort: Annotated[str, typer.Option(help="date, accuracy, seconds or name.")] = "date",
    as_json: Json = False,
) -> None:
    """List the runs of a folder, or show field by field how two runs differ."""
    from dataclasses import asdict

    from tenfold.training import runs

    if pair and len(pair) != 2:
        raise UsageError("two runs can be compared: name none to list all, or two")
    if pair:
        differences = runs.compare_runs(*pair)
        if as_json:
            print_json({"a": str(pair[0]), "b": str(pair[1]), "differences": differences})
        else:
            rows = [(name, _cell(a), _cell(b)) for name, (a, b) in differences.items()]
            print_table(("field", str(pair[0]), str(pair[1])), rows)
        return
    found = runs.list_runs(folder, sort)
    if as_json:
        print_json({"runs": [asdict(row) for row in found]})
        return
    cells = [
        (
            row.run,
            row.recipe,
            row.data,
            _cell(row.seed),
            _percent(row.accuracy),
            _cell(row.seconds),
            row.date,
            row.state,
        )
        for row in found
    ]
    print_table(("run", "recipe", "data", "seed", "accuracy", "seconds", "date", "state"), cells)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.2%}"


def _cell(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
