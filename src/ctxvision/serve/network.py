"""A classifier that is served: from a checkpoint, a run folder or an exported file."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ctxvision.data import DataSpec
from ctxvision.explain import contextual_layers
from ctxvision.export import open_exported
from ctxvision.export.exported import SUFFIXES
from ctxvision.tasks import ClassificationTask, load_task
from ctxvision.tasks.classification.class_sets import is_contextual

from .error import ServeError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True)
class Network:
    """A trained classifier.

    Attributes:
        name: what clients call it.
        model: its registered name.
        spec: its classes and images.
        compute: logits (B, N) of images (B, C, H, W).
        task: where there is a checkpoint; exported files have none, and are not explained.
    """

    name: str
    model: str
    spec: DataSpec
    compute: Callable[[Tensor], Tensor]
    task: ClassificationTask | None = None

    @torch.no_grad()
    def probabilities(self, images: Sequence[Tensor]) -> list[Tensor]:
        """Classify images (C, H, W): probabilities (N,) each, on the CPU; NaN where the network is broken."""
        return list(self.compute(torch.stack(list(images))).float().softmax(1).cpu())

    def describe(self) -> dict[str, Any]:
        """Return what clients may know."""
        return {
            "name": self.name,
            "model": self.model,
            "class_names": list(self.spec.class_names),
            "input_size": list(self.spec.input_size),
            "explains": self.task is not None,
            "contextual": self.task is not None and is_contextual(self.task.model),
            "offsets": self.task is not None and bool(contextual_layers(self.task.model)),
        }


def open_networks(words: Sequence[str], device: str = "cpu", *, trust: bool = False) -> list[Network]:
    """Open what a command line names: ``PATH``, or ``NAME=PATH``.

    Args:
        words: .ckpt files, run folders, .onnx and .pt2 files.
        device: on which checkpoints compute; exported files need the CPU.
        trust: see `load_task` and `open_exported`.

    Raises:
        ServeError: a name comes twice, no such device, not a classifier, or its output is no number.
        CheckpointError: see `ctxvision.tasks.load_task`; other errors of opening likewise.
    """
    networks: list[Network] = []
    for word in words:
        name, named, path = word.partition("=")
        if not named or Path(word).exists() or not _NAME.fullmatch(name):
            name, path = "", word
        taken = {network.name for network in networks}
        network = _open(path, device, trust)
        if name in taken:
            raise ServeError(f"{word}: two networks are called {name!r}; choose another name")
        networks.append(_named(network, name or _free(network.model, taken)))
        (chances,) = networks[-1].probabilities(
            [torch.zeros(network.spec.input_size, dtype=torch.float32, device="cpu")]
        )  # also sets much up
        if not chances.isfinite().all():
            raise ServeError(f"{word}: the output of the network is NaN or infinite; its weights are broken")
    return networks


def _free(model: str, taken: set[str]) -> str:
    base = re.sub(r"[^A-Za-z0-9._-]", "-", model)[:60] or "network"
    number = 1
    while (name := base if number == 1 else f"{base}-{number}") in taken:
        number += 1
    return name


def _named(network: Network, name: str) -> Network:
    return Network(name, network.model, network.spec, network.compute, network.task)


def _open(path: str, device: str, trust: bool) -> Network:
    if Path(path).suffix.lower() in SUFFIXES:
        if device != "cpu":
            raise ServeError(
                f"{path}: exported networks run on the CPU here, not on {device!r}; leave out --device"
            )
        exported = open_exported(path, trust=trust)
        if exported.metadata.task != "classification":
            raise ServeError(f"{path}: its task is {exported.metadata.task}; only classifiers are served")
        return Network("", exported.metadata.model, DataSpec.from_dict(exported.metadata.data_spec), exported)
    task = load_task(path, trust=trust)
    if not isinstance(task, ClassificationTask):
        raise ServeError(f"{path}: its task is {task.kind}; only classifiers are served")
    try:
        task.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        raise ServeError(f"device {device!r} cannot be used: {str(error).splitlines()[0]}") from error
    spec = DataSpec.from_dict(task.data_spec)
    return Network("", str(task.hparams["model"]), spec, lambda images: task(images.to(task.device)), task)
