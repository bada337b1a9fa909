"""Detection and instance segmentation as a training task: the detector's losses, and COCO's average precision."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ctxvision.checkpoints import WarmStartReport
from ctxvision.checkpoints.sources import Source
from ctxvision.tasks.error import TaskError
from ctxvision.tasks.features import NormName
from ctxvision.tasks.means import undefined
from ctxvision.tasks.optimization import ScheduleName
from ctxvision.tasks.pyramid import LayerKind
from ctxvision.tasks.training import TrainingTask

from .box_head import BoxHeadName
from .build import ANCHOR_SIZES, DetectorName, build_detector
from .metric import AveragePrecision, DetectionMetric

Batch = tuple[list[Tensor], list[dict[str, Any]]]

_BUILD = (
    "neck", "head", "box_head", "width", "hidden", "norm", "norm_in_heads", "frozen_stages", "extra_levels_from",
    "anchor_sizes", "aspect_ratios", "train_proposals", "test_proposals", "sampled_rois", "score_threshold",
    "nms_threshold", "detections", "min_size", "max_size", "image_mean", "image_std", "drop_path_rate",
    "model_args",
)  # fmt: skip
_METRICS = (
    ("ap", "ap"),
    ("ap50", "ap50"),
    ("ap75", "ap75"),
    ("ap_small", "aps"),
    ("ap_medium", "apm"),
    ("ap_large", "apl"),
)


class DetectionTask(TrainingTask):
    """Trains a detector of `build_detector`, whose arguments it takes, on images with boxes and perhaps masks.

    A batch is a list of images (C, H, W) in [0, 1] and a list of targets, see `ctxvision.data.DetectionDataset`.

    Every argument is a plain Python value and travels in the checkpoint; see `load_task`.

    Args:
        model: the backbone, a registered name.
        data_spec: `ctxvision.data.DetectionSpec.to_dict`; the task itself needs ``class_names`` and ``in_chans``.
        detector: which; those with "mask" in their name predict masks too.
        neck: see `build_detector`, as all that follow up to ``drop_path_rate``.
        model_args: more arguments of the backbone's constructor.
        optimizer: see `Optimization`, as all that follow.
        channels_last: memory layout of the network.

    Raises:
        TaskError: unknown names, or arguments that the detector, the optimiser or the schedule does not take.
    """

    kind = "detection"
    monitor = "val_box_ap"
    monitor_name = "box AP"

    def __init__(
        self,
        model: str,
        data_spec: Mapping[str, Any],
        *,
        detector: DetectorName = "faster_rcnn",
        neck: LayerKind = "convolution",
        head: LayerKind = "convolution",
        box_head: BoxHeadName = "2fc",
        width: int = 256,
        hidden: int = 1024,
        norm: NormName = "frozen",
        norm_in_heads: bool = False,
        frozen_stages: int = 0,
        extra_levels_from: Literal["backbone", "pyramid"] = "backbone",
        anchor_sizes: Sequence[int] = ANCHOR_SIZES,
        aspect_ratios: Sequence[float] = (0.5, 1.0, 2.0),
        train_proposals: int = 2000,
        test_proposals: int = 1000,
        sampled_rois: int = 512,
        score_threshold: float = 0.05,
        nms_threshold: float = 0.5,
        detections: int = 100,
        min_size: int | Sequence[int] = 800,
        max_size: int = 1333,
        image_mean: Sequence[float] | None = None,
        image_std: Sequence[float] | None = None,
        drop_path_rate: float = 0.0,
        model_args: Mapping[str, Any] | None = None,
        optimizer: str = "adamw",
        optimizer_args: Mapping[str, Any] | None = None,
        lr: float = 1e-4,
        weight_decay: float = 0.05,
        layer_decay: float | None = None,
        schedule: ScheduleName = "cosine",
        schedule_args: Mapping[str, Any] | None = None,
        warmup_epochs: float = 0.0,
        warmup_steps: int | None = None,
        warmup_factor: float = 0.0,
        min_lr: float = 0.0,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.begin(data_spec)
        classes = len(self.data_spec["class_names"])
        self.model = build_detector(
            detector,
            model,
            num_classes=classes,
            in_chans=self.data_spec.get("in_chans", 3),
            **{name: self.hparams[name] for name in _BUILD},
        )
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
        self.metric = DetectionMetric(classes, masks=self.model.has_masks)
        self.last_precision: dict[str, AveragePrecision] = {}
        parts = ("box", "mask") if self.model.has_masks else ("box",)
        self.columns = tuple(f"val_{part}_{short}" for part in parts for _, short in _METRICS)

    def start_from(self, source: Source, *, partial: bool = False) -> WarmStartReport:
        """Load trained weights into the backbone; see `ctxvision.checkpoints.warm_start`."""
        return self.model.features.start_from(source, partial=partial)

    def example_input(self) -> list[Tensor]:
        """Return one black image in a list."""
        smallest = self.model.network.transform.min_size[-1]
        return [torch.zeros(self.model.in_chans, smallest, smallest, dtype=torch.float32, device="cpu")]

    def forward(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """Detect in images (C, H, W) from 0 to 1, see `Detector`; for evaluation mode."""
        found: list[dict[str, Tensor]] = self.model([image.to(self.dtype) for image in images])
        return found

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the sum of the losses of a batch; without images (all of them bad) it is 0, with gradients 0."""
        images, targets = batch
        if not images:
            return self.loss_of_nothing()
        self.expect(len(images))
        losses = self.model(
            [image.to(self.dtype) for image in images], [self._typed(target) for target in targets]
        )
        for name, value in losses.items():
            self.log(f"train_{name}", value.detach(), on_step=True, on_epoch=False, batch_size=len(images))
        precise = torch.promote_types(self.dtype, torch.float32)
        loss = torch.stack([value.to(precise) for value in losses.values()]).sum()
        self.log_train_loss(loss, len(images))
        return loss

    def _typed(self, target: Mapping[str, Any]) -> dict[str, Tensor]:
        kept = {name: target[name] for name in ("boxes", "labels", "masks") if name in target}
        return kept | {"boxes": kept["boxes"].to(torch.promote_types(self.dtype, torch.float32))}

    def validation_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Tensor]] | None:
        """Compare a batch's detections with the truth; returns them for callbacks."""
        images, targets = batch
        if not images:
            return None
        found = self(images)
        self.metric.update(targets, found)
        return found

    def on_validation_epoch_start(self) -> None:
        """Begin to count."""
        self.metric.reset()

    def on_validation_epoch_end(self) -> None:
        """Report average precision over the images of all processes.

        Raises:
            TaskError: no image could be read, or there is nothing to find on any of them.
        """
        images, found = len(self.metric), self.metric.compute()
        self.metric.reset()
        if self.trainer.sanity_checking:
            return
        if not images:
            raise TaskError("not one validation image could be read")
        if found["bbox"].ap != found["bbox"].ap:
            raise TaskError("the validation images have no objects, so average precision means nothing on them")
        self.last_precision = dict(found)
        self.tell_left_out(undefined(self.data_spec["class_names"], found["bbox"].by_class))
        for part, kind in (("box", "bbox"), ("mask", "segm")):
            if kind in found:
                for name, short in _METRICS:
                    value = getattr(found[kind], name)
                    self.log(f"val_{part}_{short}", value, prog_bar=short == "ap", rank_zero_only=False)
