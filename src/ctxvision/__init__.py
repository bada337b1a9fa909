"""Context-aware vision backbones: CoTNet, RedNet and Contextual CNN; importing registers them with timm.

That happens as soon as timm is there too: before or after this package, whoever imports it. Until then nothing
heavy is imported, so that a command answers at once.
"""

from typing import TYPE_CHECKING

from ._lazy import names_of, register_when_possible
from ._version import __version__

if TYPE_CHECKING:
    from . import models

__all__ = ["__version__", "models"]

__getattr__ = names_of(__name__, {".models": []})
register_when_possible()
