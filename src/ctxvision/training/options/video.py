"""``ctxvision train --task video``: one class for every video."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ctxvision.training.error import OptionError

from .base import INF, Ranges, TrainConfig

if TYPE_CHECKING:
    from ctxvision.data.video.data import VideoData
    from ctxvision.tasks.video import VideoTask

_DATA = (
    "image_size", "frames", "val_fraction", "split_seed", "seed", "workers", "prefetch", "strict", "flip", "crop",
)  # fmt: skip
_TASK = (
    "shift", "shift_divisor", "model_args", "drop_path_rate", "dropout", "optimizer", "optimizer_args", "lr",
    "weight_decay", "layer_decay", "schedule", "schedule_args", "warmup_epochs", "warmup_steps", "warmup_factor",
    "min_lr", "label_smoothing", "channels_last",
)  # fmt: skip
_DEFAULTS: dict[str, Any] = {
    "epochs": 30,
    "batch_size": 16,
    "lr": 5e-4,
    "weight_decay": 0.05,
    "warmup_epochs": 1.0,
}


@dataclass(frozen=True)
class VideoConfig(TrainConfig):
    """How to train a network with temporal shifts.

    Args:
        shift: channels come from both sides in time, from the past alone (streams), or stay (none, the control).
        shift_divisor: 8 shifts an eighth of the channels each way.
        frames: of a clip.
        dropout: before the classifier.
        label_smoothing: share of the target spread over all classes.
        image_size: height and width of the input; by default 224, and that of the embedded clips.
        flip: mirror half of the training videos; by default unless the classes are directions.
        crop: random crops in training; by default unless the classes are directions.
        val_fraction: share of each class held out where the data have no validation part.
        split_seed: chooses which videos are held out.
    """

    data: str = "moving-digits"
    shift: Literal["both", "past", "none"] = "both"
    shift_divisor: int = 8
    frames: int = 8
    dropout: float = 0.5
    label_smoothing: float = 0.0
    image_size: int | None = None
    flip: bool | None = None
    crop: bool | None = None
    val_fraction: float = 0.2
    split_seed: int = 0

    ranges: ClassVar[Ranges] = (
        ("image_size", 8, INF),
        ("frames", 1, INF),
        ("shift_divisor", 2, INF),
        ("split_seed", 0, INF),
        ("dropout label_smoothing", 0, 1),
    )

    def defaults(self, processors: int) -> dict[str, Any]:
        """Return settings for so many processors; the embedded clips are made in memory."""
        embedded = self.data.startswith("moving-digits")
        defaults = _DEFAULTS | {"workers": 0 if embedded else min(processors, 8)}
        if self.optimizer in ("sgd", "momentum"):
            # the recipe of Kinetics
            defaults |= {"lr": 0.01, "weight_decay": 1e-4}
        return defaults

    def check(self) -> None:
        """Check the split."""
        if not 0 < self.val_fraction < 1:
            raise OptionError(f"--val_fraction must be more than 0 and less than 1, got {self.val_fraction}")

    def open_data(self, batch_size: int, class_names: Sequence[str] | None = None) -> "VideoData":
        """Open folders, tables or the embedded clips."""
        from ctxvision.data.video.data import VideoData

        options = {name: getattr(self, name) for name in _DATA}
        return VideoData(self.data, batch_size=batch_size, class_names=class_names, **options)

    def build_task(self, data: Any) -> "VideoTask":
        """Build a `VideoTask`."""
        from ctxvision.tasks.video import VideoTask

        options = {name: getattr(self, name) for name in _TASK}
        return VideoTask(self.model or "", data.spec.to_dict(), **options)
