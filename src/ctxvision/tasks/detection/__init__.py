"""Detection and instance segmentation: torchvision's detectors over any backbone, with Cascade R-CNN."""

from .build import DetectorName, build_detector
from .detector import Detector, count_detector_macs
from .task import DetectionTask

__all__ = [
    "DetectionTask",
    "Detector",
    "DetectorName",
    "build_detector",
    "count_detector_macs",
]
