"""timm's optimisers and learning-rate schedules, with errors that help."""

from collections.abc import Mapping
from typing import Any, Literal, get_args

from timm.optim import create_optimizer_v2, list_optimizers, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from .error import TaskError

ScheduleName = Literal["cosine", "poly", "step", "multistep"]


def build_optimizer(
    model: nn.Module,
    name: str,
    *,
    lr: float,
    weight_decay: float,
    layer_decay: float | None = None,
    args: Mapping[str, Any] | None = None,
) -> Optimizer:
    """Build one of timm's optimisers, without weight decay on norms, biases and what ``no_weight_decay`` names.

    Args:
        model: whose parameters are trained.
        name: timm's.
        lr: highest learning rate.
        weight_decay: of the other parameters.
        layer_decay: ratio of the learning rates of neighbouring layers, as the model's ``group_matcher`` numbers
            them: the last has ``lr``, the ones before less and less.
        args: the optimiser's own, such as ``momentum``, ``betas`` or ``eps``.

    Raises:
        TaskError: unknown optimiser, or arguments that it does not take.
    """
    if name not in list_optimizers():
        raise TaskError(f"unknown optimizer {name!r}; timm has {', '.join(list_optimizers())}")
    spared = _spared_inside(model)
    try:
        if spared and not layer_decay:
            groups = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=spared)
            return create_optimizer_v2(groups, opt=name, lr=lr, weight_decay=0.0, **dict(args or {}))
        return create_optimizer_v2(
            model, opt=name, lr=lr, weight_decay=weight_decay, layer_decay=layer_decay, **dict(args or {})
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise TaskError(f"optimizer {name} with {dict(args or {})}: {_line(error)}") from error


def build_schedule(
    optimizer: Optimizer,
    name: ScheduleName,
    *,
    lr: float,
    epochs: int,
    steps_per_epoch: int,
    warmup_epochs: float = 0.0,
    warmup_factor: float = 0.0,
    min_lr: float = 0.0,
    args: Mapping[str, Any] | None = None,
) -> Scheduler:
    """Build one of timm's schedules, to be moved with every optimiser step.

    At step ``t`` of the warm-up of ``w`` steps the learning rate is ``lr · (f + (1 - f) · t / w)``, ``f`` being
    ``warmup_factor``. What follows, for the remaining steps, ends at ``min_lr`` (cosine, poly), or counts its
    epochs from the start of the run (step, multistep; timm falls at the last step before a milestone).

    Args:
        optimizer: whose groups all have ``lr``, or a ``lr_scale`` on it.
        name: timm's.
        lr: highest learning rate.
        epochs: of the run, warm-up included.
        steps_per_epoch: optimiser steps.
        warmup_epochs: less than ``epochs``.
        warmup_factor: the run begins at this share of ``lr``.
        min_lr: lowest learning rate.
        args: more of timm's ``create_scheduler_v2``, such as ``decay_epochs``, ``decay_milestones`` or
            ``decay_rate`` (poly: the power).

    Raises:
        TaskError: unknown schedule, the warm-up takes the whole run, or arguments that timm does not take.
    """
    if name not in get_args(ScheduleName):
        raise TaskError(f"unknown schedule {name!r}; there are {', '.join(get_args(ScheduleName))}")
    if warmup_epochs >= epochs:
        raise TaskError(
            f"a warm-up of {warmup_epochs:g} epochs leaves nothing of {epochs}; shorten it or train longer"
        )
    after_warmup = name in ("cosine", "poly")
    try:
        schedule, _ = create_scheduler_v2(
            optimizer,
            sched=name,
            num_epochs=epochs - warmup_epochs if after_warmup else epochs,
            warmup_epochs=warmup_epochs,
            warmup_prefix=after_warmup,
            warmup_lr=warmup_factor * lr,
            min_lr=min_lr,
            step_on_epochs=False,
            updates_per_epoch=steps_per_epoch,
            **dict(args or {}),
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise TaskError(f"schedule {name} with {dict(args or {})}: {_line(error)}") from error
    return schedule


def _spared_inside(model: nn.Module) -> set[str]:
    """Name what parts of a model spare from weight decay, where the model has no list of its own."""
    if hasattr(model, "no_weight_decay"):
        return set()
    parts = ((prefix, part) for prefix, part in model.named_modules() if hasattr(part, "no_weight_decay"))
    return {f"{prefix}.{name}" for prefix, part in parts for name in part.no_weight_decay()}


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
