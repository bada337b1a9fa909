"""Training: `train` makes a run folder with checkpoints, metrics and provenance; `callbacks` serve any trainer."""

from typing import TYPE_CHECKING

from ctxvision._lazy import names_of

if TYPE_CHECKING:
    from .error import OptionError, TrainingError, TrainingStopped
    from .options import TrainOptions, options_class
    from .options.classification import ClassificationOptions
    from .options.detection import DetectionOptions
    from .options.segmentation import SegmentationOptions
    from .options.video import VideoOptions
    from .run import train

__all__ = [
    "ClassificationOptions",
    "DetectionOptions",
    "OptionError",
    "SegmentationOptions",
    "TrainOptions",
    "TrainingError",
    "TrainingStopped",
    "VideoOptions",
    "options_class",
    "train",
]

__getattr__ = names_of(
    __name__,
    {
        ".error": ["OptionError", "TrainingError", "TrainingStopped"],
        ".options": ["TrainOptions", "options_class"],
        ".options.classification": ["ClassificationOptions"],
        ".options.detection": ["DetectionOptions"],
        ".options.segmentation": ["SegmentationOptions"],
        ".options.video": ["VideoOptions"],
        ".run": ["train"],
    },
)
