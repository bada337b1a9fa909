"""Explanations of networks: places that speak for answers, classes that are considered, generated kernels.

`explain` explains a trained network of any task; each other function computes one thing, for any network.
"""

from .cams import BoxCam, FrameCams, GradCam, PixelCam, grad_cam
from .detection import box_cams, box_layers
from .embeddings import class_embeddings, on_a_plane, similarities
from .explanation import Explanation, ImageExplanation, Section
from .fates import Fates, class_fates
from .funnel import Funnel, Loss, StageView, class_funnel
from .kernels import Contexts, Kernels, generated_kernels, kernel_layers
from .layers import LayerError, MapLayer, map_layers
from .offsets import ClassOffsets, ContextualOffsets, contextual_layers, contextual_offsets, offsets_by_class
from .pipeline import explain
from .pixel_grid import PixelGrid, pixel_grids
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
