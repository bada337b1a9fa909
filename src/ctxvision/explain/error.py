"""What can go wrong when a run is to be explained."""

from ctxvision.runs import RunError as ReportError  # noqa: F401 - its name here
