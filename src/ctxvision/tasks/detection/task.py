"""Detection and instance segmentation as a training task: the detector's losses, and COCO's average precision."""

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from ctxvision.data import DetectionSpec
from ctxvision.tasks.error import TaskError
from ctxvision.tasks.features import FeatureBackbone
from ctxvision.tasks.optimization import Optimization
from ctxvision.tasks.task import Task, undefined

from .build import DetectorName, build_detector
from .detector import Detector
from .metric import AveragePrecision, DetectionMetric, IouType

Batch = tuple[list[Tensor], list[dict[str, Any]]]

_BUILD = {  # what `build_detector` takes beside the arguments that are named in the task's constructor
    name: parameter.default
    for name, parameter in inspect.signature(build_detector).parameters.items()
    if name not in ("detector", "backbone", "num_classes", "in_chans", "model_args")
}
_METRICS = (
    ("ap", "ap"),
    ("ap50", "ap50"),
    ("ap75", "ap75"),
    ("ap_small", "aps"),
    ("ap_medium", "apm"),
    ("ap_large", "apl"),
)


class DetectionTask(Task):
    """Trains a detector of `build_detector`, whose arguments it takes, on images with boxes and perhaps masks.

    A batch is a list of images (C, H, W) in [0, 1] and a list of targets, see `ctxvision.data.DetectionDataset`.

    Every argument is a plain Python value and travels in the checkpoint; see `load_task`.

    Args:
        model: The registered name of the backbone.
        data_spec: The fields of `ctxvision.data.DetectionSpec`, see its ``to_dict``; the task itself needs
            ``class_names`` and ``in_chans``.
        detector: The kind of detector; those with "mask" in their name predict masks too.
        model_args: More arguments of the backbone's constructor.
        channels_last: Whether the network is channels-last in memory.
        options: The other arguments of `build_detector`, and the fields of `ctxvision.tasks.Optimization`, by
            default AdamW with a learning rate of 1e-4 and a cosine schedule.

    Raises:
        TaskError: Names are unknown, or arguments do not fit the detector, the optimiser or the schedule.
    """

    kind = "detection"
    monitor = "val_box_ap"
    monitor_name = "box AP"
    defaults = Optimization(lr=1e-4)
    model: Detector

    def __init__(
        self,
        model: str,
        data_spec: Mapping[str, Any],
        *,
        detector: DetectorName = "faster_rcnn",
        model_args: Mapping[str, Any] | None = None,
        channels_last: bool = True,
        **options: Any,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        built = {name: options.pop(name, default) for name, default in _BUILD.items()}
        self.begin(data_spec, options)
        self.hparams.update(built)
        self.model = build_detector(
            detector,
            model,
            num_classes=len(self.class_names),
            in_chans=self.data_spec.get("in_chans", 3),
            model_args=model_args,
            **built,
        )
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.metric = DetectionMetric(len(self.class_names), masks=self.has_masks)
        self.last_precision: dict[IouType, AveragePrecision] = {}
        parts = ("box", "mask") if self.has_masks else ("box",)
        self.columns = tuple(f"val_{part}_{short}" for part in parts for _, short in _METRICS)

    @classmethod
    def option_names(cls) -> tuple[str, ...]:
        """Name the options that the constructor takes besides the backbone and the description of the data."""
        return (*super().option_names(), *_BUILD)

    @property
    def spec(self) -> DetectionSpec:
        """The description of the images.

        Raises:
            DataError: The task was built from less than a whole description.
        """
        return DetectionSpec.from_dict(self.data_spec)

    @property
    def detector_name(self) -> str:
        """The kind of detector, one of `DetectorName`."""
        return str(self.hparams["detector"])

    @property
    def has_masks(self) -> bool:
        """Whether the detector predicts masks too."""
        return self.model.has_masks

    @property
    def backbone(self) -> FeatureBackbone:
        """The backbone under the feature pyramid."""
        return self.model.features

    def example_input(self) -> list[Tensor]:
        """Return one black image, (C, H, W), in a list."""
        smallest = self.model.network.transform.min_size[-1]
        return [torch.zeros(self.model.in_chans, smallest, smallest, dtype=torch.float32, device="cpu")]

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Detect objects in images (C, H, W) from 0 to 1, in evaluation mode; returns what `Detector` does."""
        found: list[dict[str, Tensor]] = self.model([image.to(self.dtype) for image in images])
        return found

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the sum of the losses of a batch; where all its images were bad, it is `loss_of_nothing`."""
        images, targets = batch
        if not images:
            return self.loss_of_nothing()
        self.expect(len(images))
        losses = self.model(
            [image.to(self.dtype) for image in images], [self._typed(target) for target in targets]
        )
        for name, value in losses.items():
            self.log(f"train_{name}", value.detach(), on_step=True, on_epoch=False, batch_size=len(images))
        precise = torch.promote_types(cast(torch.dtype, self.dtype), torch.float32)
        loss = torch.stack([value.to(precise) for value in losses.values()]).sum()
        self.log_train_loss(loss, len(images))
        return loss

    def _typed(self, target: Mapping[str, Any]) -> dict[str, Tensor]:
        kept = {name: target[name] for name in ("boxes", "labels", "masks") if name in target}
        return kept | {
            "boxes": kept["boxes"].to(torch.promote_types(cast(torch.dtype, self.dtype), torch.float32))
        }

    def validation_step(  # type: ignore[override] # Lightning hands any value on to callbacks
        self, batch: Batch, batch_idx: int
    ) -> list[dict[str, Tensor]] | None:
        """Compare a batch's detections with the truth, and return the detections."""
        images, targets = batch
        if not images:
            return None
        found: list[dict[str, Tensor]] = self(images)
        self.metric.update(targets, found)
        return found

    def on_validation_epoch_start(self) -> None:
        """Begin to count images and objects."""
        self.metric.reset()

    def on_validation_epoch_end(self) -> None:
        """Report average precision over the images of all processes.

        Raises:
            TaskError: No image could be read, or there is no object on any of them.
        """
        images, found = len(self.metric), self.metric.compute()
        self.metric.reset()
        if self.trainer.sanity_checking and math.isfinite(self.trainer.num_sanity_val_steps):
            return  # a few batches, which may have no objects
        if not images:
            raise TaskError("not one validation image could be read")
        if found["bbox"].ap != found["bbox"].ap:
            raise TaskError("the validation images have no objects, so average precision means nothing on them")
        self.last_precision = dict(found)
        self.tell_left_out(undefined(self.class_names, found["bbox"].by_class))
        for part, iou_type in (("box", "bbox"), ("mask", "segm")):
            if iou_type in found:
                for name, short in _METRICS:
                    value = getattr(found[iou_type], name)
                    self.log(f"val_{part}_{short}", value, prog_bar=short == "ap", rank_zero_only=False)
