"""``ctxvision train --task video``: one class for every video."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ctxvision.training.options import INF, Ranges, TaskWord, TrainOptions, require_no_advice

if TYPE_CHECKING:
    from ctxvision.data import DataModule, VideoData
    from ctxvision.tasks import VideoTask

_DEFAULTS: dict[str, Any] = {
    "epochs": 30,
    "batch_size": 16,
    "lr": 5e-4,
    "weight_decay": 0.05,
    "warmup_epochs": 1.0,
}


@dataclass(frozen=True)
class VideoOptions(TrainOptions):
    """How to train a video classifier, a network of images with temporal shifts.

    Args:
        shift: Direction in which channels are shifted in time. They come from the frames on both sides, from the
            past alone (for streams), or stay where they are (none, for comparison).
        shift_divisor: Number by which the channels are divided; 8 shifts an eighth of the channels each way.
        frames: Number of frames of a clip.
        dropout: Probability of dropout before the classifier.
        label_smoothing: Share of the target that is spread over all classes, from 0 to 1.
        stage_alpha: Weight of the loss of each stage of a contextual network beside that of the head, the alpha of
            the Contextual CNN paper. It has no effect on other networks.
        loss_classes: Classes among which the loss of a contextual stage asks for the true one, those that a clip
            still considers, as in the paper, or all, so that clips whose class was dropped train it as well.
        image_size: Height and width of the network's input in pixels. If it is null, it is 224, or the size of the
            embedded clips.
        interpolation: Filter with which frames are resized, here and wherever the trained network is used.
        flip: Whether to mirror half of the training videos. If it is null, they are mirrored unless the classes
            are directions.
        crop: Whether to take random crops in training. If it is null, they are taken unless the classes are
            directions.
    """

    task: TaskWord = "video"
    data: str = "moving-digits"
    shift: Literal["both", "past", "none"] = "both"
    shift_divisor: int = 8
    frames: int = 8
    dropout: float = 0.5
    label_smoothing: float = 0.0
    stage_alpha: float = 0.15
    loss_classes: Literal["considered", "all"] = "considered"
    image_size: int | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    flip: bool | None = None
    crop: bool | None = None

    ranges: ClassVar[Ranges] = (
        ("image_size", 8, INF),
        ("frames", 1, INF),
        ("shift_divisor", 2, INF),
        ("stage_alpha", 0, INF),
        ("dropout label_smoothing", 0, 1),
    )

    def defaults(self, processors: int) -> dict[str, Any]:
        """Return the values of options that are null; the embedded clips are made in memory."""
        embedded = self.data.startswith("moving-digits")
        defaults = _DEFAULTS | {"workers": 0 if embedded else min(processors, 8)}
        if self.optimizer in ("sgd", "momentum"):
            # the recipe of Kinetics
            defaults |= {"lr": 0.01, "weight_decay": 1e-4}
        return defaults

    def open_data(self, batch_size: int, class_names: Sequence[str] | None = None) -> "VideoData":
        """Open folders, tables or the embedded clips."""
        from ctxvision.data import VideoData

        require_no_advice(self.data, "video")
        options = self.only(VideoData.option_names()) | {"batch_size": batch_size, "class_names": class_names}
        return VideoData(self.data, **options)

    def build_task(self, data: "DataModule") -> "VideoTask":
        """Build a `VideoTask`."""
        from ctxvision.tasks import VideoTask

        return VideoTask.from_options(self.model or "", data.spec, self)
