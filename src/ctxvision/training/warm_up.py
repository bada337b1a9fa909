"""Warm-ups and cool-downs that would take a whole short run are cut."""

import dataclasses
import logging
from collections.abc import Collection
from typing import Any

from ctxvision.wording import plural

from .options import TrainOptions

log = logging.getLogger(__name__)


def with_warmup_within(options: TrainOptions, epochs: int | None, kept: Collection[str] = ()) -> TrainOptions:
    """Cut a warm-up and a cool-down that would take a whole run, to a fifth of it at most, with a note.

    Args:
        options: Options of the run.
        epochs: Number of epochs; ``None`` leaves the options as they are.
        kept: Names of options that stay as they are, because the user has set them.
    """
    ends = {"warm-up": options.warmup_epochs or 0.0, "cool-down": options.cooldown_epochs}
    if options.warmup_steps is not None:
        del ends["warm-up"]
    if not epochs or sum(ends.values()) < epochs:
        return options
    around = " and ".join(f"a {what} of {value:g}" for what, value in ends.items() if value)
    cut: dict[str, Any] = {}
    for what, value in ends.items():
        name = f"{what.replace('-', '')}_epochs"
        if value > epochs / 5 and name not in kept:
            cut[name] = epochs / 5
            log.warning(
                f"{around} epochs would leave nothing of {plural(epochs, 'epoch')}: the {what} is cut to "
                f"{epochs / 5:g}"
            )
    return dataclasses.replace(options, **cut)


def with_warmup_steps_within(options: TrainOptions, steps: int) -> TrainOptions:
    """Cut a recipe's warm-up in steps that would take a whole run to a fifth of it, with a note.

    Args:
        options: Options of the run.
        steps: Number of optimiser steps before the cool-down.
    """
    warmup = options.warmup_steps
    if not warmup or warmup < steps or warmup != options.recipe_settings.get("warmup_steps"):
        return options
    log.warning(f"a warm-up of {plural(warmup, 'step')} would leave nothing of {steps}: it is cut to {steps // 5}")
    return dataclasses.replace(options, warmup_steps=steps // 5)
