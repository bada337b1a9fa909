"""Images in, batches out: folders, tables, shards and more, as LightningDataModules."""

from .contents import Contents
from .detection import DetectionData, DetectionSpec
from .embedded.digits import DigitsData
from .error import BadImageError, DataError
from .images.data import ImageData
from .images.reading import list_images, read_image
from .open import open_data
from .segmentation import SegmentationData, SegmentationSpec
from .source import find_images
from .spec import DataSpec
from .video import ClipSpec, VideoData

__all__ = [
    "BadImageError",
    "ClipSpec",
    "Contents",
    "DataError",
    "DataSpec",
    "DetectionData",
    "DetectionSpec",
    "DigitsData",
    "ImageData",
    "SegmentationData",
    "SegmentationSpec",
    "VideoData",
    "find_images",
    "list_images",
    "open_data",
    "read_image",
]
