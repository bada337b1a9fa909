"""What the papers report for the same ablations: ImageNet-1k top-1 of networks of ResNet-50's depth, per cent."""

from collections.abc import Mapping
from typing import NamedTuple


class Published(NamedTuple):
    """A published accuracy."""

    top1: float
    source: str


_CONTEXTUAL, _COT = "Contextual CNN, Table", "CoTNet, Table"

PUBLISHED: Mapping[str, Published] = {
    "plain": Published(76.58, f"{_CONTEXTUAL} 4, a1"),
    "deformable": Published(77.24, f"{_CONTEXTUAL} 4, a4 (with DCNv2's modulation)"),
    "extra_input": Published(77.18, f"{_CONTEXTUAL} 4, a2"),
    "weight_offsets": Published(78.30, f"{_CONTEXTUAL} 5, b2"),
    "contextual": Published(79.35, f"{_CONTEXTUAL} 4, a5"),
    "no_prior": Published(77.59, f"{_CONTEXTUAL} 4, a3"),
    "resnet": Published(77.3, f"{_COT} 6"),
    "cot_static": Published(77.1, f"{_COT} 5"),
    "cot_dynamic": Published(78.5, f"{_COT} 5"),
    "cot_linear": Published(78.7, f"{_COT} 5"),
    "cot": Published(79.2, f"{_COT} 5"),
}
"""Involution is missing: its authors trained it with another recipe and beside another ResNet-50."""

COMPARISONS: tuple[tuple[str, str], ...] = (
    ("deformable", "plain"),
    ("extra_input", "plain"),
    ("weight_offsets", "plain"),
    ("no_prior", "plain"),
    ("no_prior", "deformable"),
    ("contextual", "plain"),
    ("contextual", "deformable"),
    ("contextual", "extra_input"),
    ("contextual", "weight_offsets"),
    ("contextual", "no_prior"),
    ("contextual", "zero_prior"),
    ("contextual", "contextual_reduce"),
    ("zero_prior", "no_prior"),
    ("centred", "contextual"),
    ("centred", "zero_prior"),
    ("weighted", "contextual"),
    ("weighted", "zero_prior"),
    ("deformable", "deformable_one_rate"),
    ("no_prior", "no_prior_one_rate"),
    ("zero_prior", "zero_prior_one_rate"),
    ("contextual", "contextual_one_rate"),
    ("contextual_reduce", "contextual_reduce_one_rate"),
    ("contextual_one_rate", "zero_prior_one_rate"),
    ("contextual_one_rate", "contextual_reduce_one_rate"),
    ("centred_one_rate", "contextual_one_rate"),
    ("weighted_one_rate", "contextual_one_rate"),
    ("no_prior_one_rate", "plain"),
    ("cot_static", "resnet"),
    ("cot_dynamic", "resnet"),
    ("cot_linear", "resnet"),
    ("cot", "resnet"),
    ("cot", "involution"),
    ("involution", "resnet"),
    ("cot_dynamic", "cot_static"),
    ("cot_linear", "cot_dynamic"),
    ("cot", "cot_linear"),
    ("cot", "cot_static"),
)
"""Pairs whose difference is reported: each step of the papers' tables, and each family against its start."""


def published_difference(first: str, second: str) -> float | None:
    """Return by how much the papers find ``first`` better, ``None`` where they do not say."""
    if first not in PUBLISHED or second not in PUBLISHED:
        return None
    return PUBLISHED[first].top1 - PUBLISHED[second].top1
