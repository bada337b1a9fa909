"""``ctxvision train --task segment``: a class for every pixel."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ctxvision.training.error import OptionError

from .base import INF, Ranges, TrainConfig

if TYPE_CHECKING:
    from ctxvision.data.segmentation.data import SegmentationData
    from ctxvision.tasks.segmentation import SegmentationTask

_DATA = (
    "crop_size", "in_chans", "scale", "max_category_ratio", "flip", "photometric", "val_fraction", "split_seed",
    "seed", "workers", "prefetch", "strict", "eval_batch_size",
)  # fmt: skip
_TASK = (
    "model_args", "drop_path_rate", "decoder", "decoder_args", "auxiliary", "auxiliary_weight", "window",
    "window_stride", "class_weights", "optimizer", "optimizer_args", "lr", "weight_decay", "layer_decay",
    "schedule", "schedule_args", "warmup_epochs", "warmup_steps", "warmup_factor", "min_lr", "channels_last",
)  # fmt: skip
_DEFAULTS: dict[str, Any] = {
    "epochs": 50,
    "batch_size": 8,
    "lr": 5e-4,
    "weight_decay": 0.05,
    "warmup_epochs": 1.0,
}


@dataclass(frozen=True)
class SegmentConfig(TrainConfig):
    """How to train a segmentation network over a backbone.

    Args:
        decoder: Semantic FPN or UPerNet.
        decoder_args: more arguments of the decoder, such as neck, channels or norm.
        auxiliary: a small FCN on stage 3 learns beside the decoder; by default beside UPerNet.
        auxiliary_weight: of its loss.
        crop_size: height and width of training crops; by default what the data suggest.
        scale: smallest and largest random factor on the size of a training image.
        max_category_ratio: largest share of one class in a training crop; ten tries.
        flip: probability that a training image is mirrored.
        photometric: distort the colours of training images.
        window: height and width of a sliding window in evaluation; by default images are taken whole.
        window_stride: between windows; by default two thirds of them.
        eval_batch_size: images at a time in evaluation.
        class_weights: of the loss, one for each class.
        in_chans: 3 for RGB, 1 for grey.
        val_fraction: share held out where the data have no validation part.
        split_seed: chooses which images are held out.
    """

    data: str = "digits-scenes"
    decoder: Literal["semantic_fpn", "upernet"] = "semantic_fpn"
    decoder_args: dict[str, Any] | None = None
    auxiliary: bool | None = None
    auxiliary_weight: float = 0.4
    crop_size: list[int] | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    max_category_ratio: float = 0.75
    flip: float = 0.5
    photometric: bool = True
    window: list[int] | None = None
    window_stride: list[int] | None = None
    eval_batch_size: int = 1
    class_weights: list[float] | None = None
    in_chans: Literal[1, 3] = 3
    val_fraction: float = 0.2
    split_seed: int = 0

    ranges: ClassVar[Ranges] = (
        ("eval_batch_size", 1, INF),
        ("auxiliary_weight split_seed", 0, INF),
        ("max_category_ratio flip", 0, 1),
    )

    def defaults(self, processors: int) -> dict[str, Any]:
        """Return settings for so many processors; the scenes are made in memory."""
        embedded = self.data.startswith("digits-scenes")
        defaults = _DEFAULTS | {"workers": 0 if embedded else min(processors, 8)}
        if self.optimizer in ("sgd", "momentum"):
            # the recipe of Cityscapes
            defaults |= {"lr": 0.01, "weight_decay": 5e-4}
        return defaults

    def check(self) -> None:
        """Check sizes and the split."""
        if not 0 < self.val_fraction < 1:
            raise OptionError(f"--val_fraction must be more than 0 and less than 1, got {self.val_fraction}")
        for name in ("crop_size", "window", "window_stride"):
            size = getattr(self, name)
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise OptionError(f"--{name} must be [HEIGHT, WIDTH], got {size}")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise OptionError(f"--scale must be [SMALLEST, LARGEST], more than 0, got {list(self.scale)}")

    def open_data(self, batch_size: int, class_names: Sequence[str] | None = None) -> "SegmentationData":
        """Open Cityscapes, folders of images and masks, or the embedded scenes."""
        from ctxvision.data.segmentation.data import SegmentationData

        return SegmentationData(self.data, batch_size=batch_size, **{name: getattr(self, name) for name in _DATA})

    def build_task(self, data: Any) -> "SegmentationTask":
        """Build a `SegmentationTask`."""
        from ctxvision.tasks.segmentation import SegmentationTask

        options = {name: getattr(self, name) for name in _TASK}
        return SegmentationTask(self.model or "", data.spec.to_dict(), **options)
