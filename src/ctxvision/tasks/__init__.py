"""Training tasks: LightningModules that own the network, the loss, the metrics and the optimiser."""

from typing import TYPE_CHECKING

from ctxvision._lazy import names_of

if TYPE_CHECKING:
    from .checkpoint_file import load_task
    from .classification import ClassificationTask
    from .detection import DetectionTask
    from .error import TaskError
    from .optimization import Optimization
    from .registry import TASKS, task_class
    from .segmentation import SegmentationTask
    from .task import Task
    from .video import VideoTask

__all__ = [
    "TASKS",
    "ClassificationTask",
    "DetectionTask",
    "Optimization",
    "SegmentationTask",
    "Task",
    "TaskError",
    "VideoTask",
    "load_task",
    "task_class",
]

__getattr__ = names_of(
    __name__,
    {
        ".checkpoint_file": ["load_task"],
        ".classification": ["ClassificationTask"],
        ".detection": ["DetectionTask"],
        ".error": ["TaskError"],
        ".optimization": ["Optimization"],
        ".registry": ["TASKS", "task_class"],
        ".segmentation": ["SegmentationTask"],
        ".task": ["Task"],
        ".video": ["VideoTask"],
    },
)
