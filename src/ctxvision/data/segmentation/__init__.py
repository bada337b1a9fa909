"""Images with a class for every pixel: folders of masks, Cityscapes, or embedded."""

from .data import SegmentationData
from .spec import SegmentationSpec

__all__ = ["SegmentationData", "SegmentationSpec"]
