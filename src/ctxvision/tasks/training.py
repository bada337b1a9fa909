"""What all tasks share: timm's optimisers and schedules, the mean training loss, the mark in the checkpoint."""

import dataclasses
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from lightning.pytorch import LightningModule
from timm.scheduler.scheduler import Scheduler
from torch import Tensor, nn
from torchmetrics import MeanMetric

from ctxvision._version import __version__
from ctxvision.checkpoints import WarmStartReport
from ctxvision.checkpoints.sources import Source

from .error import TaskError
from .means import over_classes
from .optimization import (
    ScheduleName,
    build_optimizer,
    build_schedule,
    is_optimizer,
    require_optimizer,
    require_steps,
    why_unusable,
)
from .single_values import keep_statistics, single_value_norms


@dataclasses.dataclass(frozen=True)
class Optimization:
    """How a task's network is optimised; each field may be an argument of the task.

    Args:
        optimizer: a name of timm's; ``sgd`` is Nesterov's, ``momentum`` the plain one.
        optimizer_args: its own arguments, such as ``betas``.
        lr: highest learning rate.
        weight_decay: not applied to norms, biases, and what a network's ``no_weight_decay`` names.
        layer_decay: ratio of the learning rates of neighbouring layers; ``None`` is one rate for all.
        schedule: of the learning rate after the warm-up.
        schedule_args: more arguments of timm's ``create_scheduler_v2``.
        warmup_epochs: how long the learning rate rises.
        warmup_steps: the same in optimiser steps, instead of ``warmup_epochs``.
        warmup_factor: from which share of ``lr``.
        min_lr: at the end of the schedule.
    """

    optimizer: str = "adamw"
    optimizer_args: Mapping[str, Any] | None = None
    lr: float = 5e-4
    weight_decay: float = 0.05
    layer_decay: float | None = None
    schedule: ScheduleName = "cosine"
    schedule_args: Mapping[str, Any] | None = None
    warmup_epochs: float = 0.0
    warmup_steps: int | None = None
    warmup_factor: float = 0.0
    min_lr: float = 0.0


_log = logging.getLogger(__name__)


class TrainingTask(LightningModule, ABC):
    """A network with its loss, metrics and optimiser.

    A child takes plain Python values only, which travel in the checkpoint (see `load_task`). Its constructor calls
    ``super().__init__()``, ``save_hyperparameters()``, `begin`, and sets ``model``.

    Attributes:
        kind: of task, as the checkpoint and the command line call it.
        monitor: the validation metric for which a checkpoint is best; higher is better.
        monitor_name: what a person calls it.
        sample_name: what a person calls a sample.
        columns: the validation metrics for ``metrics.csv``.
        model: the network whose parameters are trained.
        data_spec: what the network must know about its data.
        leave_out_nonfinite: whether a callback leaves out steps whose loss is not finite, which then do not count.
    """

    kind: ClassVar[str]
    monitor: ClassVar[str]
    monitor_name: ClassVar[str]
    sample_name: ClassVar[str] = "image"
    columns: tuple[str, ...]
    model: nn.Module
    data_spec: dict[str, Any]

    def __init__(self) -> None:
        super().__init__()
        # A mean over samples, NaN included; every process takes part in it, also one whose samples were all bad.
        # It is updated with one value per sample: torchmetrics 1.9 ignores weights where NaN is not checked.
        self.train_mean = MeanMetric("disable").set_dtype(torch.float32)  # whatever torch's default dtype is
        self.leave_out_nonfinite = False
        self._batches_with_samples = 0
        self._told_left_out = False
        self._single_value_norms: tuple[str, ...] | None = None
        self._statistics_kept = False

    @property
    def optimization(self) -> Optimization:
        """How the network is optimised, from the task's arguments."""
        names = [field.name for field in dataclasses.fields(Optimization)]
        return Optimization(**{name: self.hparams[name] for name in names if name in self.hparams})

    def begin(self, data_spec: Mapping[str, Any]) -> None:
        """Keep the description of the data, and find wrong settings before the run begins.

        Raises:
            TaskError: unknown optimiser, or arguments that it or the schedule does not take.
        """
        self.data_spec = dict(data_spec)
        o = self.optimization
        if is_optimizer(o.optimizer) and why_unusable(o.optimizer):
            return  # a checkpoint of another machine can be looked at here, if not trained
        try_out = dataclasses.replace(o, layer_decay=None, warmup_steps=None)
        epochs = math.floor(o.warmup_epochs) + 1
        optimizer = _optimizer(nn.Linear(1, 1), try_out)
        schedule = _schedule(optimizer, try_out, epochs, steps_per_epoch=1)
        args = {**(o.optimizer_args or {}), **(o.schedule_args or {})}
        if args:
            require_steps(optimizer, schedule, (o.optimizer, o.schedule), args)

    @abstractmethod
    def start_from(self, source: Source, *, partial: bool = False) -> WarmStartReport:
        """Load trained weights into the network, or into its backbone; see `ctxvision.checkpoints.warm_start`.

        Args:
            source: a file, a network, or the name of one of timm's pretrained ones.
            partial: take what fits, even of quite another network.

        Raises:
            CheckpointError: they cannot be used; the network is unchanged.
        """

    @abstractmethod
    def example_input(self) -> Any:
        """Return the smallest input that `forward` takes as the task is set up: one sample of zeros."""

    @abstractmethod
    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Return the loss of a batch; `loss_of_nothing` where it is empty, because all its samples were bad."""

    @abstractmethod
    def validation_step(self, batch: Any, batch_idx: int) -> Any:
        """Update the metrics with a batch; returns what callbacks may want to see."""

    def tell_left_out(self, left_out: list[str]) -> None:
        """Say once which classes the monitored mean leaves out."""
        if (
            left_out
            and not self._told_left_out
            and self.trainer.is_global_zero
            and not self.trainer.sanity_checking
        ):
            self._told_left_out = True
            _log.warning("%s is %s", self.monitor_name, over_classes(len(self.data_spec["class_names"]), left_out))

    def try_out(self) -> tuple[str, ...]:
        """Give the task one sample in evaluation mode, whatever that raises.

        Returns:
            Names of the batch norms that a single sample gives one value per channel, see `single_value_norms`.
        """

        def run() -> None:
            sample = self.example_input()
            on_device = [s.to(self.device) for s in sample] if isinstance(sample, list) else sample.to(self.device)
            self.run_once(on_device)

        self._single_value_norms = single_value_norms(self.model, run)
        return self._single_value_norms

    def run_once(self, sample: Any) -> None:
        """Use every part of the network that training uses."""
        self(sample)

    def expect(self, samples: int) -> None:
        """Prepare the network for a training batch: of a single sample some norms cannot take statistics."""
        if self._single_value_norms is None and samples == 1:
            self.try_out()
        if samples == 1 or self._statistics_kept:  # else norms are left as others have set them
            keep_statistics(self.model, self._single_value_norms or (), samples == 1)
        self._statistics_kept = samples == 1

    def loss_of_nothing(self, name: str = "train_loss") -> Tensor:
        """Return a loss of 0 whose gradients are 0, so that those of other processes still meet ours."""
        self._update_train_mean(torch.zeros((), dtype=torch.float32, device=self.device), 0, name)
        start = torch.zeros((), dtype=torch.float32, device=self.device)
        return sum((p.sum() * 0.0 for p in self.parameters() if p.requires_grad), start)

    def log_train_loss(self, loss: Tensor, samples: int, name: str = "train_loss") -> None:
        """Count the loss of a batch of so many samples in the epoch's mean."""
        self._batches_with_samples += 1
        self._update_train_mean(loss.detach(), samples, name)

    def _update_train_mean(self, loss: Tensor, samples: int, name: str) -> None:
        if self.leave_out_nonfinite:
            finite = loss.isfinite()
            loss, samples = torch.where(finite, loss, 0.0), samples * int(finite)
        self.train_mean.update(loss.expand(samples))
        self.log(name, self.train_mean, on_step=False, on_epoch=True, prog_bar=True)

    def on_train_epoch_start(self) -> None:
        """Begin to count."""
        self._batches_with_samples = 0

    def on_train_epoch_end(self) -> None:
        """Stop a run that has failed, before its weights overwrite a checkpoint.

        Raises:
            TaskError: the loss is not finite, or no sample could be read.
        """
        counted = torch.tensor(float(self._batches_with_samples), dtype=torch.float32, device=self.device)
        if not self.trainer.strategy.reduce(counted, reduce_op="sum").item():
            raise TaskError(f"not one training {self.sample_name} could be read in this epoch")
        loss = self.trainer.callback_metrics.get("train_loss")
        if loss is not None and not torch.isfinite(loss):
            raise TaskError(
                f"the training loss became {loss.item()} in epoch {self.current_epoch + 1}; "
                "lower the learning rate, clip gradients or use 32-bit precision"
            )

    def configure_optimizers(self) -> dict[str, Any]:
        """Build timm's optimiser and schedule, which moves after every optimiser step."""
        o = self.optimization
        require_optimizer(o.optimizer, o.optimizer_args)
        optimizer = _optimizer(self.model, o)
        per_epoch = self._steps_per_epoch()
        epochs = max(self.trainer.max_epochs or 1, 1)
        schedule = _schedule(optimizer, o, epochs, per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _steps_per_epoch(self) -> int:
        batches = getattr(self.trainer.datamodule, "batches_per_epoch", None)
        if batches is None:
            return math.ceil(self.trainer.estimated_stepping_batches / max(self.trainer.max_epochs or 1, 1))
        # the trainer's estimate would begin to read images before a resumed run knows where it stopped
        return math.ceil(batches / self.trainer.accumulate_grad_batches)

    def lr_scheduler_step(self, scheduler: Scheduler, metric: Any) -> None:
        """Set the learning rate of the next optimiser step."""
        scheduler.step_update(self.trainer.global_step)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Forget the schedule of a run that is resumed: it follows from the step, and from the epochs of now."""
        checkpoint["lr_schedulers"] = []

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Mark the file as ours."""
        checkpoint["ctxvision"] = {"task": self.kind, "version": __version__}

    def compile_network(self, **options: Any) -> None:
        """Let ``torch.compile`` translate the network when it is first used; names and weights stay.

        Args:
            options: of ``torch.compile``.
        """
        if hasattr(self.model, "forward_stages"):
            self.model.forward_stages = torch.compile(self.model.forward_stages, **options)
        else:
            self.model.compile(**options)


def _optimizer(model: nn.Module, o: Optimization) -> torch.optim.Optimizer:
    return build_optimizer(
        model,
        o.optimizer,
        lr=o.lr,
        weight_decay=o.weight_decay,
        layer_decay=o.layer_decay,
        args=o.optimizer_args,
    )


def _schedule(optimizer: torch.optim.Optimizer, o: Optimization, epochs: int, steps_per_epoch: int) -> Scheduler:
    return build_schedule(
        optimizer,
        o.schedule,
        lr=o.lr,
        epochs=epochs,
        steps_per_epoch=steps_per_epoch,
        warmup_epochs=o.warmup_epochs if o.warmup_steps is None else o.warmup_steps / steps_per_epoch,
        warmup_factor=o.warmup_factor,
        min_lr=o.min_lr,
        args=o.schedule_args,
    )
