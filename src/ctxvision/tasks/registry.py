"""The tasks that networks are trained for, and where each room of the library keeps what it knows of a task.

A new task is a module (or a folder) of its name in ``data``, ``tasks``, ``training.options``, ``inference``,
``evaluation`` and ``explain``, and one line here.
"""

import importlib
from types import ModuleType

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
        word: the name itself or its command word, for example ``"detection"`` or ``"detect"``.

    Raises:
        ValueError: there is no such task.

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
        room: name of a package below ``ctxvision``, such as ``"evaluation"`` or ``"training.options"``.
        task: one of `TASKS`.

    Raises:
        ValueError: there is no such task.
    """
    return importlib.import_module(f"ctxvision.{room}.{task_named(task)}")
