"""Images with boxes and masks, in COCO's format or embedded."""

from .data import DetectionData, DetectionDataset, DetectionSpec
from .source import export_coco, find_detection

__all__ = ["DetectionData", "DetectionDataset", "DetectionSpec", "export_coco", "find_detection"]
