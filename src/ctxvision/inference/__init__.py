"""Trained networks that answer: the same call for every task and every kind of model file."""

from .answer import Answer, InferenceError, Ranked
from .classification import Classes
from .detection import FoundObject, Objects
from .opening import open_predictor, predictor_of
from .optimizing import Optimized, optimize
from .predictor import Predictor
from .segmentation import ClassShare, Pixels
from .video import Clip

__all__ = [
    "Answer",
    "ClassShare",
    "Classes",
    "Clip",
    "FoundObject",
    "InferenceError",
    "Objects",
    "Optimized",
    "Pixels",
    "Predictor",
    "Ranked",
    "open_predictor",
    "optimize",
    "predictor_of",
]
