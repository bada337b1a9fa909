"""The data set of an evaluation, opened as the network requires it."""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ctxvision.data import DataModule, Spec, is_embedded, open_for_evaluation
from ctxvision.data.module import workers_for

_log = logging.getLogger(__name__)

Inputs = Tensor | list[Tensor]
_WORTH_A_PROCESS = 32  # samples: to start a process for fewer takes longer than it saves


@dataclass(frozen=True)
class Source:
    """The samples of an evaluation, with their targets.

    Attributes:
        module: The data module whose ``val_dataloader`` yields the samples.
        name: The name that the user gave the data.
        split: The part of the data, ``"val"``, ``"train"`` or ``"all"``.
    """

    module: DataModule
    name: str
    split: str

    def batches(self, device: torch.device) -> Iterator[tuple[Inputs, Any]]:
        """Yield the batches that have samples: inputs on the device of the network, and their targets."""
        for batch in self.module.val_dataloader():
            inputs, targets = self.module.on_after_batch_transfer(batch, 0)
            if len(inputs):
                on_device = inputs.to(device) if isinstance(inputs, Tensor) else [one.to(device) for one in inputs]
                yield on_device, targets

    def count(self) -> int:
        """Return the number of samples, those that turn out to be unusable among them."""
        return len(self.module.eval_dataset())

    def file_names(self) -> list[str]:
        """Return the names of the samples that were read so far, in their order; digits have no names."""
        samples = getattr(self.module, "eval_samples", [])
        return [self.shown(name) for name, _ in samples if name not in self.module.bad_images]

    def shown(self, name: str) -> str:
        """Return the name of a sample; for a file, its path without the folder of the data."""
        is_file = os.path.isabs(name) or os.path.exists(name)
        return os.path.relpath(name, self.module.root) if is_file else name

    def bad_samples(self) -> list[dict[str, str]]:
        """Return the samples that could not be used, each with its ``path`` and the ``reason``."""
        return [{"path": path, "reason": reason} for path, reason in self.module.bad_images.items()]


@dataclass(frozen=True)
class DataRequest:
    """The data set that a user asks for; its arguments are those of `ctxvision.evaluation.evaluate`."""

    data: str | os.PathLike[str] | DataModule
    split: str | None = None
    batch_size: int | None = None
    workers: int | None = None
    strict: bool = False

    def open(self, spec: Spec, task: str, *, batch_size: int, **options: Any) -> Source:
        """Open the data for a trained network; a data module is open already and stays as it is.

        Args:
            spec: The description of the network's data.
            task: The task of the network.
            batch_size: The number of samples in a batch if the user does not choose it.
            options: Further options of the data module.

        Raises:
            DataError: The data cannot be used, or have classes that the network does not have.
        """
        if isinstance(self.data, DataModule):
            return Source(self.data, self.data.source, self.split or "val")
        size = "eval_batch_size" if task == "segmentation" else "batch_size"
        options |= {size: self.batch_size or batch_size, "workers": self.workers or 0, "strict": self.strict}
        module, split = open_for_evaluation(self.data, spec, task, split=self.split, **options)
        if self.workers is None and not is_embedded(self.data):
            count = len(module.eval_dataset())
            module.workers = workers_for(count, _WORTH_A_PROCESS)
        for line in module.notes:
            _log.warning("%s", line)
        return Source(module, os.fspath(self.data), split)
