"""Video classification: a network of images with temporal shifts, trained on clips (TSM; without shifts TSN)."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MeanMetric, SumMetric
from torchmetrics.classification import MulticlassAccuracy

from ctxvision.checkpoints import WarmStartReport, warm_start
from ctxvision.checkpoints.sources import Source
from ctxvision.tasks.error import TaskError
from ctxvision.tasks.networks import create_network
from ctxvision.tasks.optimization import ScheduleName
from ctxvision.tasks.training import TrainingTask

from .consensus import ClipLoss, ClipOutput, clip_consensus
from .shifts import Shift, TemporalShifts

Batch = tuple[Tensor, Tensor]


class VideoTask(TrainingTask):
    """Trains one of timm's networks, or ours, on videos with one class each.

    The network sees every frame by itself, but for an eighth of its channels each way, which the first layer of
    each residual branch takes from the frames beside (Lin, Gan, Han, TSM, ICCV 2019); what the frames say is
    averaged (`clip_consensus`). Its parameters are those of the network for images, under the same names, so that
    weights trained on images load.

    Every argument is a plain Python value and travels in the checkpoint; see `ctxvision.tasks.load_task`.

    Args:
        model: a registered name.
        data_spec: `ctxvision.data.ClipSpec.to_dict`; the task itself needs ``class_names``, ``input_size`` and
            ``frames``.
        shift: ``both`` directions, ``past`` alone for streams (`OnlineTsm`), or ``none``, which is TSN.
        shift_divisor: 8 shifts an eighth of the channels each way.
        shift_layers: names of layers before which channels are shifted; by default `residual_layers` finds them.
        model_args: more arguments of the network's constructor.
        drop_path_rate: stochastic depth.
        dropout: before the classifier, by itself in each frame.
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
        channels_last: memory layout of the network and its input.

    Raises:
        TaskError: unknown model or optimiser, arguments that they do not take, or a network without residual
            blocks.

    Examples:
        >>> spec = {"class_names": ["left", "right"], "input_size": [3, 32, 32], "frames": 4}
        >>> task = VideoTask("resnet10t", spec)
        >>> task(torch.zeros(2, 4, 3, 32, 32)).shape
        torch.Size([2, 2])
    """

    kind = "video"
    monitor = "val_top1"
    monitor_name = "top-1"
    sample_name = "video"
    columns = ("val_loss", "val_top1", "val_top5")

    def __init__(
        self,
        model: str,
        data_spec: Mapping[str, Any],
        *,
        shift: Shift = "both",
        shift_divisor: int = 8,
        shift_layers: Sequence[str] = (),
        model_args: Mapping[str, Any] | None = None,
        drop_path_rate: float = 0.0,
        dropout: float = 0.5,
        optimizer: str = "sgd",
        optimizer_args: Mapping[str, Any] | None = None,
        lr: float = 0.01,
        weight_decay: float = 1e-4,
        layer_decay: float | None = None,
        schedule: ScheduleName = "cosine",
        schedule_args: Mapping[str, Any] | None = None,
        warmup_epochs: float = 0.0,
        warmup_steps: int | None = None,
        warmup_factor: float = 0.0,
        min_lr: float = 0.0,
        label_smoothing: float = 0.0,
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
        self.shifts = TemporalShifts(self.model, self.data_spec["frames"], shift, shift_divisor, shift_layers)
        self.is_contextual = hasattr(self.model, "forward_stages")
        self.train_loss, self.val_loss = ClipLoss(label_smoothing=label_smoothing), ClipLoss()
        self.val_mean, self.val_videos = (
            MeanMetric("disable").set_dtype(torch.float32),
            SumMetric().set_dtype(torch.float32),
        )
        self.val_top1 = MulticlassAccuracy(num_classes, top_k=1, average="micro")
        self.val_top5 = MulticlassAccuracy(num_classes, top_k=min(5, num_classes), average="micro")

    def start_from(self, source: Source, *, partial: bool = False) -> WarmStartReport:
        """Load trained weights into the network for images; see `ctxvision.checkpoints.warm_start`."""
        return warm_start(self.model, source, partial=partial)

    def example_input(self) -> Tensor:
        """Return one black clip, (1, T, C, H, W)."""
        return torch.zeros(
            1, self.data_spec["frames"], *self.data_spec["input_size"], dtype=torch.float32, device="cpu"
        )

    def forward(self, clips: Tensor) -> Tensor:
        """Classify clips (B, T, C, H, W): logits (B, num_classes)."""
        output = self.classify(clips)[0]
        return output if isinstance(output, Tensor) else output.logits

    def classify(self, clips: Tensor) -> tuple[ClipOutput | Tensor, Tensor]:
        """Classify clips (B, T, C, H, W), as a whole and frame by frame.

        Returns:
            What `ClipLoss` takes, and the logits of the frames, (B, T, num_classes).

        Raises:
            ValueError: the clips have another shape.
        """
        if clips.dim() != 5:
            raise ValueError(f"clips must be (B, T, C, H, W), got {tuple(clips.shape)}")
        count, frames = clips.shape[:2]
        self.shifts.frames = frames
        images = clips.flatten(0, 1).contiguous(memory_format=self.memory_format)
        output = self.model.forward_stages(images) if self.is_contextual else self.model(images)
        by_frame = output.logits if self.is_contextual else output
        return clip_consensus(output, frames), by_frame.unflatten(0, (count, frames))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of a batch; without clips (all of them bad) it is 0, with gradients 0."""
        clips, targets = batch
        if not len(clips):
            return self.loss_of_nothing()
        self.expect(clips.shape[0] * clips.shape[1])
        loss = self.train_loss(self.classify(clips)[0], targets)
        self.log_train_loss(loss, len(clips))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Tensor] | None:
        """Score a batch of videos: clips (B, T, C, H, W), or several views of each, (B, V, T, C, H, W).

        Returns:
            Mean probabilities over the views, (B, num_classes), and classes (B,), for callbacks.
        """
        clips, targets = batch
        if not len(clips):
            return None
        views = clips.shape[1] if clips.dim() == 6 else 1
        output, _ = self.classify(clips.flatten(0, 1) if clips.dim() == 6 else clips)
        loss = self.val_loss(output, targets.repeat_interleave(views))
        logits = output if isinstance(output, Tensor) else output.logits
        probabilities = logits.float().softmax(1).unflatten(0, (-1, views)).mean(1)
        self.val_mean.update(loss.expand(len(targets)))
        self.val_videos.update(len(targets))
        self.val_top1.update(probabilities, targets)
        self.val_top5.update(probabilities, targets)
        return {"probabilities": probabilities, "targets": targets}

    def on_validation_epoch_end(self) -> None:
        """Report loss and accuracy over the videos of all processes.

        Raises:
            TaskError: no video could be read.
        """
        if not self.val_videos.compute() and not self.trainer.sanity_checking:
            raise TaskError("not one validation video could be read")
        self.log("val_loss", self.val_mean.compute())
        self.log("val_top1", self.val_top1.compute(), prog_bar=True)
        self.log("val_top5", self.val_top5.compute())
        for metric in (self.val_mean, self.val_videos, self.val_top1, self.val_top5):
            metric.reset()
