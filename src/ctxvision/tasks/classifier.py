"""What image and video classification share: the network, top-1 and top-5, and the report of a validation."""

from abc import abstractmethod

import torch
from torch import Tensor
from torchmetrics import MeanMetric, SumMetric
from torchmetrics.classification import MulticlassAccuracy

from ctxvision.data import ImageSpec
from ctxvision.nn import ContextualOutput

from .error import TaskError
from .networks import create_network, has_stage_outputs
from .task import Task

Batch = tuple[Tensor, Tensor]


class ClassifierTask(Task):
    """A task in which every sample has one class.

    A subclass calls `build` in its constructor, and `score` for every batch that is validated.

    Attributes:
        memory_format: The memory layout of the network and its input.
        has_stage_outputs: Whether the network has ``forward_stages``, which returns logits, scores and classes of
            every stage, and not the logits alone.
    """

    monitor = "val_top1"
    monitor_name = "top-1"
    columns: tuple[str, ...] = ("val_loss", "val_top1", "val_top5")

    def build(self, *, drop_path_rate: float, dropout: float, channels_last: bool) -> None:
        """Create the network that ``hparams`` name, and the metrics.

        Args:
            drop_path_rate: The probability that stochastic depth leaves out a residual branch.
            dropout: The probability that dropout zeroes a feature before the classifier.
            channels_last: Whether the network and its input are channels-last in memory.

        Raises:
            TaskError: The network is unknown, or does not take its arguments.
        """
        count = len(self.class_names)
        self.model = create_network(
            self.model_name,
            num_classes=count,
            in_chans=self.data_spec["input_size"][0],
            drop_path_rate=drop_path_rate,
            dropout=dropout,
            model_args=self.model_args,
        )
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model.to(memory_format=self.memory_format)
        self.has_stage_outputs = has_stage_outputs(self.model)
        self.val_mean = MeanMetric("disable").set_dtype(torch.float32)
        self.val_samples = SumMetric().set_dtype(torch.float32)
        self.val_top1 = MulticlassAccuracy(count, top_k=1, average="micro")
        self.val_top5 = MulticlassAccuracy(count, top_k=min(5, count), average="micro")

    @property
    @abstractmethod
    def spec(self) -> ImageSpec:
        """The description of the data."""

    @property
    def backbone(self) -> None:
        """The whole network has a classifier's weights."""

    def outputs(self, images: Tensor) -> ContextualOutput | Tensor:
        """Return what the loss takes of images (N, C, H, W): a `ContextualOutput`, or logits (N, num_classes)."""
        images = images.contiguous(memory_format=self.memory_format)
        output: ContextualOutput | Tensor
        output = self.model.forward_stages(images) if has_stage_outputs(self.model) else self.model(images)
        return output

    def score(self, scores: Tensor, loss: Tensor, targets: Tensor) -> None:
        """Update the validation metrics with a batch.

        Args:
            scores: The logits or probabilities, (B, num_classes).
            loss: The mean loss of the batch, a scalar.
            targets: The true classes, (B,).
        """
        self.val_mean.update(loss.expand(len(targets)))
        self.val_samples.update(len(targets))
        self.val_top1.update(scores, targets)
        self.val_top5.update(scores, targets)

    def on_validation_epoch_end(self) -> None:
        """Report loss and accuracy over the samples of all processes.

        Raises:
            TaskError: No sample could be read.
        """
        if not self.val_samples.compute() and not self.trainer.sanity_checking:
            raise TaskError(f"not one validation {self.sample_name} could be read")
        self.log("val_loss", self.val_mean.compute())
        self.log("val_top1", self.val_top1.compute(), prog_bar=True)
        self.log("val_top5", self.val_top5.compute())
        for metric in (self.val_mean, self.val_samples, self.val_top1, self.val_top5):
            metric.reset()
        self.report_more()

    def report_more(self) -> None:
        """Report further validation metrics; none by default."""


def logits_of(output: ContextualOutput | Tensor) -> Tensor:
    """Return the logits (N, num_classes) of what `ClassifierTask.outputs` returned."""
    return output if isinstance(output, Tensor) else output.logits
