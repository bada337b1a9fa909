"""Layers of the three families: they own parameters, the operators in `ctxvision.ops` do the work."""

from ctxvision.nn.class_context import ClassContext, ClassStep, class_counts
from ctxvision.nn.contextual_conv import ContextualConv2d
from ctxvision.nn.contextual_loss import ContextualLoss
from ctxvision.nn.cot import CoTLayer
from ctxvision.nn.funnel import ClassFunnel, ContextualOutput
from ctxvision.nn.fusing import fuse
from ctxvision.nn.involution import Involution2d
from ctxvision.nn.split_attention import SplitAttention2d
from ctxvision.nn.surgery import ConvReplacement, ReplacementPlan, plan_replacements, replace_convs
from ctxvision.nn.temporal_shift import temporal_shift

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
