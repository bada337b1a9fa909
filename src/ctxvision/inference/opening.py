"""The one place where a model is opened, whatever holds it."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from ctxvision.checkpoints.sources import names_a_network
from ctxvision.data.error import DataError
from ctxvision.runs import checkpoint_of
from ctxvision.tasks import Task, load_task
from ctxvision.tasks.classification.pretrained import pretrained_task, spec_of
from ctxvision.tasks.registry import TASKS, module_of

from .classification import ClassificationPredictor
from .error import InferenceError
from .exported import SUFFIXES, Exported, ExportError, open_exported
from .predictor import Predictor
from .published import is_published, open_published

_CPU = torch.device("cpu")


def open_predictor(source: str | os.PathLike[str], device: str = "cpu", *, trust: bool = False) -> Predictor:
    """Open a trained network, which then answers about files and images in the same way for every task.

    Nothing in a file is run as code, and its settings and weights are checked, unless it is trusted.

    Args:
        source: The path of a run folder, whose best checkpoint is taken, of a ``.ckpt`` file, of an ``.onnx`` or
            ``.pt2`` file of ``ctxvision export``, or of a folder of ``ctxvision publish``; ``local-dir:`` or
            ``hf-hub:`` and the place of a published network; or the name of a network for which timm has
            pretrained weights.
        device: The device that computes, such as ``"cpu"``, ``"cuda:1"`` or ``"mps"``. Exported files run on the
            CPU.
        trust: Whether a ``.pt2`` file may run code of its own, an ``.onnx`` file may read other files, and
            settings may ask for more than a network usually does.

    Raises:
        InferenceError: There is no such device, or the network cannot compute there.
        CheckpointError: The checkpoint or the weights cannot be used, or nothing has this name.
        ExportError: The exported file cannot be used.

    Examples:
        ::

            predictor = open_predictor("runs/photos")
            found = {answer.path: answer.top for answer in predictor(["a.jpg", "photos"], top_k=3)}
    """
    text = os.fspath(source)
    path = Path(checkpoint_of(source))
    if path.suffix.lower() in SUFFIXES:
        if device != "cpu":
            raise InferenceError(f"exported networks run on the CPU here, not on {device!r}; leave out --device")
        return predictor_of(open_exported(path, trust=trust))
    where = _device(device)
    if is_published(text):
        network = open_published(text, trust=trust)
        return ClassificationPredictor(network, where, spec_of(network))
    if names_a_network(str(path)):
        return predictor_of(pretrained_task(text), device)
    return predictor_of(load_task(path, trust=trust), device)


def predictor_of(opened: Task | Exported, device: str | None = None) -> Predictor:
    """Return the predictor of a trained task or of an exported file that is open already.

    Args:
        opened: A task, which is put into evaluation mode, or an exported file.
        device: The device to which a task is moved; by default it stays where it is. Exported files run
            on the CPU.

    Raises:
        InferenceError: There is no such device.
        ExportError: The exported file lacks something that its task needs.
    """
    if isinstance(opened, Task):
        return _predictor(opened.kind)(opened, opened.device if device is None else _device(device))
    task = opened.metadata.task
    if task not in TASKS:
        raise ExportError(f"{opened.path}: its task is {task}, not {', '.join(TASKS)}")
    try:
        return _predictor(task)(opened, _CPU)
    except (DataError, KeyError, TypeError) as error:
        raise ExportError(f"{opened.path}: its metadata are incomplete ({error})") from error


def _predictor(task: str) -> Callable[[Task | Exported, torch.device], Predictor]:
    """Return the class that answers for a task; its module names it after the task."""
    found: Callable[[Task | Exported, torch.device], Predictor]
    found = getattr(module_of("inference", task), f"{task.capitalize()}Predictor")
    return found


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InferenceError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device
