"""Look into a trained network: what it predicts, where it errs, what it looks at, which classes it considers."""

from ctxvision.runs import Epoch, Run, read_run
from ctxvision.tasks.classification.class_sets import FunnelStep, funnel_steps, is_contextual

from .embeddings import class_embeddings, on_a_plane, similarities
from .error import ReportError
from .fates import Fates, class_fates
from .funnel import Funnel, StageView, class_funnel
from .generated_kernels import Contexts, Kernels, generated_kernels, kernel_layers
from .grad_cam import GradCam, grad_cam
from .layers import LayerError, MapLayer, map_layers
from .offsets import Bend, ClassBend, bend_by_class, bends, contextual_layers
from .pixel_grid import PixelGrid, pixel_grids

__all__ = [
    "Bend",
    "ClassBend",
    "Contexts",
    "Epoch",
    "Fates",
    "Funnel",
    "FunnelStep",
    "GradCam",
    "Kernels",
    "LayerError",
    "MapLayer",
    "PixelGrid",
    "ReportError",
    "Run",
    "StageView",
    "bend_by_class",
    "bends",
    "class_embeddings",
    "class_fates",
    "class_funnel",
    "contextual_layers",
    "funnel_steps",
    "generated_kernels",
    "grad_cam",
    "is_contextual",
    "kernel_layers",
    "map_layers",
    "on_a_plane",
    "pixel_grids",
    "read_run",
    "similarities",
]
