"""Image classification: one loss per kind of network, timm's optimisers and schedules, top-1 and top-5."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from timm.data import Mixup
from torch import Tensor, nn
from torchmetrics import MeanMetric, SumMetric
from torchmetrics.classification import MulticlassAccuracy

from ctxvision.checkpoints import WarmStartReport, warm_start
from ctxvision.checkpoints.sources import Source
from ctxvision.tasks.error import TaskError
from ctxvision.tasks.networks import create_network
from ctxvision.tasks.optimization import ScheduleName
from ctxvision.tasks.training import TrainingTask

from .class_sets import ClassSetRecall, is_contextual, kept_classes

Batch = tuple[Tensor, Tensor]


class ClassificationTask(TrainingTask):
    """Trains one of timm's networks, or ours, on images with one class each.

    Networks with ``forward_stages`` (Contextual CNN) are trained by `ctxvision.nn.ContextualLoss`, others by
    cross-entropy. The learning rate moves with every optimiser step, see `build_schedule`.

    Every argument is a plain Python value and travels in the checkpoint; see `load_task`.

    Args:
        model: a registered name.
        data_spec: `ctxvision.data.DataSpec.to_dict`; the task itself needs ``class_names`` and
            ``input_size``.
        model_args: more arguments of the network's constructor.
        drop_path_rate: stochastic depth.
        dropout: before the classifier.
        optimizer: a name of timm's; ``sgd`` is Nesterov's, ``momentum`` the plain one.
        optimizer_args: its own arguments, such as ``betas``.
        lr: highest learning rate.
        weight_decay: not applied to norms, biases, and what the network's ``no_weight_decay`` names.
        layer_decay: ratio of the learning rates of neighbouring layers; ``None`` is one rate for all.
        schedule: of the learning rate after the warm-up.
        schedule_args: more arguments of timm's ``create_scheduler_v2``.
        warmup_epochs: how long the learning rate rises.
        warmup_steps: the same in optimiser steps, instead of ``warmup_epochs``.
        warmup_factor: from which share of ``lr``.
        min_lr: at the end of the schedule.
        label_smoothing: share of the target spread over all classes.
        mixup: alpha of its beta distribution; 0 is off.
        cutmix: likewise.
        mixup_prob: share of the batches that are mixed, by either.
        mixup_switch_prob: share of those that are cut and not blended, where both are on.
        mixup_mode: one ratio for the whole ``batch``, for each ``pair`` of images, or for each image (``elem``).
        channels_last: memory layout of the network and its input.

    Raises:
        TaskError: unknown model or optimiser, or arguments that the network, the optimiser or the schedule does
            not take.

    Examples:
        >>> spec = {"class_names": ["cat", "dog"], "input_size": [3, 32, 32]}
        >>> task = ClassificationTask("resnet10t", spec)
        >>> task(torch.zeros(4, 3, 32, 32)).shape
        torch.Size([4, 2])
    """

    kind = "classification"
    monitor = "val_top1"
    monitor_name = "top-1"
    columns = ("val_loss", "val_top1", "val_top5")

    def __init__(
        self,
        model: str,
        data_spec: Mapping[str, Any],
        *,
        model_args: Mapping[str, Any] | None = None,
        drop_path_rate: float = 0.0,
        dropout: float = 0.0,
        optimizer: str = "adamw",
        optimizer_args: Mapping[str, Any] | None = None,
        lr: float = 5e-4,
        weight_decay: float = 0.05,
        layer_decay: float | None = None,
        schedule: ScheduleName = "cosine",
        schedule_args: Mapping[str, Any] | None = None,
        warmup_epochs: float = 0.0,
        warmup_steps: int | None = None,
        warmup_factor: float = 0.0,
        min_lr: float = 0.0,
        label_smoothing: float = 0.1,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        mixup_prob: float = 1.0,
        mixup_switch_prob: float = 0.5,
        mixup_mode: Literal["batch", "pair", "elem"] = "batch",
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.begin(data_spec)
        num_classes = len(self.data_spec["class_names"])
        self.model = create_network(
            model,
            num_classes=num_classes,
            in_chans=self.data_spec["input_size"][0],
            drop_path_rate=drop_path_rate,
            dropout=dropout,
            model_args=model_args or {},
        )
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model.to(memory_format=self.memory_format)
        self.mixup = (
            Mixup(
                mixup,
                cutmix,
                prob=mixup_prob,
                switch_prob=mixup_switch_prob,
                mode=mixup_mode,
                label_smoothing=label_smoothing,
                num_classes=num_classes,
            )
            if mixup or cutmix
            else None
        )
        self.is_contextual = hasattr(self.model, "forward_stages")
        # mixup smooths its own targets
        self.train_loss = self._make_loss(0.0 if self.mixup else label_smoothing)
        self.val_loss = self._make_loss(0.0)
        self.val_mean, self.val_images = (
            MeanMetric("disable").set_dtype(torch.float32),
            SumMetric().set_dtype(torch.float32),
        )
        self.val_top1 = MulticlassAccuracy(num_classes, top_k=1, average="micro")
        self.val_top5 = MulticlassAccuracy(num_classes, top_k=min(5, num_classes), average="micro")
        self.val_recall: ClassSetRecall | None = None
        if is_contextual(self.model):
            stages = self.model.contextual_stages
            self.val_recall = ClassSetRecall(len(stages))
            self.columns = (*self.columns, *(f"val_recall_{stage}" for stage in stages), "temperature")

    def start_from(self, source: Source, *, partial: bool = False) -> WarmStartReport:
        """Load trained weights into the network; see `ctxvision.checkpoints.warm_start`."""
        return warm_start(self.model, source, partial=partial)

    def example_input(self) -> Tensor:
        """Return one black image, (1, C, H, W)."""
        return torch.zeros(1, *self.data_spec["input_size"], dtype=torch.float32, device="cpu")

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
            return self.loss_of_nothing()
        self.expect(len(images))
        if self.mixup:
            even = len(images) // 2 * 2 or 2
            if len(images) == 1:
                images, targets = images.repeat(2, 1, 1, 1), targets.repeat(2)
            images, targets = self.mixup(images[:even].clone(), targets[:even])
        loss = self.train_loss(self._output(images), targets)
        self.log_train_loss(loss, len(images))
        return loss

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
        if self.val_recall is not None:
            self.val_recall.update(kept_classes(self.model, output), targets)
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
        if self.val_recall is not None:
            recalls = zip(self.model.contextual_stages, self.val_recall.compute(), strict=True)
            self.log_dict({f"val_recall_{stage}": share for stage, share in recalls})
            self.log("temperature", self.model.context.temperature.detach())
            self.val_recall.reset()
        for metric in (self.val_mean, self.val_images, self.val_top1, self.val_top5):
            metric.reset()
