"""The tasks that networks are trained for, and where each room of the library keeps what it knows of a task.

A new task is a module (or a folder) of its name in ``tasks``, ``training.options``, ``inference``, ``evaluation``
and ``explain``, a data module in ``data``, and one line here.
"""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .task import Task

COMMAND_WORDS = {
    "classification": "classify",
    "detection": "detect",
    "segmentation": "segment",
    "video": "video",
}
"""Every task, with the word that ``--task`` takes for it beside its name."""

TASKS = tuple(COMMAND_WORDS)


def task_named(word: str) -> str:
    """Return the name of a task.

    Args:
        word: The name itself or its command word, for example ``"detection"`` or ``"detect"``.

    Raises:
        ValueError: There is no such task.

    Examples:
        >>> task_named("detect")
        'detection'
    """
    for task, command_word in COMMAND_WORDS.items():
        if word in (task, command_word):
            return task
    words = ", ".join(COMMAND_WORDS.values())
    raise ValueError(f"there is no task {word!r}; there are {words} ({', '.join(TASKS)})")


def module_of(room: str, task: str) -> ModuleType:
    """Import what a room of the library knows of a task, for example ``ctxvision.evaluation.detection``.

    Args:
        room: The name of a package below ``ctxvision``, such as ``"evaluation"`` or ``"training.options"``.
        task: The name of the task, or its command word.

    Raises:
        ValueError: There is no such task.
    """
    return importlib.import_module(f"ctxvision.{room}.{task_named(task)}")


def task_class(task: str) -> "type[Task]":
    """Return the class of a task, which is called after it: ``DetectionTask`` for detection.

    Args:
        task: The name of the task, or its command word.

    Raises:
        ValueError: There is no such task.

    Examples:
        >>> task_class("detection").__name__
        'DetectionTask'
    """
    name = task_named(task)
    found: type[Task] = getattr(module_of("tasks", name), f"{name.capitalize()}Task")
    return found
