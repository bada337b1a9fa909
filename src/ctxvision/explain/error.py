"""What can go wrong when a run is to be explained."""

from ctxvision.runs import RunError as ReportError

__all__ = ["ReportError"]
