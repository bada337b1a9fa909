"""Semantic segmentation: Semantic FPN and UPerNet over any backbone, mean IoU, whole images and windows."""

from .inference import Segmentation, image_logits, segment, window_places
from .metric import IoU, PixelConfusion, intersection_over_union
from .network import SegmentationNetwork, build_network
from .semantic_fpn import SemanticFPN
from .task import SegmentationTask
from .upernet import UPerNet

__all__ = [
    "IoU",
    "PixelConfusion",
    "Segmentation",
    "SegmentationNetwork",
    "SegmentationTask",
    "SemanticFPN",
    "UPerNet",
    "build_network",
    "image_logits",
    "intersection_over_union",
    "segment",
    "window_places",
]
