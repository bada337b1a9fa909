"""Detection and instance segmentation: torchvision's detectors over any backbone, with Cascade R-CNN."""

from .build import DetectorName, build_detector
from .detector import Detector

__all__ = ["Detector", "DetectorName", "build_detector"]
