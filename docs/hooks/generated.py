"""MkDocs hook: a line `<!-- generated: NAME -->` in a page becomes what the code says today.

Nothing of it is kept in the repository, so it cannot go stale.
"""

import re
from collections.abc import Callable
from typing import Any

import architecture
import commands
import datasets
import python_api
import recipe_fields

PARTS: dict[str, Callable[[], str]] = {
    "commands": commands.reference,
    "variables": commands.variables,
    "exit-codes": commands.exit_codes,
    "recipe-fields": recipe_fields.reference,
    "recipes": recipe_fields.recipes,
    "public-api": python_api.reference,
    "results": python_api.results,
    "datasets": datasets.reference,
    "imports": architecture.imports,
    "layout": architecture.layout,
}
MARK = re.compile(r"^<!-- generated: ([\w-]+) -->$", re.MULTILINE)


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Fill in the marked places of a page. An unknown name ends the build with a KeyError."""
    return MARK.sub(lambda found: PARTS[found[1]](), markdown)
