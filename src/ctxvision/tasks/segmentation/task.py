"""Semantic segmentation: cross-entropy over labelled pixels, an auxiliary loss, mean IoU."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics import MeanMetric, SumMetric

from ctxvision.data import SegmentationSpec
from ctxvision.tasks.error import TaskError
from ctxvision.tasks.features import FeatureBackbone
from ctxvision.tasks.optimization import Optimization
from ctxvision.tasks.task import Task, undefined

from .metric import IGNORE, IoU, PixelConfusion, intersection_over_union
from .network import DecoderName, Segmentation, SegmentationNetwork, build_network, image_logits, segment


class SegmentationTask(Task):
    """Trains a segmentation network over one of timm's backbones, or ours.

    Every argument is a plain Python value and travels in the checkpoint; see `load_task`.

    Args:
        model: The registered name of the backbone, which has features of strides 4, 8, 16 and 32.
        data_spec: The fields of `ctxvision.data.SegmentationSpec`, see its ``to_dict``; the task itself needs
            ``class_names`` and ``input_size``.
        model_args: More arguments of the backbone's constructor.
        drop_path_rate: The probability that stochastic depth leaves out a residual branch of the backbone.
        decoder: The decoder over the backbone, ``semantic_fpn`` or ``upernet``.
        decoder_args: More arguments of the decoder's constructor, such as ``neck``, ``channels`` or ``norm``.
        auxiliary: Whether a small FCN on stage 3 learns beside the decoder; ``None`` adds it to UPerNet alone.
        auxiliary_weight: The weight of the auxiliary loss.
        window: The height and width in pixels of a sliding window for evaluation and prediction; ``None`` takes
            whole images.
        window_stride: The vertical and horizontal distance between windows in pixels; by default two thirds of a
            window.
        class_weights: The weight of each class in the loss; ``None`` weighs all alike.
        channels_last: Whether the network and its input are channels-last in memory.
        optimization: The fields of `ctxvision.tasks.Optimization`, by default SGD with the schedule ``poly``.

    Raises:
        TaskError: Names are unknown, or arguments do not fit.

    Examples:
        >>> spec = {"class_names": ["sky", "ground"], "input_size": [3, 64, 64]}
        >>> task = SegmentationTask("rednet_micro", spec, decoder_args={"neck": "involution"}).eval()
        >>> task(torch.zeros(1, 3, 64, 96)).shape
        torch.Size([1, 2, 64, 96])
    """

    kind = "segmentation"
    monitor = "val_miou"
    monitor_name = "mIoU"
    columns = ("val_loss", "val_miou", "val_pixel_accuracy")
    defaults = Optimization(optimizer="sgd", lr=0.01, weight_decay=5e-4, schedule="poly")
    model: SegmentationNetwork
    class_weights: Tensor | None

    def __init__(
        self,
        model: str,
        data_spec: Mapping[str, Any],
        *,
        model_args: Mapping[str, Any] | None = None,
        drop_path_rate: float = 0.0,
        decoder: DecoderName = "semantic_fpn",
        decoder_args: Mapping[str, Any] | None = None,
        auxiliary: bool | None = None,
        auxiliary_weight: float = 0.4,
        window: Sequence[int] | None = None,
        window_stride: Sequence[int] | None = None,
        class_weights: Sequence[float] | None = None,
        channels_last: bool = True,
        **optimization: Any,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.begin(data_spec, optimization)
        num_classes = len(self.class_names)
        self.model = build_network(
            model,
            num_classes,
            decoder=decoder,
            decoder_args=decoder_args,
            auxiliary=auxiliary,
            in_chans=self.data_spec["input_size"][0],
            drop_path_rate=drop_path_rate,
            model_args=model_args,
        )
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.model.to(memory_format=self.memory_format)
        self.auxiliary_weight = auxiliary_weight
        self.window, self.window_stride = _window(window, window_stride)
        if class_weights is not None and (len(class_weights) != num_classes or min(class_weights) < 0):
            given = list(class_weights)
            raise TaskError(
                f"class_weights: {num_classes} classes need as many weights, none below 0, got {given}"
            )
        # not part of the checkpoint: it follows from the arguments
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)
        self.val_mean = MeanMetric("disable").set_dtype(torch.float32)
        self.val_images = SumMetric().set_dtype(torch.float32)
        self.val_confusion = PixelConfusion(num_classes)

    @property
    def spec(self) -> SegmentationSpec:
        """The description of the images.

        Raises:
            DataError: The task was built from less than a whole description.
        """
        return SegmentationSpec.from_dict(self.data_spec)

    @property
    def decoder_name(self) -> str:
        """The decoder over the backbone, one of `DecoderName`."""
        return str(self.hparams["decoder"])

    @property
    def backbone(self) -> FeatureBackbone:
        """The backbone under the decoder."""
        return self.model.backbone

    def example_input(self) -> Tensor:
        """Return one black image as large as a training crop, (1, C, H, W)."""
        return torch.zeros(1, *self.data_spec["input_size"], dtype=torch.float32, device="cpu")

    def run_once(self, sample: Tensor) -> None:
        """Run the network on images (B, C, H, W), the auxiliary head too."""
        self(sample)
        self.model.forward_with_auxiliary(sample)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits (B, num_classes, H, W) of images (B, C, H, W), by sliding windows if ``window`` is set."""
        return image_logits(self._network, images, window=self.window, stride=self.window_stride)

    def segment(self, image: Tensor) -> Segmentation:
        """Predict the class of every pixel of a normalised image (C, H, W), and the confidence in it."""
        return segment(self._network, image, window=self.window, stride=self.window_stride)

    def _network(self, images: Tensor) -> Tensor:
        logits: Tensor = self.model(images.contiguous(memory_format=self.memory_format))
        return logits

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        """Return the loss of images (B, C, H, W) with classes (B, H, W), 255 where there is none."""
        images, masks = batch
        if not len(images):
            return self.loss_of_nothing()
        self.expect(len(images))
        images = images.contiguous(memory_format=self.memory_format)
        logits, auxiliary = self.model.forward_with_auxiliary(images)
        loss = self._loss(logits, masks)
        if auxiliary is not None:
            loss = loss + self.auxiliary_weight * self._loss(auxiliary, masks)
        self.log_train_loss(loss, len(images))
        return loss

    def _loss(self, logits: Tensor, masks: Tensor) -> Tensor:
        """Return the mean cross-entropy of the labelled pixels; 0, with gradients 0, where there are none."""
        if not (masks != IGNORE).any():
            return logits.sum() * 0.0
        return F.cross_entropy(logits.float(), masks.long(), self.class_weights, ignore_index=IGNORE)

    def validation_step(self, batch: tuple[Sequence[Tensor], Sequence[Tensor]], batch_idx: int) -> None:
        """Count the pixels of images (C, H, W) of any sizes, with classes (H, W)."""
        for image, mask in zip(*batch, strict=True):
            logits = self(image[None]).float()
            self.val_mean.update(self._loss(logits, mask[None]))
            self.val_images.update(1)
            self.val_confusion.update(logits.argmax(1), mask[None])

    def on_validation_epoch_end(self) -> None:
        """Report loss, mean IoU and pixel accuracy over the images of all processes.

        Raises:
            TaskError: No image could be read, or no pixel of them has a class.
        """
        iou = self.validation_iou()
        if not self.trainer.sanity_checking:
            if not self.val_images.compute():
                raise TaskError("not one validation image could be read")
            if iou.mean != iou.mean:
                raise TaskError("not one pixel of the validation masks has a class: all are to be ignored (255)")
        self.log("val_loss", self.val_mean.compute())
        self.log("val_miou", iou.mean, prog_bar=True)
        self.tell_left_out(undefined(self.class_names, iou.by_class))
        self.log("val_pixel_accuracy", iou.pixel_accuracy)
        for metric in (self.val_mean, self.val_images, self.val_confusion):
            metric.reset()

    def validation_iou(self) -> IoU:
        """Return the IoU of each class over what has been validated so far, over all processes."""
        return intersection_over_union(self.val_confusion.compute())


def _window(
    window: Sequence[int] | None, stride: Sequence[int] | None
) -> tuple[tuple[int, int] | None, tuple[int, int] | None]:
    """Check and convert what may come as lists from a file.

    Raises:
        TaskError: There are not two positive numbers, or the stride leaves gaps.
    """
    for name, pair in (("window", window), ("window_stride", stride)):
        if pair is not None and (len(pair) != 2 or not all(isinstance(n, int) and n >= 1 for n in pair)):
            raise TaskError(f"{name} must be height and width, at least 1, got {pair!r}")
    if stride is not None and (window is None or stride[0] > window[0] or stride[1] > window[1]):
        raise TaskError(f"window_stride {list(stride)} leaves gaps in a window of {window and list(window)}")
    return (
        None if window is None else (window[0], window[1]),
        None if stride is None else (stride[0], stride[1]),
    )
