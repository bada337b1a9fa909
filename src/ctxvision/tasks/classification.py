"""Image classification: one loss per kind of network, timm's optimisers, top-1 and top-5."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch import LightningModule
from timm.data import Mixup
from timm.optim import create_optimizer_v2, list_optimizers
from torch import Tensor, nn
from torchmetrics import MeanMetric, SumMetric
from torchmetrics.classification import MulticlassAccuracy

from ctxvision._version import __version__

from .error import TaskError
from .networks import create_network

Batch = tuple[Tensor, Tensor]


class ClassificationTask(LightningModule):
    """Trains one of timm's networks, or ours, on images with one class each.

    Networks with ``forward_stages`` (Contextual CNN) are trained by `ctxvision.nn.ContextualLoss`, others by
    cross-entropy. The learning rate rises linearly from 0 and falls by a cosine to 0, step by step.

    Every argument is a plain Python value and travels in the checkpoint; see `load_task`.

    Args:
        model: a registered name.
        data_spec: `ctxvision.data.DataSpec.to_dict`; the task itself needs ``class_names`` and
            ``input_size``.
        model_args: more arguments of the network's constructor.
        drop_path_rate: stochastic depth.
        optimizer: a name of timm's; ``sgd`` is Nesterov's, ``momentum`` the plain one.
        lr: highest learning rate.
        weight_decay: not applied to norms, biases, and what the network's ``no_weight_decay`` names.
        warmup_epochs: how long the learning rate rises.
        label_smoothing: share of the target spread over all classes.
        mixup: alpha of its beta distribution; 0 is off.
        cutmix: likewise.
        channels_last: memory layout of the network and its input.

    Raises:
        TaskError: unknown model or optimiser, or arguments that the network does not take.

    Examples:
        >>> spec = {"class_names": ["cat", "dog"], "input_size": [3, 32, 32]}
        >>> task = ClassificationTask("resnet10t", spec)
        >>> task(torch.zeros(4, 3, 32, 32)).shape
        torch.Size([4, 2])
    """

    def __init__(
        self,
        model: str,
        data_spec: Mapping[str, Any],
        *,
        model_args: Mapping[str, Any] | None = None,
        drop_path_rate: float = 0.0,
        optimizer: str = "adamw",
        lr: float = 5e-4,
        weight_decay: float = 0.05,
        warmup_epochs: float = 0.0,
        label_smoothing: float = 0.1,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        if optimizer not in list_optimizers():
            raise TaskError(f"unknown optimizer {optimizer!r}; timm has {', '.join(list_optimizers())}")
        self.data_spec = dict(data_spec)
        num_classes = len(self.data_spec["class_names"])
        self.model = create_network(
            model,
            num_classes=num_classes,
            in_chans=self.data_spec["input_size"][0],
            drop_path_rate=drop_path_rate,
            model_args=model_args or {},
        )
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model.to(memory_format=self.memory_format)
        self.mixup = (
            Mixup(mixup, cutmix, label_smoothing=label_smoothing, num_classes=num_classes)
            if mixup or cutmix
            else None
        )
        self.is_contextual = hasattr(self.model, "forward_stages")
        # mixup smooths its own targets
        self.train_loss = self._make_loss(0.0 if self.mixup else label_smoothing)
        self.val_loss = self._make_loss(0.0)
        # means over images, NaN included; every process takes part in them, also one whose images were all bad.
        # They are updated with one value per image: torchmetrics 1.9 ignores weights where NaN is not checked.
        self.train_mean, self.val_mean, self.val_images = MeanMetric("disable"), MeanMetric("disable"), SumMetric()
        self.val_top1 = MulticlassAccuracy(num_classes, top_k=1, average="micro")
        self.val_top5 = MulticlassAccuracy(num_classes, top_k=min(5, num_classes), average="micro")
        self._batches_with_images = 0

    def _make_loss(self, label_smoothing: float) -> nn.Module:
        if self.is_contextual:
            from ctxvision.nn import ContextualLoss

            return ContextualLoss(label_smoothing=label_smoothing)
        return nn.CrossEntropyLoss(label_smoothing=label_smoothing)  # of classes or of probabilities

    def forward(self, images: Tensor) -> Tensor:
        """Classify images (B, C, H, W): logits (B, num_classes)."""
        return self.model(images.contiguous(memory_format=self.memory_format))

    def _output(self, images: Tensor) -> Any:
        """Return what the loss takes: a `ContextualOutput`, or logits (B, num_classes)."""
        images = images.contiguous(memory_format=self.memory_format)
        return self.model.forward_stages(images) if self.is_contextual else self.model(images)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch; without images (all of them bad) it is 0, with gradients 0."""
        images, targets = batch
        if not len(images):
            self._log_train_loss(images.new_zeros(()), 0)
            # connected to every parameter, so that other processes' gradients still meet theirs
            return sum((p.sum() * 0.0 for p in self.parameters() if p.requires_grad), images.new_zeros(()))
        self._batches_with_images += 1
        if self.mixup:
            even = len(images) // 2 * 2 or 2
            if len(images) == 1:
                images, targets = images.repeat(2, 1, 1, 1), targets.repeat(2)
            images, targets = self.mixup(images[:even].clone(), targets[:even])
        loss = self.train_loss(self._output(images), targets)
        self._log_train_loss(loss.detach(), len(images))
        return loss

    def _log_train_loss(self, loss: Tensor, images: int) -> None:
        self.train_mean.update(loss.expand(images))
        self.log("train_loss", self.train_mean, on_step=False, on_epoch=True, prog_bar=True)

    def on_train_epoch_start(self) -> None:
        """Begin to count."""
        self._batches_with_images = 0

    def on_train_epoch_end(self) -> None:
        """Stop a run that has failed, before its weights overwrite a checkpoint.

        Raises:
            TaskError: the loss is not finite, or no image could be read.
        """
        with_images = torch.tensor(float(self._batches_with_images), device=self.device)
        if not self.trainer.strategy.reduce(with_images, reduce_op="sum").item():
            raise TaskError("not one training image could be read in this epoch")
        loss = self.trainer.callback_metrics.get("train_loss")
        if loss is not None and not torch.isfinite(loss):
            raise TaskError(
                f"the training loss became {loss.item()} in epoch {self.current_epoch + 1}; "
                "lower the learning rate, clip gradients or use 32-bit precision"
            )

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor] | None:
        """Score a batch; returns its logits (B, num_classes) and classes (B,) for callbacks."""
        images, targets = batch
        if not len(images):
            return None
        output = self._output(images)
        logits = (output.logits if self.is_contextual else output).float()
        loss = self.val_loss(output if self.is_contextual else logits, targets)
        self.val_mean.update(loss.expand(len(images)))
        self.val_images.update(len(images))
        self.val_top1.update(logits, targets)
        self.val_top5.update(logits, targets)
        return {"logits": logits, "targets": targets}

    def on_validation_epoch_end(self) -> None:
        """Report loss and accuracy over the images of all processes.

        Raises:
            TaskError: no image could be read.
        """
        if not self.val_images.compute() and not self.trainer.sanity_checking:
            raise TaskError("not one validation image could be read")
        self.log("val_loss", self.val_mean.compute())
        self.log("val_top1", self.val_top1.compute(), prog_bar=True)
        self.log("val_top5", self.val_top5.compute())
        for metric in (self.val_mean, self.val_images, self.val_top1, self.val_top5):
            metric.reset()

    def configure_optimizers(self) -> dict[str, Any]:
        """Build timm's optimiser, with linear warm-up and a cosine, stepped after every batch."""
        optimizer = create_optimizer_v2(
            self.model,
            opt=self.hparams["optimizer"],
            lr=self.hparams["lr"],
            weight_decay=self.hparams["weight_decay"],
        )
        steps = self._optimizer_steps()
        warmup = round(steps * self.hparams["warmup_epochs"] / max(self.trainer.max_epochs or 1, 1))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: warmup_cosine(step, warmup, steps))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _optimizer_steps(self) -> int:
        batches = getattr(self.trainer.datamodule, "batches_per_epoch", None)
        if batches is None:
            return int(self.trainer.estimated_stepping_batches)
        # the trainer's estimate would begin to read images before a resumed run knows where it stopped
        return math.ceil(batches / self.trainer.accumulate_grad_batches) * (self.trainer.max_epochs or 1)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Mark the file as ours."""
        checkpoint["ctxvision"] = {"task": "classification", "version": __version__}


def warmup_cosine(step: int, warmup: int, steps: int) -> float:
    """Return the factor of the learning rate at a step: up to 1 in ``warmup`` steps, down to 0 at ``steps``.

    Examples:
        >>> [round(warmup_cosine(step, 2, 6), 2) for step in range(7)]
        [0.5, 1.0, 1.0, 0.85, 0.5, 0.15, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, steps - warmup))))
