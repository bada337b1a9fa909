"""Which kind of task a command line is about; its other settings depend on that."""

from collections.abc import Callable
from typing import Any

import yaml

from ..errors import UserError
from .kinds import task_names

Value = Callable[[list[str], str], str | None]


def chosen_task(words: list[str], value_of: Value) -> str:
    """Find the task: named by the words, by the config file, or by the recipe; else it is classification.

    Args:
        words: options of the command line, ``--config`` first.
        value_of: finds the value of an option.

    Raises:
        UserError: there is no such task.
    """
    path = value_of(words, "--config")
    in_file = _read(path) if path else {}
    recipe = value_of(words, "--recipe") or in_file.get("recipe")
    task = value_of(words, "--task") or in_file.get("task") or (recipe and _task_of(str(recipe))) or "classify"
    if task not in task_names():
        raise UserError(f"--task {task}: there is no such task; there are {', '.join(task_names())}", 2)
    return str(task)


def require_task_of_recipe(recipe: Any, task: str) -> None:
    """Refuse a recipe of another kind of task.

    Raises:
        UserError: it is.
    """
    if recipe.task != task:
        raise UserError(f"recipe {recipe.name} is for --task {recipe.task}, not {task}", 2)


def _task_of(recipe: str) -> str | None:
    from ctxvision.recipes import RecipeError, load_recipe

    try:
        return load_recipe(recipe).task
    except RecipeError:  # is reported where the settings are put together
        return None


def _read(path: str) -> dict[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            content = yaml.safe_load(file)
    except (OSError, ValueError, yaml.YAMLError):  # is reported by the parser
        return {}
    return content if isinstance(content, dict) else {}
