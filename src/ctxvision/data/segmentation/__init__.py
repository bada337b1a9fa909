"""Images with a class for every pixel: folders of masks, Cityscapes, or embedded."""

from .data import SegmentationData, find_pixels
from .scenes import export_cityscapes
from .spec import SegmentationSpec

__all__ = ["SegmentationData", "SegmentationSpec", "export_cityscapes", "find_pixels"]
