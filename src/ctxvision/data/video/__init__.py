"""Videos with one class each: folders, tables, or embedded clips."""

from .clips import ClipSpec
from .data import VideoData

__all__ = ["ClipSpec", "VideoData"]
