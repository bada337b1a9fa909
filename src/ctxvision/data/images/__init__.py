"""Images with one class each: folders, tables, shards, ImageNet, CIFAR, Hugging Face data sets."""

from .data import DataSpec, ImageData, ImageDataset
from .reading import list_images, read_image
from .source import find_images

__all__ = ["DataSpec", "ImageData", "ImageDataset", "find_images", "list_images", "read_image"]
