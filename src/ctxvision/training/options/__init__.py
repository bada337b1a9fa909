"""The options of a training run: those of all tasks in `base`, and a module for each task."""

from ctxvision.tasks.registry import module_of, task_named

from .base import TrainOptions


def options_class(task: str) -> type[TrainOptions]:
    """Return the options class of a task, such as `ctxvision.training.DetectionOptions`.

    Args:
        task: Name of the task, for example ``"detection"``, or the word of the command line for it, ``"detect"``.

    Raises:
        ValueError: There is no such task.

    Examples:
        >>> options_class("detect").__name__
        'DetectionOptions'
    """
    module = module_of("training.options", task)
    found: type[TrainOptions] = getattr(module, f"{task_named(task).capitalize()}Options")
    return found
