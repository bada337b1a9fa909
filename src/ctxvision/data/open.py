"""One way to open whatever DATA names, for training and for evaluation."""

from typing import Any

from .embedded.digits import DigitsData
from .error import DataError
from .images.data import ImageData

_ONLY_IMAGES = ("auto_augment", "color_jitter", "random_erasing")
_NOT_DIGITS = (*_ONLY_IMAGES, "workers", "prefetch", "strict", "crop_scale", "class_names")


def open_data(data: str, **options: Any) -> DigitsData | ImageData:
    """Open ``digits`` or any source that `find_images` knows.

    Args:
        data: the source.
        options: of `ImageData`; those that are ``None`` keep their defaults. The digits are in memory and
            have their own augmentation: they need no workers, and refuse the options of augmentation.

    Raises:
        DataError: see `ImageData` and `DigitsData`.
    """
    options = {name: value for name, value in options.items() if value is not None}
    if data != "digits":
        return ImageData(data, **options)
    ignored = [name for name in _ONLY_IMAGES if options.get(name)]
    if ignored:
        raise DataError(f"{ignored[0]} is for images in files; digits have their own augmentation")
    return DigitsData(**{name: value for name, value in options.items() if name not in _NOT_DIGITS})
