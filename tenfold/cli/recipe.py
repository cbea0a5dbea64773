"""tenfold recipe list, show."""

import json
import shutil
import sys
from typing import Annotated

import typer

from tenfold import extras
from tenfold.cli.app import HomeTyper, Json, app, print_json, print_table

_WIDE = 120  # columns of a terminal that has room for the table
recipe_app = HomeTyper(help="List recipes and show their fields.", no_args_is_help=True)
app.add_typer(recipe_app, name="recipe")


@recipe_app.command("list")
def recipe_list(as_json: Json = False) -> None:
    """List the built-in recipes."""
    extras.require("train", extras.RECIPE)
    from tenfold.training.recipes import RECIPES

    rows = [
        {
            "recipe": recipe.name,
            "network": recipe.network.name,
            "epochs": recipe.epochs,
            "batch_size": recipe.batch_size,
            "optimizer": recipe.optimizer,
        }
        for recipe in RECIPES.values()
    ]
    if as_json:
        print_json({"recipes": rows})
    else:
        print_table(tuple(rows[0]), [[str(value) for value in row.values()] for row in rows])


@recipe_app.command("show")
def recipe_show(
    name: Annotated[str, typer.Argument(help="Name of a recipe, or a JSON file.")], as_json: Json = False
) -> None:
    """Show every field of a recipe, its value and its meaning; a file's base is filled in."""
    extras.require("train", extras.RECIPE)
    from tenfold.training.recipe_fields import field_rows
    from tenfold.training.recipe_files import find_recipe

    recipe = find_recipe(name)
    if as_json:
        print_json(json.loads(recipe.to_json()))
    elif sys.stdout.isatty() and shutil.get_terminal_size().columns < _WIDE:
        for row in field_rows(recipe):
            print(f"{row.name}: {row.value}\n    {row.meaning}")
    else:
        print_table(("field", "value", "meaning"), field_rows(recipe))
