"""Images in, batches out: folders of images and the embedded digits, as LightningDataModules."""

from .digits import DigitsData
from .error import BadImageError, DataError
from .image_folder import ImageFolderData
from .images import list_images, read_image
from .spec import DataSpec

__all__ = [
    "BadImageError",
    "DataError",
    "DataSpec",
    "DigitsData",
    "ImageFolderData",
    "list_images",
    "read_image",
]
