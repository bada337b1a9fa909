"""The three families, registered with timm on import, and what their papers report."""

from ctxvision.models._figures import PaperResult, count_macs, paper_result
from ctxvision.models.contextual import ContextualNet
from ctxvision.models.cotnet import CoTNet
from ctxvision.models.rednet import RedNet

__all__ = ["CoTNet", "ContextualNet", "PaperResult", "RedNet", "count_macs", "paper_result"]
