"""timm's optimisers and learning-rate schedules, with errors that help."""

import dataclasses
import importlib.util
import math
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, get_args

import torch
from timm.optim import (
    create_optimizer_v2,
    get_optimizer_class,
    get_optimizer_info,
    list_optimizers,
    param_groups_layer_decay,
    param_groups_weight_decay,
)
from timm.scheduler import create_scheduler_v2
from timm.scheduler.scheduler import Scheduler
from torch import nn
from torch.optim import Optimizer

from ctxvision.nn.contextual_conv import SamplingOffsets, WeightOffsets
from ctxvision.wording import did_you_mean

from .error import NOT_TAKEN, TaskError, explain_argument, require_own
from .settings import OptimizerSettings, ScheduleName

_OF_NETWORK = "it follows from the network"
_TAKEN = {
    "opt": "--optimizer names it",
    "lr": "--lr sets it",
    "weight_decay": "--weight-decay sets it",
    "layer_decay": "--layer-decay sets it",
    **dict.fromkeys(("params", "model_or_params", "param_group_fn"), _OF_NETWORK),
}
_OF_RUN = "it follows from the run"
_TAKEN_BY_SCHEDULE = {
    "sched": "--schedule names it",
    "num_epochs": "--epochs or --steps sets it",
    "warmup_epochs": "--warmup-epochs or --warmup-steps sets it",
    "warmup_lr": "--warmup-factor sets it, as a share of --lr",
    "min_lr": "--min-lr sets it",
    **dict.fromkeys(("optimizer", "warmup_prefix", "step_on_epochs", "updates_per_epoch"), _OF_RUN),
}


@dataclass(frozen=True)
class Optimization(OptimizerSettings):
    """How a task's network is optimised; every task takes these fields as arguments.

    Args:
        lr: The highest learning rate.
        weight_decay: The weight decay of all parameters but those that a network's ``no_weight_decay`` names and,
            unless ``decay_norms``, norms and biases.
        warmup_epochs: The number of epochs during which the learning rate rises.
    """

    _: KW_ONLY
    lr: float = 5e-4
    weight_decay: float = 0.05
    warmup_epochs: float = 0.0


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
        known = usable_optimizers()
        raise TaskError(
            f"unknown optimizer {name!r}" + (did_you_mean(name, known) or f"; there are {', '.join(known)}")
        )
    if reason := why_unusable(name):
        raise TaskError(f"optimizer {name} cannot be used: {reason}; there are {', '.join(usable_optimizers())}")
    info = get_optimizer_info(name)
    takes = {"eps": info.has_eps, "betas": info.has_betas, "momentum": info.has_momentum}
    strange = [argument for argument in args or () if not takes.get(argument, True)]
    if strange:
        raise TaskError(
            f"optimizer {name} takes no {strange[0]}; leave it out of --optimizer-args, or null leaves all out"
        )


def build_optimizer(model: nn.Module, o: Optimization) -> Optimizer:
    """Build one of timm's optimisers, without weight decay on what ``no_weight_decay`` names, norms and biases.

    With ``decay_norms`` norms and biases have it too. Layers are decayed as the model's ``group_matcher`` numbers
    them: the last has ``lr``, the ones before less and less. Generators of offsets have ``offset_lr_scale`` of it.

    Args:
        model: The network whose parameters are trained.
        o: The optimiser and its arguments.

    Raises:
        TaskError: The optimiser is unknown, cannot be used here, or does not take its arguments.
    """
    require_optimizer(o.optimizer)
    args = dict(o.optimizer_args or {})
    require_own(f"optimizer_args of {o.optimizer}", args, _TAKEN)
    spared = _spared_inside(model)
    optimizer: Optimizer
    try:
        if o.decay_norms:
            groups = _groups_of_all(model, o)
            optimizer = create_optimizer_v2(groups, opt=o.optimizer, lr=o.lr, weight_decay=0.0, **args)
        elif spared and not o.layer_decay:
            groups = param_groups_weight_decay(model, o.weight_decay, no_weight_decay_list=spared)
            optimizer = create_optimizer_v2(groups, opt=o.optimizer, lr=o.lr, weight_decay=0.0, **args)
        else:
            rates = {"lr": o.lr, "weight_decay": o.weight_decay, "layer_decay": o.layer_decay}
            optimizer = create_optimizer_v2(model, opt=o.optimizer, **rates, **args)
    except NOT_TAKEN as error:
        explain_argument(f"optimizer_args of {o.optimizer}", args, error, get_optimizer_class(o.optimizer), _TAKEN)
        raise TaskError(f"optimizer {o.optimizer} with {args}: {_line(error)}") from error
    _slow_down(_offset_generators(model), optimizer, o.offset_lr_scale)
    # undo what kron does by itself: it compiles for every shape of a network, for minutes
    for name, value in list(vars(optimizer).items()):
        original = getattr(value, "_torchdynamo_orig_callable", None)
        if original is not None:
            setattr(optimizer, name, original)
    return optimizer


def build_schedule(optimizer: Optimizer, o: Optimization, *, epochs: int, steps_per_epoch: int) -> Scheduler:
    """Build one of timm's schedules, to be moved with every optimiser step.

    At step ``t`` of the warm-up of ``w`` steps the learning rate is ``lr · (f + (1 - f) · t / w)``, ``f`` being
    ``warmup_factor``. What follows ends at ``min_lr`` with the last step before the cool-down (cosine, poly), or
    counts its epochs from the start of the run (step, multistep; timm falls at the last step before a milestone).

    Args:
        optimizer: The optimiser, whose groups all have ``lr``, or a ``lr_scale`` on it.
        o: The schedule and its arguments.
        epochs: The number of epochs of the run, warm-up included.
        steps_per_epoch: The number of optimiser steps of an epoch.

    Raises:
        TaskError: The schedule is unknown, warm-up and cool-down take the whole run, or timm does not take the
            arguments.
    """
    if o.schedule not in get_args(ScheduleName):
        raise TaskError(f"unknown schedule {o.schedule!r}; there are {', '.join(get_args(ScheduleName))}")
    warmup = o.warmup_epochs if o.warmup_steps is None else o.warmup_steps / steps_per_epoch
    if warmup + o.cooldown_epochs >= epochs:
        around = f"a warm-up of {warmup:g} epochs" + (
            f" and a cool-down of {o.cooldown_epochs:g}" if o.cooldown_epochs else ""
        )
        raise TaskError(f"{around} leave{'' if o.cooldown_epochs else 's'} nothing of {epochs}; train longer")
    args = dict(o.schedule_args or {})
    require_own("schedule_args", args, _TAKEN_BY_SCHEDULE)
    after_warmup = o.schedule in ("cosine", "poly")
    try:
        schedule, _ = create_scheduler_v2(
            optimizer,
            sched=o.schedule,
            num_epochs=epochs - warmup - o.cooldown_epochs if after_warmup else epochs,
            warmup_epochs=warmup,
            warmup_prefix=after_warmup,
            warmup_lr=o.warmup_factor * o.lr,
            min_lr=o.min_lr,
            step_on_epochs=False,
            updates_per_epoch=steps_per_epoch,
            **args,
        )
    except NOT_TAKEN as error:
        explain_argument("schedule_args", args, error, create_scheduler_v2, _TAKEN_BY_SCHEDULE)
        raise TaskError(f"schedule {o.schedule} with {args}: {_line(error)}") from error
    return schedule


def require_usable(o: Optimization) -> None:
    """Build an optimiser and a schedule for a throwaway layer, and move them: some arguments are first used then.

    Optimisers that cannot train here pass: a checkpoint of another machine can be looked at.

    Raises:
        TaskError: The optimiser is unknown, or it or the schedule does not take its arguments.
    """
    if is_optimizer(o.optimizer) and why_unusable(o.optimizer):
        return
    o = dataclasses.replace(o, layer_decay=None, warmup_steps=None)
    optimizer = build_optimizer(nn.Linear(1, 1), o)
    epochs = math.floor(o.warmup_epochs + o.cooldown_epochs) + 1
    schedule = build_schedule(optimizer, o, epochs=epochs, steps_per_epoch=1)
    args = {**(o.optimizer_args or {}), **(o.schedule_args or {})}
    if not args:
        return
    what = f"schedule {o.schedule} with {args}"
    try:
        schedule.step_update(10**6)  # long after the warm-up
        what = f"optimizer {o.optimizer} with {args}"
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
    except NOT_TAKEN as error:
        raise TaskError(f"{what}: {_line(error)}") from error


def _groups_of_all(model: nn.Module, o: Optimization) -> list[dict[str, Any]]:
    """Group all parameters that are trained, norms and biases with the others; layers as timm numbers them."""
    listed = getattr(model, "no_weight_decay", None)
    own = set(listed()) if listed else _spared_inside(model)
    groups: list[dict[str, Any]]
    if not o.layer_decay:
        named = [(name in own, p) for name, p in model.named_parameters() if p.requires_grad]
        decayed, others = ([p for spared, p in named if spared == out] for out in (False, True))
        groups = [{"params": decayed, "weight_decay": o.weight_decay}, {"params": others, "weight_decay": 0.0}]
        return [group for group in groups if group["params"]]
    layers: list[dict[str, Any]] = param_groups_layer_decay(
        model,
        weight_decay=o.weight_decay,
        no_weight_decay_list=own,
        weight_decay_exclude_1d=False,
        layer_decay=o.layer_decay,
    )
    return layers


def _offset_generators(model: nn.Module) -> set[nn.Parameter]:
    generators = (part for part in model.modules() if isinstance(part, WeightOffsets | SamplingOffsets))
    return {parameter for part in generators for parameter in part.parameters()}


def _slow_down(chosen: set[nn.Parameter], optimizer: Optimizer, scale: float) -> None:
    """Give parameters a share of the learning rate, in groups of their own with all else as it was."""
    if scale == 1:
        return
    for group in list(optimizer.param_groups):
        slow = [parameter for parameter in group["params"] if parameter in chosen]
        rest = [parameter for parameter in group["params"] if parameter not in chosen]
        scaled = {**group, "params": slow, "lr_scale": group.get("lr_scale", 1.0) * scale}
        if not rest:
            group.update(scaled)
        elif slow:
            group["params"] = rest
            optimizer.add_param_group(scaled)


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
