"""Semantic segmentation: Semantic FPN and UPerNet over any backbone, mean IoU, whole images and windows."""

from .decoders import SemanticFPN, UPerNet
from .metric import IoU, PixelConfusion, intersection_over_union
from .network import Segmentation, SegmentationNetwork, build_network, image_logits, segment, window_places
from .task import SegmentationTask

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
