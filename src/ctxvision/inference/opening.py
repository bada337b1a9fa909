"""The one place where a model is opened, whatever holds it: a checkpoint, an exported file, a network of timm."""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import timm
import torch
from torch import nn

from ctxvision.checkpoints import read_state_dict
from ctxvision.checkpoints.finite import require_finite
from ctxvision.checkpoints.sources import names_a_network
from ctxvision.data.error import DataError
from ctxvision.devices import resolved, why_unusable
from ctxvision.runs import checkpoint_of
from ctxvision.tasks import Task, TaskError, load_task
from ctxvision.tasks.classification.task import pretrained_task, spec_of
from ctxvision.tasks.limits import Budget, require_moderate
from ctxvision.tasks.registry import TASKS, module_of

from .answer import InferenceError
from .classification import ClassificationPredictor
from .exported import SUFFIXES, Exported, ExportError, open_exported
from .predictor import Predictor
from .preparing import Optimize, require_optimize

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


_CPU = torch.device("cpu")


def open_predictor(
    source: str | os.PathLike[str], device: str = "cpu", *, trust: bool = False, optimize: Optimize = "auto"
) -> Predictor:
    """Open a trained network, which then answers about files and images in the same way for every task.

    Nothing in a file is run as code, and its settings and weights are checked, unless it is trusted.

    Args:
        source: The path of a run folder, whose best checkpoint is taken, of a ``.ckpt`` file, of an ``.onnx`` or
            ``.pt2`` file of ``ctxvision export``, or of a folder of ``ctxvision publish``; ``local-dir:`` or
            ``hf-hub:`` and the place of a published network; or the name of a network for which timm has
            pretrained weights.
        device: The device that computes, such as ``"cpu"``, ``"cuda:1"`` or ``"mps"``; ``"auto"`` is CUDA where
            there is any. Exported files run on the CPU.
        trust: Whether a ``.pt2`` file may run code of its own, an ``.onnx`` file may read other files, and
            settings may ask for more than a network usually does.
        optimize: How a network is prepared, exported files excepted. ``"auto"`` lets a copy answer whose BatchNorm
            is folded into the layers before (see `ctxvision.nn.fuse`), as soon as so many samples are asked about
            that it pays: 64 images for a classifier, 8 images or videos for others. ``"fuse"`` does so from the
            first on, ``"compile"`` also lets `torch.compile` translate the network, which takes minutes at the
            first answer, and ``"none"`` leaves it as it is. Answers are the same within rounding. The attributes
            ``module`` and ``network`` are the network as it was trained; whoever changes its weights or hooks its
            layers to see what an answer is made of asks for ``"none"``.

    Raises:
        InferenceError: There is no such device, the network cannot compute there, or ``optimize`` is another word.
        CheckpointError: The checkpoint or the weights cannot be used, or nothing has this name.
        ExportError: The exported file cannot be used.

    Examples:
        ::

            predictor = open_predictor("runs/photos")
            found = {answer.path: answer.top for answer in predictor(["a.jpg", "photos"], top_k=3)}
    """
    optimize = require_optimize(optimize)
    text = os.fspath(source)
    path = Path(checkpoint_of(source))
    if path.suffix.lower() in SUFFIXES:
        if device not in ("cpu", "auto"):
            raise InferenceError(f"exported networks run on the CPU here, not on {device!r}; leave out --device")
        return predictor_of(open_exported(path, trust=trust))
    where = device_named(device)
    if is_published(text):
        network = open_published(text, trust=trust)
        return ClassificationPredictor(network, where, optimize, spec=spec_of(network))
    task = pretrained_task(text) if names_a_network(str(path)) else load_task(path, trust=trust)
    return predictor_of(task, device, optimize=optimize)


def predictor_of(opened: Task | Exported, device: str | None = None, *, optimize: Optimize = "none") -> Predictor:
    """Return the predictor of a trained task or of an exported file that is open already.

    Args:
        opened: A task, which is put into evaluation mode, or an exported file.
        device: The device to which a task is moved; by default it stays where it is. Exported files run
            on the CPU.
        optimize: How a task is prepared, see `open_predictor`; by default it answers as it is, so that it can be
            trained on.

    Raises:
        InferenceError: There is no such device, or ``optimize`` is another word.
        ExportError: The exported file lacks something that its task needs.
    """
    optimize = require_optimize(optimize)
    if isinstance(opened, Task):
        where = opened.device if device is None else device_named(device)
        return _predictor(opened.kind)(opened, where, optimize)
    task = opened.metadata.task
    if task not in TASKS:
        raise ExportError(f"{opened.path}: its task is {task}, not {', '.join(TASKS)}")
    try:
        return _predictor(task)(opened, _CPU)
    except (DataError, KeyError, TypeError) as error:
        raise ExportError(f"{opened.path}: its metadata are incomplete ({error})") from error


def _predictor(task: str) -> Callable[..., Predictor]:
    """Return the class that answers for a task; its module names it after the task."""
    found: Callable[..., Predictor]
    found = getattr(module_of("inference", task), f"{task.capitalize()}Predictor")
    return found


def device_named(name: str) -> torch.device:
    """Return the device of a name such as ``"cuda:1"`` or ``"auto"``.

    Raises:
        InferenceError: There is no such device.
    """
    try:
        device = torch.device(resolved(name))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = why_unusable(resolved(name)) or str(error).splitlines()[0]
        raise InferenceError(f"device {name!r} cannot be used: {reason}") from error
    return device
