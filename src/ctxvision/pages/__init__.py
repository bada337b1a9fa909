"""Reports, evaluations and explanations as HTML pages that need no other file, no script and no font."""

from .report import Report, make_report, render_scores, write_report

__all__ = ["Report", "make_report", "render_scores", "write_report"]
