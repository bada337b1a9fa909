"""Steps and epochs as a run needs them: seeded, finite, counted over an interruption, validated at the end."""

import logging
import math
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from ctxvision.data.dataset import seed_everything
from ctxvision.tasks import TaskError
from ctxvision.wording import plural


class StepSeed(Callback):
    """Seeds every training step by itself, so that a resumed run repeats an uninterrupted one.

    Args:
        seed: Seed of the run.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Seed what mixup, dropout and stochastic depth draw from, by the step and the rank."""
        batches = trainer.num_training_batches
        # an endless data set has no number of batches
        step = trainer.current_epoch * int(batches) + batch_idx if math.isfinite(batches) else trainer.global_step
        seed_everything(self.seed, step * trainer.world_size + trainer.global_rank)
        if trainer.strategy.root_device.type != "cpu":
            torch.manual_seed(torch.initial_seed())


log = logging.getLogger(__name__)


class FiniteSteps(Callback):
    """Looks at every optimiser step before it is taken.

    A step that is left out changes neither weights nor optimiser nor running statistics; the learning rate moves
    on. In 16 bits a gradient that overflows is no fault: the loss scale falls and Lightning leaves the step out.

    A module that has an attribute ``leave_out_nonfinite``, as our tasks do, learns by it whether steps may be left
    out, so that it does not count their loss.

    Args:
        skip: Number of steps of the run that may be left out.
        checkpoint: Path of the newest checkpoint, which is named where the run ends; ``None`` names none.

    Attributes:
        skipped: Number of steps left out so far.
    """

    def __init__(self, skip: int = 0, checkpoint: Path | None = None) -> None:
        self.skip = skip
        self.checkpoint = checkpoint
        self.skipped = 0
        self._loss_is_finite: Tensor | None = None
        self._buffers: list[Tensor] = []

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let the module's own check pass where steps may be left out."""
        if hasattr(pl_module, "leave_out_nonfinite"):
            pl_module.leave_out_nonfinite = self.skip > 0  # type: ignore[assignment]

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the running statistics as they are before the step."""
        if self._loss_is_finite is None and self.skip:
            self._buffers = [buffer.clone() for buffer in pl_module.buffers()]

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Look at the loss, without waiting for the device."""
        finite = loss.detach().isfinite()
        self._loss_is_finite = finite if self._loss_is_finite is None else self._loss_is_finite & finite

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Look at the gradient, in all processes; end the run or leave the step out where it is not finite.

        Raises:
            TaskError: The step is not finite, and no more may be left out.
        """
        gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
        loss_is_finite, self._loss_is_finite = self._loss_is_finite, None
        norm = get_total_norm(gradients)
        norm = norm.full_tensor() if hasattr(norm, "full_tensor") else norm  # of parts on several devices
        if loss_is_finite is None:  # a closure of manual optimisation has gone another way
            loss_is_finite = torch.ones((), dtype=torch.bool, device=norm.device)
        finite = torch.stack([loss_is_finite, norm.isfinite().to(loss_is_finite.device)])
        bad = (~finite).float()
        if trainer.world_size > 1:
            bad = trainer.strategy.reduce(bad, reduce_op="sum")
        bad_loss, bad_gradient = bad.tolist()
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        if not bad_loss and (not bad_gradient or (scaler is not None and scaler.get_scale() >= 1)):
            return
        place = (
            f"in epoch {trainer.current_epoch + 1}, step {trainer.global_step + 1}, "
            f"batch {trainer.fit_loop.batch_idx + 1} of {trainer.num_training_batches}"
        )
        what = "loss" if bad_loss else "gradient"
        if self.skipped >= self.skip:
            kept = (
                f"; the last good checkpoint is {self.checkpoint}"
                if self.checkpoint and self.checkpoint.is_file()
                else ""
            )
            before = f" after {plural(self.skipped, 'step')} had been left out" if self.skipped else ""
            raise TaskError(
                f"the training {what} is not finite {place}{before}; lower the learning rate, clip gradients, use "
                f"32-bit precision, or leave out some such steps with --skip-nan N{kept}"
            )
        self.skipped += 1
        # without gradients an optimiser does nothing
        for parameter in pl_module.parameters():
            parameter.grad = None
        for buffer, before_step in zip(pl_module.buffers(), self._buffers, strict=True):
            buffer.copy_(before_step)
        if trainer.is_global_zero:
            log.warning(
                f"the training {what} is not finite {place}: step left out, {self.skipped} of {self.skip} allowed"
            )

    def state_dict(self) -> dict[str, Any]:
        """Return the state of this callback for a checkpoint."""
        return {"skipped": self.skipped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take the state of this callback from a checkpoint."""
        self.skipped = state_dict["skipped"]


class EpochSoFar(Callback):
    """Carries the sums of an unfinished epoch through a checkpoint, such as that of the training loss.

    Without it the training loss of an epoch that was resumed in its middle would be the mean over the rest.

    It asks the module for two methods, which `ctxvision.tasks.Task` describes: ``epoch_sums()``
    returns scalars by name that add up over processes, and ``add_to_epoch(sums)`` takes them back. A module
    without these methods is left alone.
    """

    def __init__(self) -> None:
        self._restored: dict[str, float] | None = None

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Give the sums of before back to the module when the epoch goes on, on one process."""
        restored, self._restored = self._restored, None
        add = getattr(pl_module, "add_to_epoch", None)
        if add and restored and batch_idx and trainer.is_global_zero:
            add(restored)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Store the sums over all processes, by an all-reduce."""
        epoch_sums = getattr(pl_module, "epoch_sums", None)
        if epoch_sums is None:
            return
        by_name: dict[str, torch.Tensor] = epoch_sums()
        dtype = torch.promote_types(torch.float32, next(iter(by_name.values())).dtype)
        sums = torch.stack([value.to(dtype) for value in by_name.values()])
        if trainer.world_size > 1:
            sums = trainer.strategy.reduce(sums, reduce_op="sum")
        checkpoint["epoch_so_far"] = dict(zip(by_name, sums.tolist(), strict=True))

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Remember the sums until the epoch goes on; checkpoints of other callbacks have none."""
        self._restored = checkpoint.get("epoch_so_far")


class LastEpochValidated(Callback):
    """Lets the last epoch be validated where the trainer's ``check_val_every_n_epoch`` would leave it out."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look whether this is the last epoch; the trainer reads its setting when the epoch ends."""
        if trainer.current_epoch + 1 == trainer.max_epochs:
            trainer.check_val_every_n_epoch = 1
