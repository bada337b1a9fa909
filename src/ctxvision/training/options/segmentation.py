"""``ctxvision train --task segment``: a class for every pixel."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ctxvision.training.error import OptionError
from ctxvision.training.options import INF, Ranges, TaskWord, TrainOptions, require_no_advice
from ctxvision.wording import option

if TYPE_CHECKING:
    from ctxvision.data import DataModule, SegmentationData
    from ctxvision.tasks import SegmentationTask

log = logging.getLogger(__name__)

_DEFAULTS: dict[str, Any] = {
    "epochs": 50,
    "batch_size": 8,
    "lr": 5e-4,
    "weight_decay": 0.05,
    "warmup_epochs": 1.0,
}


@dataclass(frozen=True)
class SegmentationOptions(TrainOptions):
    """How to train a segmentation network over a backbone.

    Args:
        decoder: Kind of decoder over the backbone's feature maps, Semantic FPN or UPerNet.
        decoder_args: More arguments of the decoder's constructor, such as neck, channels or norm, as JSON or YAML.
            Null means no more arguments.
        auxiliary: Whether a small FCN on the backbone's stage 3 is trained beside the decoder. If it is null, it
            is trained beside UPerNet only.
        auxiliary_weight: Factor of the auxiliary network's loss in the sum of both losses.
        crop_size: Height and width of training crops in pixels. If it is null, the data suggest a size.
        scale: Smallest and largest random factor that the size of a training image is multiplied by.
        interpolation: Filter of that resize. Images that are evaluated keep their size.
        max_category_ratio: Largest share of one class in a training crop; up to ten crops are tried.
        flip: Probability that a training image is mirrored.
        photometric: Whether to distort the colours of training images.
        window: Height and width in pixels of a window that slides over images in evaluation. If it is null, images
            are taken whole.
        window_stride: Distances in pixels between windows, down and across. If it is null, they are two thirds of
            the window.
        eval_batch_size: Number of images in a batch in evaluation.
        class_weights: Weights of the classes in the loss, one for each class. If it is null, all weigh alike.
        in_chans: Number of channels of the images, 3 for RGB and 1 for grey.
    """

    task: TaskWord = "segmentation"
    data: str = "digits-scenes"
    decoder: Literal["semantic_fpn", "upernet"] = "semantic_fpn"
    decoder_args: dict[str, Any] | None = None
    auxiliary: bool | None = None
    auxiliary_weight: float = 0.4
    crop_size: list[int] | None = None
    scale: tuple[float, float] = (0.5, 2.0)
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    max_category_ratio: float = 0.75
    flip: float = 0.5
    photometric: bool = True
    window: list[int] | None = None
    window_stride: list[int] | None = None
    eval_batch_size: int = 1
    class_weights: list[float] | None = None
    in_chans: Literal[1, 3] = 3

    ranges: ClassVar[Ranges] = (
        ("eval_batch_size", 1, INF),
        ("auxiliary_weight", 0, INF),
        ("max_category_ratio flip", 0, 1),
    )

    def defaults(self, processors: int) -> dict[str, Any]:
        """Return the values of options that are null; the embedded scenes are made in memory."""
        embedded = self.data.startswith("digits-scenes")
        defaults = _DEFAULTS | {"workers": 0 if embedded else min(processors, 8)}
        if self.optimizer in ("sgd", "momentum"):
            # the recipe of Cityscapes
            defaults |= {"lr": 0.01, "weight_decay": 5e-4}
        return defaults

    def check(self) -> None:
        """Check sizes of two numbers, and the range of scales."""
        for name in ("crop_size", "window", "window_stride"):
            size = getattr(self, name)
            if size is not None and (len(size) != 2 or min(size) < 1):
                raise OptionError(f"{option(name)} must be [HEIGHT, WIDTH], got {size}")
        if not 0 < self.scale[0] <= self.scale[1]:
            raise OptionError(f"--scale must be [SMALLEST, LARGEST], more than 0, got {list(self.scale)}")

    def open_data(self, batch_size: int, class_names: Sequence[str] | None = None) -> "SegmentationData":
        """Open Cityscapes, folders of images and masks, or the embedded scenes."""
        from ctxvision.data import SegmentationData

        require_no_advice(self.data, "segmentation")
        options = self.only(SegmentationData.option_names()) | {"batch_size": batch_size}
        return SegmentationData(self.data, **options)

    def build_task(self, data: "DataModule") -> "SegmentationTask":
        """Build a `SegmentationTask`."""
        from ctxvision.tasks import SegmentationTask

        return SegmentationTask.from_options(self.model or "", data.spec, self._for_classes(data.spec.class_names))

    def _for_classes(self, names: Sequence[str]) -> "SegmentationOptions":
        """Leave out weights that a recipe made for other classes."""
        given = self.class_weights
        if given is None or len(given) == len(names) or given != self.recipe_settings.get("class_weights"):
            return self
        log.warning(
            f"recipe {self.recipe}: its {len(given)} class weights are not for these {len(names)} classes, which "
            "all weigh alike"
        )
        return replace(self, class_weights=None)
