"""timm's optimisers and learning-rate schedules, with errors that help."""

import importlib.util
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, list_optimizers, param_groups_weight_decay
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from .error import TaskError, require_own

_OF_NETWORK = "it follows from the network"
_TAKEN = {
    "opt": "--optimizer names it",
    "lr": "--lr sets it",
    "weight_decay": "--weight_decay sets it",
    "layer_decay": "--layer_decay sets it",
    **dict.fromkeys(("params", "model_or_params", "param_group_fn"), _OF_NETWORK),
}
_OF_RUN = "it follows from the run"
_TAKEN_BY_SCHEDULE = {
    "sched": "--schedule names it",
    "num_epochs": "--epochs or --steps sets it",
    "warmup_epochs": "--warmup_epochs or --warmup_steps sets it",
    "warmup_lr": "--warmup_factor sets it, as a share of --lr",
    "min_lr": "--min_lr sets it",
    **dict.fromkeys(("optimizer", "warmup_prefix", "step_on_epochs", "updates_per_epoch"), _OF_RUN),
}
# whatever others make of arguments that they were not written for
_NOT_TAKEN = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)

ScheduleName = Literal["cosine", "poly", "step", "multistep"]


def is_optimizer(name: str) -> bool:
    """Tell whether timm has an optimiser of this name."""
    return name in list_optimizers()


def usable_optimizers() -> list[str]:
    """List timm's optimisers that can train here; see `why_unusable`."""
    return [name for name in list_optimizers() if not why_unusable(name)]


def why_unusable(name: str) -> str | None:
    """Say why one of timm's optimisers cannot train here; ``None`` if it can.

    Args:
        name: A name that timm knows.
    """
    info = get_optimizer_info(name)
    if info.second_order:
        return "it needs second derivatives, which training does not compute"
    if not isinstance(info.opt_class, str):
        return None
    package = info.opt_class.split(".")[0]
    if importlib.util.find_spec(package) is None:
        return f"it needs the package {package}, which is not installed"
    return None if torch.cuda.is_available() else f"{package} needs a CUDA device"


def require_optimizer(name: str, args: Mapping[str, Any] | None = None) -> None:
    """Find out whether an optimiser can train here, and with these arguments.

    Raises:
        TaskError: The optimiser cannot train here, there is none of this name, or timm would silently leave an
            argument out.
    """
    if not is_optimizer(name):
        raise TaskError(f"unknown optimizer {name!r}; there are {', '.join(usable_optimizers())}")
    if reason := why_unusable(name):
        raise TaskError(f"optimizer {name} cannot be used: {reason}; there are {', '.join(usable_optimizers())}")
    info = get_optimizer_info(name)
    takes = {"eps": info.has_eps, "betas": info.has_betas, "momentum": info.has_momentum}
    strange = [argument for argument in args or () if not takes.get(argument, True)]
    if strange:
        raise TaskError(
            f"optimizer {name} takes no {strange[0]}; leave it out of --optimizer_args, or null leaves all out"
        )


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
        model: The network whose parameters are trained.
        name: The name of the optimiser in timm.
        lr: The highest learning rate.
        weight_decay: The weight decay of the other parameters.
        layer_decay: The ratio of the learning rates of neighbouring layers, as the model's ``group_matcher``
            numbers them: the last has ``lr``, the ones before less and less.
        args: More arguments of the optimiser, such as ``momentum``, ``betas`` or ``eps``.

    Raises:
        TaskError: The optimiser is unknown, cannot be used here, or does not take its arguments.
    """
    require_optimizer(name)
    require_own(f"optimizer_args of {name}", args or {}, _TAKEN)
    spared = _spared_inside(model)
    try:
        if spared and not layer_decay:
            groups = param_groups_weight_decay(model, weight_decay, no_weight_decay_list=spared)
            optimizer = create_optimizer_v2(groups, opt=name, lr=lr, weight_decay=0.0, **dict(args or {}))
        else:
            optimizer = create_optimizer_v2(
                model, opt=name, lr=lr, weight_decay=weight_decay, layer_decay=layer_decay, **dict(args or {})
            )
    except _NOT_TAKEN as error:
        raise TaskError(f"optimizer {name} with {dict(args or {})}: {_line(error)}") from error
    return _without_compilation(optimizer)


def _without_compilation(optimizer: Optimizer) -> Optimizer:
    """Undo what kron does by itself: it compiles for every shape of a network, for minutes."""
    for name, value in list(vars(optimizer).items()):
        original = getattr(value, "_torchdynamo_orig_callable", None)
        if original is not None:
            setattr(optimizer, name, original)
    return optimizer


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
        optimizer: The optimiser, whose groups all have ``lr``, or a ``lr_scale`` on it.
        name: The name of the schedule in timm.
        lr: The highest learning rate.
        epochs: The number of epochs of the run, warm-up included.
        steps_per_epoch: The number of optimiser steps of an epoch.
        warmup_epochs: The number of epochs of the warm-up, less than ``epochs``.
        warmup_factor: The share of ``lr`` that the run begins at.
        min_lr: The lowest learning rate.
        args: More arguments of timm's ``create_scheduler_v2``, such as ``decay_epochs``, ``decay_milestones`` or
            ``decay_rate`` (poly: the power).

    Raises:
        TaskError: The schedule is unknown, the warm-up takes the whole run, or timm does not take the arguments.
    """
    if name not in get_args(ScheduleName):
        raise TaskError(f"unknown schedule {name!r}; there are {', '.join(get_args(ScheduleName))}")
    if warmup_epochs >= epochs:
        raise TaskError(
            f"a warm-up of {warmup_epochs:g} epochs leaves nothing of {epochs}; shorten it or train longer"
        )
    require_own("schedule_args", args or {}, _TAKEN_BY_SCHEDULE)
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
    except _NOT_TAKEN as error:
        raise TaskError(f"schedule {name} with {dict(args or {})}: {_line(error)}") from error
    return schedule


def require_steps(
    optimizer: Optimizer, schedule: Scheduler, names: tuple[str, str], args: Mapping[str, Any]
) -> None:
    """Move a throwaway optimiser and its schedule, because some arguments are first used then.

    Args:
        optimizer: An optimiser of few parameters.
        schedule: The schedule of this optimiser.
        names: The names of the optimiser and of the schedule, for the message.
        args: The arguments of both, for the message.

    Raises:
        TaskError: The optimiser or the schedule fails at a step.
    """
    what = f"schedule {names[1]} with {dict(args)}"
    try:
        schedule.step_update(10**6)  # long after the warm-up
        what = f"optimizer {names[0]} with {dict(args)}"
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    except _NOT_TAKEN as error:
        raise TaskError(f"{what}: {_line(error)}") from error


def _spared_inside(model: nn.Module) -> set[str]:
    """Name what parts of a model spare from weight decay, where the model has no list of its own."""
    if hasattr(model, "no_weight_decay"):
        return set()
    parts = ((prefix, part) for prefix, part in model.named_modules() if hasattr(part, "no_weight_decay"))
    return {f"{prefix}.{name}" for prefix, part in parts for name in part.no_weight_decay()}


def _line(error: Exception) -> str:
    reason = " ".join(str(error).split())
    return (
        reason
        if reason and isinstance(error, TypeError | ValueError)
        else f"{type(error).__name__} {reason}".strip()
    )
