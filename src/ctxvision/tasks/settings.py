"""The settings of the optimiser that all tasks share; to read them needs no torch."""

from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

ScheduleName = Literal["cosine", "poly", "step", "multistep"]


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimiser and the schedule as far as no task has defaults of its own for them.

    Args:
        optimizer: Name of one of timm's optimisers, such as adamw, lamb or muon. The name sgd means Nesterov
            momentum, and momentum means plain momentum.
        optimizer_args: More arguments of the optimiser's constructor, such as betas or eps, as JSON or YAML. Null
            means no more arguments.
        layer_decay: Ratio of the learning rates of neighbouring layers, more than 0 and at most 1. If it is null,
            all layers have the same learning rate.
        offset_lr_scale: Share of the learning rate that the generators of weight and sampling offsets have, more
            than 0. The papers' authors have 1; at high rates 0.1 learns faster. Other networks have none of them.
        schedule: Shape of the learning rate after the warm-up.
        schedule_args: More arguments of timm's schedule, such as decay_milestones and decay_rate (of poly, the
            power), as JSON or YAML. Null means no more arguments.
        warmup_steps: Number of optimiser steps during which the learning rate rises, instead of --warmup-epochs.
            If it is null, --warmup-epochs counts.
        warmup_factor: Share of the learning rate that the warm-up begins with, from 0 to 1.
        min_lr: Learning rate at the end of the schedules cosine and poly.
        cooldown_epochs: Number of epochs at the end during which the learning rate of cosine and poly stays at
            min_lr.
        decay_norms: Whether weight decay takes norms and biases too, as in OpenMMLab's recipes; what a network's
            ``no_weight_decay`` names, such as class embeddings, is spared all the same.
    """

    _: KW_ONLY
    optimizer: str = "adamw"
    optimizer_args: dict[str, Any] | None = None
    layer_decay: float | None = None
    offset_lr_scale: float = 1.0
    schedule: ScheduleName = "cosine"
    schedule_args: dict[str, Any] | None = None
    warmup_steps: int | None = None
    warmup_factor: float = 0.0
    min_lr: float = 0.0
    cooldown_epochs: float = 0.0
    decay_norms: bool = False
