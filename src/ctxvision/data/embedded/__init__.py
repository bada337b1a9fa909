"""Data sets that need no download: handwritten digits, scenes of digits, moving digits."""

from .digits import DigitsData
from .moving_digits import MovingDigits
from .scenes import make_scene

__all__ = ["DigitsData", "MovingDigits", "make_scene"]
