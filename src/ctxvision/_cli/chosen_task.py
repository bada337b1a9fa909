"""Which kind of task a command line is about; its other settings depend on that."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

from ctxvision.training.options import task_names

from .errors import UserError

Value = Callable[[list[str], str], str | None]


def chosen_task(words: list[str], value_of: Value) -> str:
    """Find the task: named by the words, by the config file, or by the recipe; else it is classification.

    Args:
        words: options of the command line, ``--config`` first.
        value_of: finds the value of an option.

    Raises:
        UserError: there is no such task.
    """
    # jsonargparse opens them again, after they were found to be harmless
    in_file: dict[str, Any] = {}
    for path in config_files(words):
        in_file |= _read(path)
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


def config_files(words: list[str]) -> list[str]:
    """Return the files that ``--config`` names, in their order."""
    named = [following for word, following in pairwise(words) if word == "--config"]
    return named + [word.removeprefix("--config=") for word in words if word.startswith("--config=")]


def _task_of(recipe: str) -> str | None:
    from ctxvision.recipes import RecipeError, load_recipe

    try:
        return load_recipe(recipe).task
    except RecipeError:  # is reported where the settings are put together
        return None


def _read(path: str) -> dict[str, Any]:
    from ctxvision.data.files import in_words
    from ctxvision.tasks.settings_file import SettingsFileError, read_settings_file

    try:
        return read_settings_file(path)
    except (OSError, SettingsFileError) as error:
        raise UserError(f"--config {path}: {in_words(error)}", 2) from error
