"""``ctxvision train --task detect``: boxes, and masks where the detector has them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ctxvision.training.error import OptionError

from .base import INF, Ranges, TrainConfig

if TYPE_CHECKING:
    from ctxvision.data.detection.data import DetectionData
    from ctxvision.tasks.detection import DetectionTask

_DATA = ("in_chans", "flip", "empty_images", "val_fraction", "split_seed", "seed", "workers", "prefetch", "strict")
_TASK = (
    "detector", "neck", "head", "box_head", "width", "hidden", "norm", "norm_in_heads", "frozen_stages",
    "extra_levels_from", "aspect_ratios", "train_proposals", "test_proposals", "sampled_rois", "score_threshold",
    "nms_threshold", "detections", "image_mean", "image_std", "drop_path_rate", "model_args", "optimizer",
    "optimizer_args", "lr", "weight_decay", "layer_decay", "schedule", "schedule_args", "warmup_epochs",
    "warmup_steps", "warmup_factor", "min_lr", "channels_last",
)  # fmt: skip
_DEFAULTS: dict[str, Any] = {
    "epochs": 12,
    "batch_size": 16,
    "lr": 1e-4,
    "weight_decay": 0.05,
    "warmup_epochs": 0.5,
}
_LARGE: dict[str, Any] = {"min_size": 800, "max_size": 1333, "anchor_sizes": [32, 64, 128, 256, 512]}


@dataclass(frozen=True)
class DetectConfig(TrainConfig):
    """How to train a detector over a backbone.

    Args:
        detector: boxes, or boxes and masks.
        neck: output layers of the feature pyramid.
        head: layers of the region proposal network and of the mask head.
        box_head: two linear layers, or four convolutions and a linear layer.
        width: channels of the feature pyramid and of the heads' convolutions.
        hidden: width of the box head's linear layers.
        norm: the backbone's batch norms are frozen, keep their statistics (eval), train (batch) or train over all
            devices (sync).
        norm_in_heads: batch norm also in the feature pyramid and the heads.
        frozen_stages: of the backbone; 1 is the stem and the first stage, 0 trains all.
        extra_levels_from: what RetinaNet's coarsest levels are computed from.
        anchor_sizes: side in pixels of each of the five levels; by default 32 to 512, and for small images from
            an eighth of their size to twice their size.
        aspect_ratios: height over width of the anchors.
        train_proposals: boxes of an image that the region proposal network hands on in training.
        test_proposals: likewise in evaluation.
        sampled_rois: of these, how many of an image train the heads.
        score_threshold: detections with a lower score are left out.
        nms_threshold: of two detections of a class with a higher IoU the lower score is left out.
        detections: at most in an image.
        min_size: shorter side after the resize, one of several at random in training, the last in evaluation; by
            default 800, and that of the images of small ones.
        max_size: longer side at most; by default 1333.
        image_mean: of each channel; by default ImageNet's.
        image_std: likewise.
        in_chans: 3 for RGB, 1 for grey.
        flip: probability that a training image is mirrored.
        empty_images: train on images without objects too.
        val_fraction: share of the images held out of a single annotation file.
        split_seed: chooses which.
    """

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
    sampled_rois: int = 512
    score_threshold: float = 0.05
    nms_threshold: float = 0.5
    detections: int = 100
    min_size: int | list[int] | None = None
    max_size: int | None = None
    image_mean: list[float] | None = None
    image_std: list[float] | None = None
    in_chans: Literal[1, 3] = 3
    flip: float = 0.5
    empty_images: bool = True
    val_fraction: float = 0.2
    split_seed: int = 0

    ranges: ClassVar[Ranges] = (
        ("width hidden train_proposals test_proposals sampled_rois detections max_size", 1, INF),
        ("frozen_stages split_seed", 0, INF),
        ("score_threshold nms_threshold flip", 0, 1),
    )

    def defaults(self, processors: int) -> dict[str, Any]:
        """Return settings for so many processors; the scenes are made in memory."""
        embedded = self.data.startswith("digits-scenes")
        return _DEFAULTS | {"workers": 0 if embedded else min(processors, 8)}

    def check(self) -> None:
        """Check the split."""
        if not 0 < self.val_fraction < 1:
            raise OptionError(f"--val_fraction must be more than 0 and less than 1, got {self.val_fraction}")

    def open_data(self, batch_size: int, class_names: Sequence[str] | None = None) -> "DetectionData":
        """Open COCO's layout, annotation files or the embedded scenes."""
        from ctxvision.data.detection.data import DetectionData

        options = {name: getattr(self, name) for name in _DATA}
        return DetectionData(self.data, batch_size=batch_size, masks="mask" in self.detector, **options)

    def build_task(self, data: Any) -> "DetectionTask":
        """Build a `DetectionTask`; small images keep their size."""
        from ctxvision.tasks.detection import DetectionTask

        options = {name: getattr(self, name) for name in _TASK}
        fitting: Mapping[str, Any] = _LARGE if data.image_size is None else _fitting(data.image_size)
        for name, value in fitting.items():
            options[name] = value if getattr(self, name) is None else getattr(self, name)
        return DetectionTask(self.model or "", data.spec.to_dict(), **options)


def _fitting(size: int) -> dict[str, Any]:
    """Return sizes for small images that are all alike."""
    return {
        "min_size": size,
        "max_size": size,
        "anchor_sizes": [max(1, round(size * 2.0**i / 8)) for i in range(5)],
    }
