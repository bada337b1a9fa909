"""Layers of the three families: they own parameters, the operators in `ctxvision.ops` do the work."""

from .class_context import ClassContext, ClassStep, class_counts
from .contextual_conv import ContextualConv2d
from .contextual_loss import ContextualLoss
from .cot import CoTLayer
from .funnel import ClassFunnel, ContextualOutput
from .fusing import fuse
from .involution import Involution2d
from .shifting import temporal_shift
from .split_attention import SplitAttention2d
from .surgery import ConvReplacement, ReplacementPlan, plan_replacements, replace_convs

__all__ = [
    "ClassContext",
    "ClassFunnel",
    "ClassStep",
    "CoTLayer",
    "ContextualConv2d",
    "ContextualLoss",
    "ContextualOutput",
    "ConvReplacement",
    "Involution2d",
    "ReplacementPlan",
    "SplitAttention2d",
    "class_counts",
    "fuse",
    "plan_replacements",
    "replace_convs",
    "temporal_shift",
]
