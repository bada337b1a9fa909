"""The three families, registered with timm on import, and what their papers report."""

from ._figures import PaperResult, count_macs, paper_result
from .contextual import ContextualNet
from .cotnet import CoTNet
from .rednet import RedNet

__all__ = ["CoTNet", "ContextualNet", "PaperResult", "RedNet", "count_macs", "paper_result"]
