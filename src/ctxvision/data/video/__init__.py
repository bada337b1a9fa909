"""Videos with one class each: folders, tables, or embedded clips."""

from .clips import ClipSpec
from .data import ClipDataset, VideoData
from .reading import VideoFile
from .source import VIDEO_SUFFIXES, find_videos, list_videos
from .track import BadVideoError
from .writing import export_moving_digits, write_video

__all__ = [
    "VIDEO_SUFFIXES",
    "BadVideoError",
    "ClipDataset",
    "ClipSpec",
    "VideoData",
    "VideoFile",
    "export_moving_digits",
    "find_videos",
    "list_videos",
    "write_video",
]
