"""``ctxvision train --task classify``: one class for every image."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ctxvision.training.error import OptionError
from ctxvision.training.options import INF, Ranges, TaskWord, TrainOptions, require_no_advice
from ctxvision.wording import option

if TYPE_CHECKING:
    from ctxvision.data import DataModule, DigitsData, ImageData
    from ctxvision.tasks import ClassificationTask

log = logging.getLogger(__name__)

_OF_FILES = ("auto_augment", "color_jitter", "random_erasing")
_DIGITS: dict[str, Any] = {
    "epochs": 15,
    "batch_size": 64,
    "lr": 2e-3,
    "weight_decay": 0.05,
    "warmup_epochs": 1.0,
    "image_size": 32,
    "workers": 0,
    "interpolation": "bicubic",
}
_IMAGES: dict[str, Any] = {
    "epochs": 100,
    "batch_size": 128,
    "lr": 5e-4,
    "weight_decay": 0.05,
    "warmup_epochs": 5.0,
}


@dataclass(frozen=True)
class ClassificationOptions(TrainOptions):
    """How to train a classifier of images.

    Args:
        label_smoothing: Share of the target that is spread over all classes, from 0 to 1.
        stage_alpha: Weight of the loss of each stage of a contextual network beside that of the head, the alpha of
            the Contextual CNN paper. It has no effect on other networks.
        loss_classes: Classes among which the loss of a contextual stage asks for the true one, those that it still
            considered, as in the paper, or all, so that images whose class was dropped train it as well.
        dropout: Probability of dropout before the classifier.
        mixup: Parameter alpha of mixup, which blends two images. The value 0 turns mixup off.
        cutmix: Parameter alpha of CutMix, which pastes a part of one image into another. The value 0 turns CutMix
            off.
        mixup_prob: Probability that a batch is mixed at all, by either method.
        mixup_switch_prob: Probability that a mixed batch is mixed by CutMix instead of mixup, where both are on.
        mixup_mode: Whether one mixing ratio is drawn for a batch, for each pair of images or for each image
            (elem).
        image_size: Height and width of the network's input in pixels. If it is null, it is 224, or the size of the
            images where the data are small images of one size.
        interpolation: Filter with which images are resized, here and wherever the trained network is used. If it
            is null, it is that of the network's published weights, and bicubic for digits.
        crop_pct: Share of an image that the centre crop keeps in evaluation, more than 0 and at most 1. If it is
            null, it is 0.875, and 1 where the data are small images of one size.
        in_chans: Number of channels of the images, 3 for RGB and 1 for grey.
        auto_augment: Policy of augmentation in timm's notation, such as rand-m9-mstd0.5-inc1. Null means none.
        color_jitter: Strength of random changes of colour. It has no effect beside auto_augment.
        random_erasing: Probability that a part of a training image is erased.
        crop_scale: Smallest share of an image that a random training crop covers, more than 0 and at most 1.
        repeats: Number of times in a row that an image comes up in an epoch, augmented differently each time
            (repeated augmentation).
    """

    task: TaskWord = "classification"
    label_smoothing: float = 0.1
    stage_alpha: float = 0.15
    loss_classes: Literal["considered", "all"] = "considered"
    dropout: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    mixup_mode: Literal["batch", "pair", "elem"] = "batch"
    image_size: int | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] | None = None
    crop_pct: float | None = None
    in_chans: Literal[1, 3] = 3
    auto_augment: str | None = None
    color_jitter: float = 0.0
    random_erasing: float = 0.0
    crop_scale: float = 0.08
    repeats: int = 1

    ranges: ClassVar[Ranges] = (
        ("image_size", 8, INF),
        ("repeats", 1, INF),
        ("mixup cutmix color_jitter stage_alpha", 0, INF),
        ("label_smoothing dropout random_erasing mixup_prob mixup_switch_prob crop_scale crop_pct", 0, 1),
    )

    def defaults(self, processors: int) -> dict[str, Any]:
        """Return the values of options that are null; digits are small and in memory."""
        own: dict[str, Any] = {"workers": min(processors, 8)}
        if self.model:  # help is for no network, and should not wait for torch
            from ctxvision.tasks.networks import usual_interpolation

            own["interpolation"] = usual_interpolation(self.model)
        defaults = _DIGITS if self.data == "digits" else _IMAGES | own
        if self.optimizer in ("sgd", "momentum"):
            # the recipe of the CoTNet paper
            lr = 0.1 * self.batch_size / 256 if self.batch_size else None
            defaults = defaults | {"lr": lr, "weight_decay": 1e-4}
        return dict(defaults)

    @property
    def knows_images(self) -> bool:
        """Whether the data are the digits, 1437 of which are trained on."""
        return self.data == "digits" and self.largest_batch <= 128

    def check(self) -> None:
        """Check that crops cover something."""
        for name in ("crop_scale", "crop_pct"):
            if getattr(self, name) == 0:
                raise OptionError(f"{option(name)} must be more than 0")

    def open_data(self, batch_size: int, class_names: Sequence[str] | None = None) -> "DigitsData | ImageData":
        """Open images of any source, or the digits."""
        from ctxvision.data import ImageData, open_data

        require_no_advice(self.data, "classification")
        options = self.only(ImageData.option_names())
        if self.data == "digits":
            for name in _OF_FILES:
                if options[name] and options[name] != self.recipe_settings.get(name):
                    raise OptionError(f"{option(name)} is for images in files; digits have their own augmentation")
            if any(options[name] for name in _OF_FILES):
                log.warning(f"digits have their own augmentation, in place of that of the recipe {self.recipe}")
            options |= dict.fromkeys(_OF_FILES)
        return open_data(
            self.data, "classification", **options | {"batch_size": batch_size, "class_names": class_names}
        )

    def build_task(self, data: "DataModule") -> "ClassificationTask":
        """Build a `ClassificationTask`."""
        from ctxvision.tasks import ClassificationTask

        return ClassificationTask.from_options(self.model or "", data.spec, self)
