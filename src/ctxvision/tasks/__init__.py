"""Training tasks: LightningModules that own the network, the loss, the metrics and the optimiser."""

from .classification.task import ClassificationTask
from .error import TaskError
from .loading import load_task

__all__ = ["ClassificationTask", "TaskError", "load_task"]
