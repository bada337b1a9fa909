"""Classifiers that timm builds from published folders, whose maker need not be trusted."""

import contextlib
import json
from pathlib import Path

import timm
from torch import nn

from ctxvision.checkpoints import read_state_dict
from ctxvision.checkpoints.finite import require_finite
from ctxvision.tasks import TaskError
from ctxvision.tasks.limits import Budget, require_moderate

from .error import InferenceError

_LOCAL, _HUB = "local-dir:", ("hf-hub:", "hf_hub:")
_WEIGHTS, _CONFIG = "model.safetensors", "config.json"  # as ctxvision.publish writes them


def is_published(source: str) -> bool:
    """Tell whether a text is the place of a published network, or a folder that holds one."""
    return source.startswith((_LOCAL, *_HUB)) or all(Path(source, name).is_file() for name in (_WEIGHTS, _CONFIG))


def open_published(model: str, *, trust: bool = False) -> nn.Module:
    """Let timm build what a published folder describes, once its weights and settings are seen to be harmless.

    Args:
        model: The path of a folder, or ``local-dir:`` or ``hf-hub:`` and a place.
        trust: Whether the settings may ask for more than a network usually does.

    Raises:
        InferenceError: The settings are not harmless, or timm cannot build the network.
        CheckpointError: The weights cannot be read, or are no numbers.
    """
    if not model.startswith((_LOCAL, *_HUB)):
        model = _LOCAL + model
    folder = Path(model.removeprefix(_LOCAL)) if model.startswith(_LOCAL) else None
    try:
        limits: contextlib.AbstractContextManager[object] = contextlib.nullcontext()
        if folder:
            weights = folder / _WEIGHTS
            if not weights.is_file():
                raise TaskError(f"it holds no {_WEIGHTS}, as `ctxvision publish` writes it")
            read_state_dict(weights)
            _check_settings(folder / _CONFIG, trust)
            if not trust:
                limits = Budget(weights.stat().st_size)
        with limits:
            network: nn.Module = timm.create_model(model, pretrained=True)
    except TaskError as error:
        raise InferenceError(f"{model}: {error}") from error
    except (RuntimeError, TypeError, ValueError, KeyError, AssertionError, AttributeError, OSError) as error:
        if type(error).__module__.startswith("ctxvision."):
            raise
        line = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InferenceError(f"{model}: timm cannot build it ({line})") from error
    require_finite(network.state_dict(), model)
    return network


def _check_settings(path: Path, trust: bool) -> None:
    """Check the images that a network asks for, and the arguments of its constructor.

    Raises:
        TaskError: The file is not JSON of the right kind, or a setting is beyond the limits.
    """
    try:
        config = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise TaskError(f"{path.name} is missing or not JSON") from error
    about = config.get("pretrained_cfg") if isinstance(config, dict) else None
    if not isinstance(about, dict) or not isinstance(config.get("architecture"), str):
        raise TaskError(f"{path.name} does not describe a network")
    described = {name: about[name] for name in ("input_size", "crop_pct", "interpolation") if name in about}
    arguments = {name: config.get(name) for name in ("model_args", "num_classes")}
    require_moderate("classification", {"class_names": [], **described}, arguments, trust=trust)
