"""Classification: one class for every image, plainly or through a contextual network's class sets."""

from .task import ClassificationTask

__all__ = ["ClassificationTask"]
