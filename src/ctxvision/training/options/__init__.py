"""The kinds of task that ``ctxvision train --task`` knows, each with its own settings."""

import importlib

from .base import TrainConfig

_CLASSES = {
    "classify": "ClassifyConfig",
    "detect": "DetectConfig",
    "segment": "SegmentConfig",
    "video": "VideoConfig",
}


def config_class(task: str) -> type[TrainConfig]:
    """Return the settings class of a kind of task; it knows how to open the data and to build the task.

    Raises:
        KeyError: there is no such kind.
    """
    module = importlib.import_module(f"{__name__}.{task}") if task in _CLASSES else None
    found: type[TrainConfig] = getattr(module, _CLASSES[task])
    return found


def task_names() -> list[str]:
    """List the kinds of task."""
    return list(_CLASSES)
