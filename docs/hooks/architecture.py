"""Who imports whom, from the tables of tests/test_architecture.py; and every file with its first sentence."""

import ast
from pathlib import Path

from tables import code, plain, table

import tenfold

PACKAGE = Path(tenfold.__file__).parent
RULES = PACKAGE.parent / "tests" / "test_architecture.py"


def imports() -> str:
    """The packages and what each may import; then the order of files within each."""
    rules = _tables()
    packages = rules["PACKAGES"]
    rows = ((code(name), ", ".join(map(code, sorted(others))) or "no other") for name, others in packages.items())
    return table(("package", "may import"), rows)


def layout() -> str:
    """A table for each folder of the package: its files in the order of their imports."""
    orders = _tables()["ORDERS"]
    return "\n".join(_folder(folder, orders.get(_dotted(folder), ())) for folder in _folders())


def _tables() -> dict[str, dict[str, tuple[str, ...]]]:
    """The tables at the top of the test, read without running it."""
    found = {}
    for node in ast.parse(RULES.read_text()).body:
        target = node.target if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [None])[0]
        if isinstance(target, ast.Name) and isinstance(getattr(node, "value", None), ast.Dict):
            found[target.id] = ast.literal_eval(node.value)
    return found


def _folders() -> list[Path]:
    return [PACKAGE, *sorted(path.parent for path in PACKAGE.rglob("__init__.py") if path.parent != PACKAGE)]


def _dotted(folder: Path) -> str:
    return ".".join(folder.relative_to(PACKAGE).parts)


def _folder(folder: Path, order: tuple[str, ...]) -> str:
    names = {name: place for place, name in enumerate(order)}
    files = sorted(folder.glob("*.py"), key=lambda path: (names.get(path.stem, len(names)), path.stem))
    rows = [(code(path.name), _first_sentence(path)) for path in files if path.stem != "__init__"]
    text = _first_sentence(folder / "__init__.py") if folder != PACKAGE else ""
    title = "/".join(("tenfold", *folder.relative_to(PACKAGE).parts))
    return f"### `{title}/`\n\n{text}\n\n{table(('file', 'what it does'), rows)}"


def _first_sentence(path: Path) -> str:
    docstring = ast.get_docstring(ast.parse(path.read_text())) or ""
    return plain(" ".join(docstring.partition("\n\n")[0].split()))
