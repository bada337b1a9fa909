"""Images with boxes and masks, in COCO's format or embedded."""

from .data import DetectionData
from .spec import DetectionSpec

__all__ = ["DetectionData", "DetectionSpec"]
