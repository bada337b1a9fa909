"""Context-aware vision backbones: CoTNet, RedNet and Contextual CNN; importing registers them with timm."""

from . import models
from ._version import __version__

__all__ = ["__version__", "models"]
