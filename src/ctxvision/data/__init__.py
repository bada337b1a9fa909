"""Images in, batches out: folders, tables, shards and more, as LightningDataModules."""

from .contents import Contents
from .detection import DetectionData
from .detection_spec import DetectionSpec
from .digits import DigitsData
from .error import BadImageError, DataError
from .image_data import ImageData
from .images import list_images, read_image
from .open import open_data
from .source import find_images
from .spec import DataSpec

__all__ = [
    "BadImageError",
    "Contents",
    "DataError",
    "DataSpec",
    "DetectionData",
    "DetectionSpec",
    "DigitsData",
    "ImageData",
    "find_images",
    "list_images",
    "open_data",
    "read_image",
]
