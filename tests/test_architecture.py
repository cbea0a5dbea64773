"""Who may import whom (docs of the rule: the table below). Imports are read from the source, not run."""

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import tenfold
from tests.support.waiting import LONG

PACKAGE = Path(tenfold.__file__).parent
OPEN_TO_ALL = {"errors", "extras", "files", "console", "machine", "notebook", "registry"}
TOP = {*OPEN_TO_ALL, "api", "cli", "__init__", "__main__"}  # what stands above the packages or is open to them

# One way through the packages: a package may import the packages and files named beside it, and no other.
PACKAGES: dict[str, set[str]] = {
    "data": set(),
    "training": {"data"},
    "evaluation": {"training", "data"},
    "serving": {
        "data.dataset",
        "data.formats",
        "data.ignored",
        "data.image",
        "data.resize",
        "data.shapes",
        "data.stored",
        "data.unknown",
        "training",
        "evaluation.detection",
        "evaluation.metrics",
    },
    # it starts the others as processes; these tell it data, fields, the machine's speed, answers
    "scaling": {
        "data",
        "training.aliases",
        "training.precision",
        "training.speed",
        "training.recipe",
        "training.recipes",
        "training.spec",
        "training.lock",
        "serving.inputs",
        "serving.predict",
        "serving.predictor",
        "serving.resumable",
    },
}

# Within a package, files import downwards only: a file may import those that stand before it.
ORDERS = {
    "data": (
        "formats",
        "resize",
        "stored",
        "dataset",
        "metadata",
        "jpeg",
        "tiff",
        "modes",
        "image",
        "frames",
        "decoders",
        "entry",
        "archives",
        "download",
        "sources",
        "cache",
        "cifar10",
        "ignored",
        "splits",
        "listing",
        "table",
        "label_file",
        "entries",
        "image_cache",
        "groups",
        "folder",
        "corrections",
        "check",
        "shapes",
        "unknown",
        "__init__",
    ),
    "training": (
        "lock",
        "signals",
        "aliases",
        "spec",
        "precision",
        "kernels",
        "convolution",
        "networks",
        "images",
        "augmentation",
        "augment",
        "recipe",
        "recipes",
        "recipe_files",
        "recipe_fields",
        "cpu",
        "speed",
        "device",
        "distributed",
        "model",
        "summary",
        "pruning",
        "imbalance",
        "fitting",
        "auto_recipe",
        "sampler",
        "loss",
        "optimizers",
        "schedule",
        "optim",
        "proxy",
        "infer",
        "features",
        "feature_cache",
        "distance",
        "logistic_head",
        "unlearned",
        "checkpoint",
        "weights",
        "manifest",
        "run",
        "unfinished",
        "runs",
        "target_error",
        "fingerprint",
        "split_file",
        "provenance",
        "reproduction",
        "holdout",
        "callbacks",
        "trainer",
        "estimate",
        "halves",
        "fine_tuning",
        "balancing",
        "trial",
        "trackers",
        "recorder",
        "environment",
        "train",
        "profile",
        "doctor",
    ),
    "training.augment": (
        "keys",
        "normalization",
        "gather",
        "flip",
        "translate",
        "affine",
        "cutout",
        "pipeline",
        "views",
        "__init__",
    ),
    "training.kernels": ("build", "activation", "__init__"),
    "training.networks": (
        "base",
        "module",
        "pretrained",
        "efficientnet_lite0",
        "reference",
        "whitened",
        "specs",
        "__init__",
    ),
    "evaluation": (
        "metrics",
        "significance",
        "detection",
        "calibration",
        "rejection",
        "outputs",
        "plots",
        "scores",
        "evaluate",
        "distance",
        "corrupt",
        "duplicates",
        "labels",
        "explain",
        "seed_variance",
        "findings",
        "audit",
        "page",
        "report",
        "compare",
    ),
    "evaluation.page": ("choice", "picture", "charts", "sections", "trust", "review", "render", "__init__"),
    "evaluation.plots": (
        "fonts",
        "style",
        "curves",
        "images",
        "classes",
        "reliability",
        "runs",
        "explanation",
        "search",
        "__init__",
    ),
    "serving": (
        "model_file",
        "runtime",
        "predictor",
        "inputs",
        "predict",
        "output_formats",
        "resumable",
        "serve",
        "graph",
        "synthetic",
        "source",
        "quantize",
        "export",
        "keras_file",
        "exporters",
        "card",
    ),
    "serving.exporters": ("base", "keras", "onnx", "__init__"),
    "serving.serve": (
        "limits",
        "decoders",
        "schema",
        "refusal",
        "watch",
        "batching",
        "encoding",
        "bodies",
        "inference",
        "guard",
        "linger",
        "connection",
        "app",
        "server",
    ),
    "scaling": ("summary", "bench", "space", "tune", "shards", "address", "cluster"),
}

# Files that start fast import less than their package may.
STRICTER = {
    "serving.model_file": {"data.resize"},
    "serving.runtime": set(),
    "serving.predictor": {"data.image", "serving.model_file", "serving.runtime"},
    "serving.inputs": {"data.formats", "data.ignored", "data.image"},
    "serving.predict": {"data.image", "serving.model_file", "serving.predictor", "serving.inputs"},
    "serving.output_formats": {"serving.predict"},
    "serving.resumable": {"serving.output_formats", "serving.predict", "serving.inputs"},
    "serving.serve": {"data.image", "serving.predictor", "serving.predict"},
}
HEAVY = {
    *("torch", "pandas", "matplotlib", "sklearn", "onnx", "safetensors", "pydantic", "scipy", "keras"),
    *("captum", "cleanlab", "optuna", "ray"),
}


def module_name(path: Path) -> str:
    """Dotted name below the package: `training.fit`, `data.__init__`, `cli`."""
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


def resolve(dotted: str) -> str:
    """The file that `tenfold.DOTTED` stands for: a module, or a package's own file."""
    parts = dotted.split(".")[1:]
    while parts:
        path = PACKAGE.joinpath(*parts)
        if path.with_suffix(".py").is_file():
            return ".".join(parts)
        if (path / "__init__.py").is_file():
            return ".".join([*parts, "__init__"])
        parts.pop()
    return "__init__"


def is_for_type_checkers(node: ast.AST) -> bool:
    """A block of `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """All of a tree but what is for type checkers only: that makes no file need another."""
    yield tree
    for child in ast.iter_child_nodes(tree):
        if not is_for_type_checkers(child):
            yield from nodes(child)


@functools.cache
def imports(tree: ast.AST) -> tuple[str, ...]:
    """Dotted names that a file imports, anywhere in it; for `from a import b` both a.b and, so, a."""
    found: list[str] = []
    for node in nodes(tree):
        if isinstance(node, ast.Import):
            found += (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            found += (f"{node.module}.{alias.name}" for alias in node.names)
    return tuple(found)


@functools.cache
def files() -> dict[str, ast.AST]:
    paths = [path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts]
    return {module_name(path): ast.parse(path.read_text()) for path in paths}


def targets(tree: ast.AST) -> set[str]:
    return {resolve(name) for name in imports(tree) if name.split(".")[0] == "tenfold"}


def package_of(module: str) -> str:
    """The package (or file above the packages) that a module belongs to."""
    return module.split(".")[0]


def place(module: str, other: str) -> tuple[str, str, str]:
    """The folder that holds both files, and the name below it that each stands for there."""
    parts, others = module.split("."), other.split(".")
    depth = next(i for i, pair in enumerate(zip(parts, others, strict=False)) if pair[0] != pair[1])
    return ".".join(parts[:depth]), parts[depth], others[depth]


def broken_rules(module: str, imported: set[str]) -> Iterator[str]:
    """Every rule that `module` breaks by importing these, as sentences."""
    package = package_of(module)
    fast = next((name for name in STRICTER if f"{module}.".startswith(f"{name}.")), None)
    for target in sorted(imported - OPEN_TO_ALL):
        if fast and target not in STRICTER[fast] and not target.startswith(f"{fast}."):
            yield f"{module} imports {target}: it starts fast, so it may import only {sorted(STRICTER[fast])}"
        elif package_of(target) == package:
            folder, own, imports_ = place(module, target)
            order = ORDERS[folder]
            unknown = [name for name in (own, imports_) if name not in order]
            if unknown:
                yield f"{folder}.{unknown[0]} has no place in the order of {folder}: give it one in this test"
            elif order.index(imports_) >= order.index(own):
                yield (
                    f"{module} imports {target}: within a package, files import downwards only, "
                    f"here {' ← '.join(order)}"
                )
        elif not {target, package_of(target)} & PACKAGES[package]:
            allowed = ", ".join(sorted(PACKAGES[package])) or "no other package"
            yield f"{module} imports {target}: data → training → evaluation → serving; {package} may import {allowed}"


def test_packages_import_one_way_only() -> None:
    in_packages = {module: tree for module, tree in files().items() if package_of(module) not in TOP}
    assert len(in_packages) > 15
    broken = [rule for module, tree in in_packages.items() for rule in broken_rules(module, targets(tree))]
    assert broken == [], "\n".join(broken)


@pytest.mark.parametrize("module", sorted(OPEN_TO_ALL))
def test_what_is_open_to_all_imports_no_package(module: str) -> None:
    assert targets(files()[module]) <= OPEN_TO_ALL, f"{module} is open to every package, so it may import none of them"


@pytest.mark.parametrize(
    "module", sorted(module for module in files() if package_of(module) in TOP - OPEN_TO_ALL - {"api"})
)
def test_the_top_imports_packages_inside_functions_only(module: str) -> None:
    tree = files()[module]
    assert isinstance(tree, ast.Module)
    at_start = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    found = {name for node in at_start for name in imports(node)}
    packages = {
        name for name in found if name.startswith("tenfold.") and package_of(resolve(name)) not in TOP - {"api"}
    }
    assert not packages, (
        f"{module} imports {packages} at its top: only inside a command, so that --help starts without them"
    )
    assert not {name.split(".")[0] for name in found} & HEAVY, f"{module} imports something heavy at its top"


def test_functions_have_at_most_45_lines_beside_their_docstring_and_files_350() -> None:
    functions = [
        (f"{module}.{node.name}", _length(node))
        for module, tree in files().items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    assert len(functions) > 1000 and [found for found in functions if found[1] > 45] == []
    paths = [path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts]
    assert [path.name for path in paths if len(path.read_text().splitlines()) > 350] == []


def _length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function from `def` on, without its docstring."""
    first, lines = node.body[0], (node.end_lineno or 0) - node.lineno + 1
    has_docstring = ast.get_docstring(node) is not None
    return lines - ((first.end_lineno or 0) - first.lineno + 1 if has_docstring else 0)


def test_one_file_knows_ray() -> None:
    knowing = [name for name, tree in files().items() if "ray" in {found.split(".")[0] for found in imports(tree)}]
    assert knowing == ["scaling.cluster"]


@pytest.mark.parametrize("module", ["data", *sorted(OPEN_TO_ALL), *STRICTER])
def test_what_must_start_fast_imports_nothing_heavy(module: str) -> None:
    for name, tree in files().items():
        if name == module or name.startswith(f"{module}."):
            heavy = {imported.split(".")[0] for imported in imports(tree)} & HEAVY
            assert not heavy, f"{name} imports {heavy}: prediction starts without them, and uses this file"


@pytest.mark.parametrize(
    ("module", "target", "said"),
    [
        ("data.cache", "training.fit", "data may import no other package"),
        ("training.fit", "evaluation.metrics", "training may import data"),
        ("training.recipe", "training.model", "downwards only"),
        ("evaluation.metrics", "serving.predict", "evaluation may import data, training"),
        ("serving.predict", "training.run", "starts fast"),
        ("serving.serve.app", "serving.export", "starts fast"),
        ("serving.serve.limits", "serving.serve.app", "downwards only"),
        ("serving.export", "evaluation.evaluate", "serving may import data.dataset, data.formats, data.ignored"),
        ("scaling.bench", "training.fit", "scaling may import data, serving.inputs"),
        ("training.surprise", "training.fit", "has no place in the order"),
        ("evaluation.plots.style", "evaluation.plots.curves", "downwards only"),
        ("evaluation.plots.style", "evaluation.report", "downwards only"),
    ],
)
def test_breaking_the_rule_is_said(module: str, target: str, said: str) -> None:
    (sentence,) = broken_rules(module, {target, "errors"})
    assert said in sentence


def test_downward_imports_are_no_breach() -> None:
    assert (
        list(broken_rules("evaluation.report", {"evaluation.metrics", "training.run", "data.dataset", "files"})) == []
    )


@pytest.mark.slow
def test_training_starts_without_the_compiler() -> None:
    """TorchDynamo and SymPy cost a second of a short run: PyTorch's optimizers, for one, import them at first use."""
    code = (
        "import sys, dataclasses, tenfold\n"
        "from tenfold.training.recipe import Stage\n"
        "from tenfold.training.recipes import FAST89, WhitenedSpec\n"
        "recipe = dataclasses.replace(FAST89, network=WhitenedSpec(widths=(8,)), stages=(Stage(0.1, 0.1, 0.0),))\n"
        "tenfold.Trainer(recipe, tenfold.load('shapes')).fit()\n"
        "print(*{'torch._dynamo', 'sympy', 'sklearn'} & set(sys.modules))"
    )
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=LONG)
    assert answer.stdout.split() == []


def test_every_test_that_the_list_of_faults_names_is_there() -> None:
    """Names were cut short, and led nowhere."""
    here = Path(__file__).parent
    named = set(re.findall(r"\b(test_\w+)`", (here.parent / "docs" / "faults.md").read_text()))
    texts = [path.read_text() for path in here.rglob("test_*.py")]
    written = {name for text in texts for name in re.findall(r"^def (test_\w+)", text, re.MULTILINE)}
    assert len(named) > 50 and not named - written


def test_tests_share_what_is_in_support_only() -> None:
    """A test that imports another, or what lies beside it, passes in some orders and from some folders only."""
    here = Path(__file__).parent
    paths = [path for path in here.rglob("*.py") if "runs" not in path.parts]
    own = {path.stem for path in paths}
    for path in paths:
        text = path.read_text()
        found = set(imports(ast.parse(text)))
        assert not {name.split(".")[0] for name in found} & own, f"{path.name} imports what lies beside it"
        tests = {name for name in found if name.split(".")[0] == "tests"}
        assert all(name.startswith("tests.support.") for name in tests), f"{path.name} imports {tests}"
