"""Video classification by networks for images: temporal shifts, consensus over frames, streams."""

from .consensus import ClipLoss, ClipOutput, clip_consensus
from .shifts import TemporalShifts, residual_layers
from .task import OnlineTsm, VideoTask

__all__ = [
    "ClipLoss",
    "ClipOutput",
    "OnlineTsm",
    "TemporalShifts",
    "VideoTask",
    "clip_consensus",
    "residual_layers",
]
