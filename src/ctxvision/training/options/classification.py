"""``ctxvision train --task classify``: one class for every image."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ctxvision.training.error import OptionError

from .base import INF, Ranges, TrainConfig

log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from ctxvision.data import DigitsData, ImageData
    from ctxvision.tasks import ClassificationTask

_DATA = (
    "image_size", "in_chans", "val_fraction", "split_seed", "seed", "repeats", "workers", "prefetch", "strict",
    "auto_augment", "color_jitter", "random_erasing", "crop_scale",
)  # fmt: skip
_TASK = (
    "model_args", "dropout", "drop_path_rate", "optimizer", "optimizer_args", "lr", "weight_decay", "layer_decay",
    "schedule", "schedule_args", "warmup_epochs", "warmup_steps", "warmup_factor", "min_lr", "label_smoothing",
    "mixup", "cutmix", "mixup_prob", "mixup_switch_prob", "mixup_mode", "channels_last",
)  # fmt: skip
_OF_FILES = ("auto_augment", "color_jitter", "random_erasing")
_DIGITS: dict[str, Any] = {
    "epochs": 15,
    "batch_size": 64,
    "lr": 2e-3,
    "weight_decay": 0.05,
    "warmup_epochs": 1.0,
    "image_size": 32,
    "workers": 0,
}
_IMAGES: dict[str, Any] = {
    "epochs": 100,
    "batch_size": 128,
    "lr": 5e-4,
    "weight_decay": 0.05,
    "warmup_epochs": 5.0,
}


@dataclass(frozen=True)
class ClassifyConfig(TrainConfig):
    """How to train a classifier.

    Args:
        label_smoothing: share of the target spread over all classes.
        dropout: before the classifier.
        mixup: alpha of mixup; 0 is off.
        cutmix: alpha of cutmix; 0 is off.
        mixup_prob: share of the batches that are mixed.
        mixup_switch_prob: share of those that are cut instead of blended, where both are on.
        mixup_mode: one ratio per batch, per pair or per image.
        image_size: height and width of the input; by default 224, and that of the images of small ones.
        in_chans: 3 for RGB, 1 for grey.
        val_fraction: share of each class held out where the data have no validation part.
        split_seed: chooses which images are held out.
        auto_augment: timm's policy, for example rand-m9-mstd0.5-inc1.
        color_jitter: strength; without effect beside auto_augment.
        random_erasing: probability.
        crop_scale: smallest share of an image that a training crop covers.
        repeats: how often an image comes up in a row, augmented differently (repeated augmentation).
    """

    label_smoothing: float = 0.1
    dropout: float = 0.0
    mixup: float = 0.0
    cutmix: float = 0.0
    mixup_prob: float = 1.0
    mixup_switch_prob: float = 0.5
    mixup_mode: Literal["batch", "pair", "elem"] = "batch"
    image_size: int | None = None
    in_chans: Literal[1, 3] = 3
    val_fraction: float = 0.2
    split_seed: int = 0
    auto_augment: str | None = None
    color_jitter: float = 0.0
    random_erasing: float = 0.0
    crop_scale: float = 0.08
    repeats: int = 1

    ranges: ClassVar[Ranges] = (
        ("image_size", 8, INF),
        ("repeats", 1, INF),
        ("mixup cutmix color_jitter split_seed", 0, INF),
        ("label_smoothing dropout random_erasing mixup_prob mixup_switch_prob crop_scale", 0, 1),
    )

    def defaults(self, processors: int) -> dict[str, Any]:
        """Return settings for so many processors; digits are small and in memory."""
        defaults = _DIGITS if self.data == "digits" else _IMAGES | {"workers": min(processors, 8)}
        if self.optimizer in ("sgd", "momentum"):
            # the recipe of the CoTNet paper
            batch = self.batch_size or defaults["batch_size"]
            defaults = defaults | {"lr": 0.1 * batch / 256, "weight_decay": 1e-4}
        return dict(defaults)

    def check(self) -> None:
        """Check what has no simple range."""
        if not 0 < self.val_fraction < 1:
            raise OptionError(f"--val_fraction must be more than 0 and less than 1, got {self.val_fraction}")
        if self.crop_scale == 0:
            raise OptionError("--crop_scale must be more than 0")

    def open_data(self, batch_size: int, class_names: Sequence[str] | None = None) -> "DigitsData | ImageData":
        """Open images of any source, or the digits."""
        from ctxvision.data import open_data
        from ctxvision.recipes import load_recipe

        options: dict[str, Any] = {name: getattr(self, name) for name in _DATA}
        if self.data == "digits":
            recipe = load_recipe(self.recipe).settings_for(self.model or "") if self.recipe else {}
            for name in _OF_FILES:
                if options[name] and options[name] != recipe.get(name):
                    raise OptionError(f"--{name} is for images in files; digits have their own augmentation")
            if any(options[name] for name in _OF_FILES):
                log.warning(f"digits have their own augmentation, in place of that of the recipe {self.recipe}")
            options |= dict.fromkeys(_OF_FILES)
        return open_data(self.data, batch_size=batch_size, class_names=class_names, **options)

    def build_task(self, data: Any) -> "ClassificationTask":
        """Build a `ClassificationTask`."""
        from ctxvision.tasks import ClassificationTask

        return ClassificationTask(
            self.model or "", data.spec.to_dict(), **{name: getattr(self, name) for name in _TASK}
        )
