"""The options of a training run: those of all tasks in `base`, and a module for each task."""

from ctxvision.tasks.registry import COMMAND_WORDS, module_of

from .base import TrainConfig

_CLASSES = {
    "classification": "ClassifyConfig",
    "detection": "DetectConfig",
    "segmentation": "SegmentConfig",
    "video": "VideoConfig",
}


def config_class(task: str) -> type[TrainConfig]:
    """Return the settings class of a task; it knows how to open the data and to build the task.

    Args:
        task: its name or its command word.

    Raises:
        ValueError: there is no such task.
    """
    module = module_of("training.options", task)
    found: type[TrainConfig] = getattr(module, _CLASSES[module.__name__.rpartition(".")[2]])
    return found


def task_names() -> list[str]:
    """List the command words of the tasks."""
    return list(COMMAND_WORDS.values())
