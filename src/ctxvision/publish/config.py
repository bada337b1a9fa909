"""``config.json``: what timm needs to rebuild a network and to prepare its images."""

import json
from collections.abc import Callable, Mapping
from typing import Any, cast

from torch import nn

from ctxvision.models import ContextualNet
from ctxvision.tasks import ClassificationTask

from .error import PublishError

_KEPT = ("first_conv", "fixed_input_size", "origin_url", "paper_name", "paper_ids")


def hub_config(task: ClassificationTask, license: str | None = None) -> dict[str, Any]:
    """Describe a trained classifier as timm does (``architecture``, ``model_args``, ``pretrained_cfg``).

    Args:
        task: Task of a trained network, from `ctxvision.tasks.load_task`.
        license: Identifier of the license of its weights.

    Raises:
        PublishError: An argument of the network's constructor cannot be written as JSON.
    """
    spec, model = task.spec, task.model
    own = cast(Mapping[str, Any], model.pretrained_cfg)
    classes, size = list(spec.class_names), list(spec.input_size)
    settings = {
        "input_size": size,
        "interpolation": spec.interpolation,
        "crop_pct": spec.crop_pct,
        "crop_mode": "center",
        "mean": list(spec.mean),
        "std": list(spec.std),
        "num_classes": len(classes),
        "classifier": _classifier(model, own.get("classifier")),
        "license": license,
        **{name: own.get(name) for name in _KEPT},
    }
    config = {
        "architecture": own["architecture"],
        "num_classes": len(classes),
        "num_features": model.num_features,
        "label_names": classes,
        "model_args": {**task.model_args, **_class_funnel(model), "in_chans": size[0]},
        "pretrained_cfg": {name: value for name, value in settings.items() if value is not None},
    }
    try:
        json.dumps(config, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise PublishError(f"{own['architecture']}: its arguments cannot be written as JSON ({error})") from error
    return config


def _class_funnel(model: nn.Module) -> dict[str, Any]:
    """Return the number of classes that features depend on.

    The number of classes that a head scores is none of the arguments: timm finds it in ``pretrained_cfg``, and
    transformers passes it itself, as 0 to build the network without its head.
    """
    funnel = model.context if isinstance(model, ContextualNet) else None
    return {} if funnel is None else {"context_classes": funnel.num_classes}


def _classifier(model: nn.Module, usual: Any) -> Any:
    """Name the layer that timm replaces for another number of classes."""
    layer = cast(Callable[[], nn.Module], model.get_classifier)()
    return next((name for name, module in model.named_modules() if module is layer), usual)
