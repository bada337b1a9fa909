"""Optimum: its exporters treat our networks as the networks of timm that they are.

They tell that by the module of a network's class, which has to be in timm itself.
"""

from typing import Any

from optimum.exporters.tasks import TasksManager

from ctxvision.models import ContextualNet, CoTNet, RedNet

_infer = TasksManager._infer_library_from_model_or_model_class


def _library_of(model: Any = None, model_class: type | None = None) -> str:
    if issubclass(model_class or type(model), (CoTNet, RedNet, ContextualNet)):
        return "timm"
    library: str = _infer(model=model, model_class=model_class)
    return library


TasksManager._infer_library_from_model_or_model_class = staticmethod(_library_of)
