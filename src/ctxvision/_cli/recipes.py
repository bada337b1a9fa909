"""``ctxvision recipes``: the settings that the papers' results were trained with."""

from argparse import ArgumentParser, Namespace
from typing import Any

from .messages import UserError, say_all, write_rows
from .options import add_shared

COLUMNS = {
    "recipe": "recipe",
    "task": "task",
    "model": "model",
    "epochs": "epochs",
    "batch_size": "batch",
    "lr": "lr",
    "expected": "expected (%)",
    "source": "source",
}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "name", metavar="NAME", nargs="?", help="name of a recipe to print, instead of listing all"
    )
    add_shared(parser, "format")


def run(args: Namespace) -> int:
    """List the recipes or print one; see `ctxvision recipes --help`."""
    from ctxvision.recipes import RecipeError, load_recipe, recipe_names

    if args.name:
        try:
            say_all(load_recipe(args.name).text)
        except RecipeError as error:
            raise UserError(str(error), 2) from error
        return 0
    rows = [row for name in recipe_names() for row in _rows(load_recipe(name))]
    if args.format != "json":
        for row in rows:
            row["expected"] = ", ".join(f"{name} {value}" for name, value in row["expected"].items()) or None
    say_all(write_rows(rows, COLUMNS, args.format))
    return 0


def _rows(recipe: Any) -> list[dict[str, Any]]:
    rows = []
    for model in recipe.models or [None]:
        settings = recipe.settings_for(model) if model else recipe.settings
        row = {name: settings.get(name) for name in ("epochs", "batch_size", "lr")}
        row |= {"expected": dict(recipe.expected.get(model, {})), "source": recipe.source}
        rows.append({"recipe": recipe.name, "task": recipe.task, "model": model or "any", **row})
    return rows
