"""``ctxvision train --task detect``: boxes, and masks where the detector has them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ctxvision.training.options import INF, Ranges, TaskWord, TrainOptions, require_no_advice

if TYPE_CHECKING:
    from ctxvision.data import DataModule, DetectionData
    from ctxvision.tasks import DetectionTask

_DEFAULTS: dict[str, Any] = {
    "epochs": 12,
    "batch_size": 16,
    "lr": 1e-4,
    "weight_decay": 0.05,
    "warmup_epochs": 0.5,
}
_LARGE: dict[str, Any] = {"min_size": 800, "max_size": 1333, "anchor_sizes": [32, 64, 128, 256, 512]}


@dataclass(frozen=True)
class DetectionOptions(TrainOptions):
    """How to train a detector over a backbone.

    Args:
        detector: Kind of detector; those with mask in their name predict masks beside boxes.
        neck: Kind of the output layers of the feature pyramid.
        head: Kind of the layers of the region proposal network and of the mask head.
        box_head: Layers of the box head, either two linear layers or four convolutions and a linear layer.
        width: Number of channels of the feature pyramid and of the convolutions in the heads.
        hidden: Number of outputs of each of the box head's linear layers.
        norm: Mode of the backbone's batch norms. They are frozen, keep their statistics and train scale and shift
            (eval), train (batch), or train with statistics over all devices (sync).
        norm_in_heads: Whether the feature pyramid and the heads have batch norms too.
        frozen_stages: Number of the backbone's first stages that are not trained. The value 1 means the stem and
            the first stage, and 0 trains all.
        extra_levels_from: Feature map that the coarsest levels of RetinaNet's pyramid are computed from.
        anchor_sizes: Side in pixels of the anchors of each of the five levels. If it is null, the sides are 32 to
            512, and for small images from an eighth of their size to twice their size.
        aspect_ratios: Ratios of height to width of the anchors.
        train_proposals: Number of boxes per image that the region proposal network hands on in training.
        test_proposals: Number of boxes per image that the region proposal network hands on in evaluation.
        train_candidates: Number of boxes of each level that are compared for overlaps before that, in training. If
            it is null, it is train_proposals.
        test_candidates: The same number in evaluation. If it is null, it is test_proposals.
        sampled_rois: Number of the handed-on boxes per image that the heads are trained on.
        roi_samples: Number of points, in each direction, at which a bin of a box is read from the feature map. The
            value 0 takes as many as the bin is wide.
        roi_aligned: Whether boxes count from the centres of pixels, as in MMDetection and Detectron2, instead of
            their corners.
        score_threshold: Score below which a detection is left out.
        nms_threshold: IoU above which the lower-scored of two detections of one class is left out.
        detections: Largest number of detections in an image.
        min_size: Shorter side of an image in pixels after the resize. Of several sides one is drawn at random in
            training, and the last is used in evaluation. If it is null, it is 800, or the size of the images where
            the data are small images of one size.
        max_size: Largest longer side of an image in pixels after the resize. If it is null, it is 1333, or the
            size of the images where the data are small images of one size.
        interpolation: Filter with which images are resized.
        image_mean: Mean of each channel that images are normalised with. If it is null, it is ImageNet's.
        image_std: Standard deviation of each channel that images are normalised with. If it is null, it is
            ImageNet's.
        in_chans: Number of channels of the images, 3 for RGB and 1 for grey.
        flip: Probability that a training image is mirrored.
        empty_images: Whether to train on images without objects too.
    """

    task: TaskWord = "detection"
    data: str = "digits-scenes"
    detector: Literal["faster_rcnn", "mask_rcnn", "cascade_rcnn", "cascade_mask_rcnn", "retinanet"] = "faster_rcnn"
    neck: Literal["convolution", "involution"] = "convolution"
    head: Literal["convolution", "involution"] = "convolution"
    box_head: Literal["2fc", "4conv1fc"] = "2fc"
    width: int = 256
    hidden: int = 1024
    norm: Literal["frozen", "eval", "batch", "sync"] = "frozen"
    norm_in_heads: bool = False
    frozen_stages: int = 0
    extra_levels_from: Literal["backbone", "pyramid"] = "backbone"
    anchor_sizes: list[int] | None = None
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    train_proposals: int = 2000
    test_proposals: int = 1000
    train_candidates: int | None = None
    test_candidates: int | None = None
    sampled_rois: int = 512
    roi_samples: int = 2
    roi_aligned: bool = False
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections: int = 100
    min_size: int | list[int] | None = None
    max_size: int | None = None
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    image_mean: list[float] | None = None
    image_std: list[float] | None = None
    in_chans: Literal[1, 3] = 3
    flip: float = 0.5
    empty_images: bool = True

    ranges: ClassVar[Ranges] = (
        ("width hidden train_proposals test_proposals sampled_rois detections max_size", 1, INF),
        ("train_candidates test_candidates", 1, INF),
        ("frozen_stages roi_samples", 0, INF),
        ("score_threshold nms_threshold flip", 0, 1),
    )

    def defaults(self, processors: int) -> dict[str, Any]:
        """Return the values of options that are null; the embedded scenes are made in memory."""
        embedded = self.data.startswith("digits-scenes")
        return _DEFAULTS | {"workers": 0 if embedded else min(processors, 8)}

    def open_data(self, batch_size: int, class_names: Sequence[str] | None = None) -> "DetectionData":
        """Open COCO's layout, annotation files or the embedded scenes."""
        from ctxvision.data import DetectionData

        require_no_advice(self.data, "detection")
        options = self.only(DetectionData.option_names()) | {"batch_size": batch_size}
        return DetectionData(self.data, masks="mask" in self.detector, **options)

    def build_task(self, data: "DataModule") -> "DetectionTask":
        """Build a `DetectionTask`; small images keep their size."""
        from ctxvision.tasks import DetectionTask

        fitting = _LARGE if data.image_size is None else _fitting(data.image_size)
        fitted = {name: value for name, value in fitting.items() if getattr(self, name) is None}
        return DetectionTask.from_options(self.model or "", data.spec, dataclasses.replace(self, **fitted))


def _fitting(size: int) -> dict[str, Any]:
    """Return sizes for small images that are all alike."""
    return {
        "min_size": size,
        "max_size": size,
        "anchor_sizes": [max(1, round(size * 2.0**i / 8)) for i in range(5)],
    }
