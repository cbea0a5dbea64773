"""tenfold bench, tenfold tune."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from tenfold import extras
from tenfold.cli.app import (
    RUNS,
    SKIP_BAD,
    Cluster,
    Data,
    Device,
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
)
from tenfold.console import log_info
from tenfold.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import optuna

    from tenfold.data import Dataset
    from tenfold.scaling.bench import Setting as BenchSetting
    from tenfold.scaling.cluster import Request
    from tenfold.scaling.summary import EvalSplit, Outcome
    from tenfold.scaling.tune import Setting
    from tenfold.training.recipe import Recipe

Cpus = Annotated[
    int | None,
    typer.Option(min=1, help="With --cluster: CPUs and threads of each run; by default, those here."),
]
Recipes = Annotated[
    list[str] | None, typer.Option(help="Name or JSON file of a recipe, by default fast89; repeat it for several.")
]
Runs = Annotated[int, typer.Option(min=1, help="Runs of each recipe.")]
FirstSeed = Annotated[int, typer.Option(min=0, help="Seed of the first run; the others follow.")]
BenchFolder = Annotated[
    Path | None, typer.Option(help="Folder of the runs, by default runs/bench-RECIPES; runs in it are kept.")
]
ScoredOn = Annotated[int | None, typer.Option(help="Hold out the last N training images, and give accuracies of them.")]


@app.command()
def bench(
    context: typer.Context,
    recipe: Recipes = None,
    runs: Runs = 5,
    first_seed: FirstSeed = 0,
    out: BenchFolder = None,
    data: Data = "cifar10",
    device: Device = "auto",
    dtype: DType = "auto",
    epochs: Epochs = None,
    val_size: ScoredOn = None,
    size: Size = None,
    resize: Resize = "stretch",
    skip_bad: SkipBad = SKIP_BAD,
    labels: Labels = None,
    label_columns: LabelColumns = "",
    cluster: Cluster = None,
    cpus: Cpus = None,
    as_json: Json = False,
) -> None:
    """Train recipes with several seeds, alternately: means, standard deviations, intervals, significance tests.

    Accuracies are on the test images; with --val-size, on the validation images.
    """
    extras.require("train", extras.TRAIN)
    _require_cluster(cluster, cpus, labels)
    from tenfold.data import load
    from tenfold.training.fitting import size_for

    data, label_file = labelled(context, "data", labels, label_columns)
    sizes = {size_for(name, data, size) for name in recipe or ["fast89"]}
    if len(sizes) > 1:
        raise UsageError("these recipes read a folder's images at different sizes: choose one for all with --size")
    recipes = _find_recipes(recipe or ["fast89"], epochs, val_size, size := sizes.pop())
    # so that no run's time holds a download, nor a folder's decoding
    dataset = load(data, size=size, resize=resize, skip_bad=skip_bad, labels=label_file)
    data, seeds = _found_again(data, dataset), range(first_seed, first_seed + runs)
    setting = _setting(data, dataset, device, dtype, epochs, val_size)
    path = out or RUNS / f"bench-{'-'.join(recipes)}"
    if cluster:
        from tenfold.scaling.cluster import bench as bench_there

        read = (data, size, resize, skip_bad)
        outcomes = bench_there(recipes, seeds, path, setting, read, cluster, _request(cpus, device))
    else:
        from tenfold.scaling.bench import bench as bench_here

        outcomes = bench_here(recipes, seeds, path, setting)
    _print_outcomes(outcomes, setting.measured_on, path, as_json)


def _setting(
    data: str, dataset: "Dataset", device: str, dtype: str, epochs: float | None, val_size: int | None
) -> "BenchSetting":
    """What every run of a bench is started with. Who asks for validation images is choosing, and spares test images."""
    from tenfold.scaling.bench import Setting

    options = ["--data", data, "--device", device, *(dataset.origin.options(str) if dataset.origin else [])]
    options += [] if dtype == "auto" else ["--dtype", dtype]
    options += [] if epochs is None else ["--epochs", str(epochs)]
    options += [] if val_size is None else ["--val-size", str(val_size)]
    return Setting(tuple(options), "validation" if val_size else "test", _content(dataset))


def _found_again(data: str, dataset: "Dataset") -> str:
    """What the data are called in other folders and on other machines, too."""
    return dataset.origin.path if dataset.origin else data


def _content(dataset: "Dataset") -> str | None:
    """By which a folder is known to have changed."""
    return dataset.origin.sha256 if dataset.origin else None


def _find_recipes(names: "Sequence[str]", epochs: float | None, val_size: int | None, size: int) -> dict[str, "Recipe"]:
    """Recipes by their own names, which their runs have too; what a file is called does not matter."""
    from tenfold.training.fitting import choose_recipe, log_size
    from tenfold.training.recipe_files import find_recipe

    recipes: dict[str, Recipe] = {}
    for name in names:
        choose_recipe(name, epochs, val_size, size=size)  # what is wrong with one is said before any of them is trained
        log_size(name, size)
        recipe = find_recipe(name)
        if recipe.name in recipes:
            raise UsageError(f'two recipes are named {recipe.name}: change "name" in the file of one ({name})')
        recipes[recipe.name] = recipe
    return recipes


def _print_outcomes(
    outcomes: "Mapping[str, Sequence[Outcome]]", measured_on: "EvalSplit", path: Path, as_json: bool
) -> None:
    """Draw and print what the runs show."""
    from tenfold.evaluation import plots
    from tenfold.scaling.summary import Diverged, compare, describe, summarize

    lost = {name for name, runs in outcomes.items() if all(isinstance(run, Diverged) for run in runs)}
    kept = {name: runs for name, runs in outcomes.items() if name not in lost} or outcomes  # of nothing, it is an error
    rows = [summarize(name, runs, measured_on) for name, runs in kept.items()]
    comparison = [compare(rows[0], row, len(rows) - 1) for row in rows[1:]]
    plots.save(plots.accuracy_and_time(rows), path / "bench.png")
    for name in sorted(lost):
        log_info(f"{name} diverged with every seed and is left out")
    if as_json:
        print_json({"results": rows, "comparison": comparison, "path": str(path)})
    else:
        sentences = [describe(row) for row in rows] + [compared["verdict"] for compared in comparison]
        print(*sentences, path / "bench.png", sep="\n")


def _require_cluster(cluster: str | None, cpus: int | None, labels: Path | None) -> None:
    if cluster:
        extras.require("cluster", extras.CLUSTER)
        if labels:
            raise UsageError("--cluster does not send label files to its nodes: leave --labels or --cluster out")
    elif cpus:
        raise UsageError("--cpus goes with --cluster")


def _request(cpus: int | None, device: str) -> "Request":
    """What each run asks of a cluster's node."""
    from tenfold.scaling.cluster import Request
    from tenfold.training.device import select_device

    return Request(cpus or select_device("cpu").threads, int(device.startswith("cuda")))


FirstRecipe = Annotated[str, typer.Argument(help="Name of the recipe to begin with, or a JSON file.")]
Trials = Annotated[int, typer.Option(min=1, help="Trials in all; those found in --out count.")]
SearchSeed = Annotated[int, typer.Option(min=0, help="What trials and their training are drawn from.")]
SearchFolder = Annotated[
    Path | None, typer.Option(help="Folder of the search, by default runs/tune-RECIPE; a search in it resumes.")
]
Space = Annotated[
    Path | None, typer.Option(help="JSON file of fields and their ranges; by default one for the fast recipes.")
]
TrialImages = Annotated[
    int | None, typer.Option(min=1, help="Hold out the last N training images, by default a tenth of them.")
]


@app.command()
def tune(
    context: typer.Context,
    recipe: FirstRecipe,
    trials: Trials,
    seed: SearchSeed = 0,
    out: SearchFolder = None,
    space: Space = None,
    data: Data = "cifar10",
    device: Device = "auto",
    cluster: Cluster = None,
    cpus: Cpus = None,
    val_size: TrialImages = None,
    size: Size = None,
    resize: Resize = "stretch",
    skip_bad: SkipBad = SKIP_BAD,
    labels: Labels = None,
    label_columns: LabelColumns = "",
    as_json: Json = False,
) -> None:
    """Search for better values of a recipe's fields, on validation images only; the best recipe comes as a file."""
    extras.require("train", extras.TRAIN)
    extras.require("tune", extras.TUNE)
    _require_cluster(cluster, cpus, labels)
    from tenfold.training.fitting import always_fine_tuned, choose_recipe, log_size, size_for

    data, label_file = labelled(context, "data", labels, label_columns)
    size = size_for(recipe, data, size)
    chosen = choose_recipe(always_fine_tuned(recipe), None, None, size=size)  # a trial has stages to report on
    log_size(recipe, size)
    space = _choose_space(space, chosen)
    from tenfold.data import load
    from tenfold.scaling import tune as tuning
    from tenfold.scaling.space import find_space, read_space
    from tenfold.training.device import select_device

    if not cluster:  # whose nodes may have other devices
        select_device(device)
    dataset = load(data, size=size, resize=resize, seed=seed, skip_bad=skip_bad, labels=label_file)
    chosen, val_images = _hold_out(chosen, dataset, val_size)
    where = (_found_again(data, dataset), size, resize, device)
    path = out or RUNS / f"tune-{chosen.name}"
    fields = find_space(read_space(space, chosen), chosen, path / tuning.SETTINGS)
    named = (dataset.origin.labels, label_columns) if dataset.origin else ("", "")
    setting = tuning.Setting(chosen, fields, val_images, *where, seed, _content(dataset), skip_bad, *named)
    found = tuning.summarize(_search(setting, trials, path, cluster, cpus), setting)
    _print_search(found, path, _bench_command([str(path / tuning.BEST), recipe], setting, dataset), as_json)


def _search(setting: "Setting", trials: int, path: Path, cluster: str | None, cpus: int | None) -> "optuna.Study":
    if cluster:
        from tenfold.scaling import cluster as clustering

        return clustering.tune(setting, trials, path, cluster, _request(cpus, setting.device))
    from tenfold.scaling import tune as tuning

    return tuning.tune(setting, trials, path)


def _choose_space(space: Path | None, recipe: "Recipe") -> Path:
    """The file asked for, or the bundled one. Raises `UsageError` where it does not fit the recipe."""
    from tenfold.scaling.space import DEFAULT_SPACE, read_space

    if space is None and recipe.optimizer != "muon":
        raise UsageError(f"the bundled space is for the fast recipes: give --space FILE for {recipe.name}")
    read_space(space or DEFAULT_SPACE, recipe)  # what is wrong with it is said before anything is loaded
    return space or DEFAULT_SPACE


def _print_search(row: dict[str, Any], path: Path, to_compare: str, as_json: bool) -> None:
    """Draw and print what the trials show, and the command that compares the best with the first."""
    from tenfold.evaluation import plots
    from tenfold.scaling.tune import BEST, PLOT, describe

    plots.save(plots.search(row), path / PLOT)
    if as_json:
        print_json(row | {"path": str(path / BEST)})
    else:
        print(describe(row), path / PLOT, path / BEST, f"to compare them: {to_compare}", sep="\n")


def _bench_command(recipes: "Sequence[str]", setting: "Setting", dataset: "Dataset") -> str:
    """How recipes are compared on a search's data, with seeds that the search did not see."""
    held_out = [] if dataset.val_size else ["--val-size", str(setting.val_images)]
    same = ["--data", setting.data, "--device", setting.device]
    same += dataset.origin.options(str) if dataset.origin else []
    named = [word for recipe in recipes for word in ("--recipe", recipe)]
    return shlex.join(["tenfold", "bench", *named, "--first-seed", str(setting.seed + 1), *held_out, *same])


def _hold_out(recipe: "Recipe", dataset: "Dataset", val_size: int | None) -> tuple["Recipe", int]:
    """The recipe fitted to the data, and how many of its images to score trials on."""
    from tenfold.training.imbalance import fit_recipe

    if dataset.val_size and val_size is not None:
        raise UsageError(f"{dataset.name} has validation images of its own: leave --val-size out")
    images = len(dataset.train)
    held_out = dataset.val_size or val_size or images // 10
    if not 0 < held_out < images:
        raise UsageError(f"--val-size {held_out} leaves nothing of {images:,} training images")
    if dataset.origin:
        recipe = fit_recipe(recipe, dataset.train, dataset.val_size)
    return recipe, held_out
