"""Published checkpoints and plain networks' weights → our networks, without running code from a file."""

from .class_fitting import ClassFit, PlainClassifier, fit_classes
from .conversion import ConversionReport, convert
from .error import CheckpointError
from .published import from_published
from .reading import read_state_dict
from .warm_starting import WarmStartReport, warm_start

__all__ = [
    "CheckpointError",
    "ClassFit",
    "ConversionReport",
    "PlainClassifier",
    "WarmStartReport",
    "convert",
    "fit_classes",
    "from_published",
    "read_state_dict",
    "warm_start",
]
