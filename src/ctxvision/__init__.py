"""Context-aware vision backbones: CoTNet, RedNet and Contextual CNN; importing registers them with timm."""

from ctxvision import models
from ctxvision._version import __version__

__all__ = ["__version__", "models"]
