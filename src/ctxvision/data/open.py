"""One way to open whatever DATA names, for every task."""

import logging
import os
from typing import Any, Literal, overload

from .detection.data import DetectionData
from .embedded.digits import DigitsData
from .error import DataError
from .images.data import ImageData
from .module import DataModule
from .options import split_options
from .recognize import about_a_word
from .segmentation.data import SegmentationData
from .spec import Spec
from .video.data import VideoData

_log = logging.getLogger(__name__)

_MODULES: tuple[type[DataModule], ...] = (DigitsData, ImageData, DetectionData, SegmentationData, VideoData)
_EMBEDDED = ("digits", "digits-scenes", "moving-digits")

Source = str | os.PathLike[str]


@overload
def open_data(source: Source, task: Literal["detection"], **options: Any) -> DetectionData: ...
@overload
def open_data(source: Source, task: Literal["segmentation"], **options: Any) -> SegmentationData: ...
@overload
def open_data(source: Source, task: Literal["video"], **options: Any) -> VideoData: ...
@overload
def open_data(source: Source, task: Literal["classification"] = ..., **options: Any) -> DigitsData | ImageData: ...
@overload
def open_data(source: Source, task: str, **options: Any) -> DataModule: ...
def open_data(source: Source, task: str = "classification", **options: Any) -> DataModule:
    """Open whatever a DATA argument names.

    Args:
        source: The source: for classification ``digits`` or a source of `find_images`, for detection one of
            `find_detection`, for segmentation one of `find_pixels`, for video one of `find_videos`.
        task: The name of the task that the data are for.
        options: The options of `ImageData`, `DetectionData`, `SegmentationData` or `VideoData`. An option that is
            ``None`` keeps its default. The digits, which are in memory, take the options of `ImageData`, leave out
            those that have no meaning for them, and refuse those of augmentation.

    Raises:
        DataError: There is no such task, or the source cannot be used.

    Examples:
        >>> open_data("digits").spec.class_names[:3]
        ('0', '1', '2')
        >>> open_data("digits-scenes#train=2,val=2", "segmentation").spec.input_size
        (3, 96, 96)
    """
    given = {name: value for name, value in options.items() if value is not None}
    return next(module for module in _modules(task) if module.reads(source)).from_options(source, **given)


def open_for_evaluation(
    source: Source, spec: Spec, task: str = "classification", *, split: str | None = None, **options: Any
) -> tuple[DataModule, str]:
    """Open the part of a source that a trained network has not seen.

    Args:
        source: The source, see `open_data`.
        spec: The description of the network's data.
        task: The name of the network's task.
        split: The part to open: ``"val"``, ``"train"`` or ``"all"``. By default it is the validation part. For
            classification it is every image where the source has no validation part of its own and is not what was
            split for training.
        options: The options of the data module, see `open_data`.

    Returns:
        The data module, whose ``val_dataloader`` reads the part, and the name of the part.

    Raises:
        DataError: The source cannot be used, or has classes that the network lacks.
    """
    if not os.path.exists(source) and (advice := about_a_word(source, task)):
        raise DataError(advice)

    def opened(eval_split: str) -> DataModule:
        return open_data(source, task, spec=spec, eval_split=eval_split, **options)

    if split or task != "classification":
        return opened(split or "val"), split or "val"
    everything = opened("all")
    if everything.fingerprint in ("", spec.fingerprint):
        return opened("val"), "val"
    if spec.fingerprint:
        _log.warning(
            "not exactly the images that were split for training: all are scored, and some may have been trained "
            "on; --split val takes the part that is held out by name"
        )
    return everything, "all"


def spec_class(task: str) -> type[Spec]:
    """Return the class that describes the data of a task.

    Args:
        task: The name of the task.

    Raises:
        DataError: There is no such task.

    Examples:
        >>> spec_class("detection").__name__
        'DetectionSpec'
    """
    return _modules(task)[0].spec_class


def is_embedded(source: Source) -> bool:
    """Tell whether a source comes with this library and is made in memory, so that workers would only cost time.

    Examples:
        >>> is_embedded("digits-scenes#train=100"), is_embedded("photographs")
        (True, False)
    """
    return split_options(os.fspath(source))[0] in _EMBEDDED


def _modules(task: str) -> list[type[DataModule]]:
    found = [module for module in _MODULES if module.task == task]
    if not found:
        raise DataError(f"there is no task {task!r}; there are {', '.join(sorted({m.task for m in _MODULES}))}")
    return found
