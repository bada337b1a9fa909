"""Explanations of networks: places that speak for answers, classes that are considered, generated kernels.

`explain` explains a trained network of any task; each other function computes one thing, for any network.
"""

from .cams import BoxCam, FrameCams, GradCam, PixelCam, grad_cam
from .classes import (
    Fates,
    Funnel,
    Loss,
    StageView,
    class_embeddings,
    class_fates,
    class_funnel,
    on_a_plane,
    similarities,
)
from .detection import box_cams, box_layers
from .explanation import Explanation, ImageExplanation, Section
from .kernels import Contexts, Kernels, generated_kernels, kernel_layers
from .layers import LayerError, MapLayer, PixelGrid, map_layers, pixel_grids
from .offsets import ClassOffsets, ContextualOffsets, contextual_layers, contextual_offsets, offsets_by_class
from .pipeline import explain
from .segmentation import pixel_cams
from .video import frame_cams

__all__ = [
    "BoxCam",
    "ClassOffsets",
    "Contexts",
    "ContextualOffsets",
    "Explanation",
    "Fates",
    "FrameCams",
    "Funnel",
    "GradCam",
    "ImageExplanation",
    "Kernels",
    "LayerError",
    "Loss",
    "MapLayer",
    "PixelCam",
    "PixelGrid",
    "Section",
    "StageView",
    "box_cams",
    "box_layers",
    "class_embeddings",
    "class_fates",
    "class_funnel",
    "contextual_layers",
    "contextual_offsets",
    "explain",
    "frame_cams",
    "generated_kernels",
    "grad_cam",
    "kernel_layers",
    "map_layers",
    "offsets_by_class",
    "on_a_plane",
    "pixel_cams",
    "pixel_grids",
    "similarities",
]
