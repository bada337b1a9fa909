"""Images with boxes and masks, in COCO's format or embedded."""

from .data import DetectionData
from .dataset import DetectionDataset
from .scenes import export_coco
from .source import find_detection
from .spec import DetectionSpec

__all__ = ["DetectionData", "DetectionDataset", "DetectionSpec", "export_coco", "find_detection"]
