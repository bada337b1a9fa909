"""Images with a class for every pixel: folders of masks, Cityscapes, or embedded."""

from .cityscapes import export_cityscapes
from .data import SegmentationData, find_pixels
from .source import SegmentationSpec

__all__ = ["SegmentationData", "SegmentationSpec", "export_cityscapes", "find_pixels"]
