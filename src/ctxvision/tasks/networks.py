"""A network by its registered name, with errors that help."""

import difflib
from collections.abc import Mapping
from typing import Any

import timm
from torch import nn

import ctxvision  # noqa: F401 - registers our networks with timm

from .error import TaskError


def require_model(name: str) -> None:
    """Raise `TaskError`, which suggests names, if timm knows no such network."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`ctxvision models` lists them"
        raise TaskError(f"unknown model {name!r}; {hint}")


def create_network(
    name: str,
    *,
    num_classes: int,
    in_chans: int,
    drop_path_rate: float = 0.0,
    dropout: float = 0.0,
    model_args: Mapping[str, Any],
) -> nn.Module:
    """Build a registered network without pretrained weights; nothing is downloaded or read.

    Args:
        name: any name that timm knows, ours included.
        num_classes: outputs.
        in_chans: channels of its input.
        drop_path_rate: stochastic depth; 0 is not passed on, for networks that have none.
        dropout: before the classifier; likewise.
        model_args: more arguments of the network's constructor.

    Raises:
        TaskError: unknown name, or arguments that this network does not take.
    """
    require_model(name)
    rates = {"drop_path_rate": drop_path_rate, "drop_rate": dropout}
    optional = {argument: rate for argument, rate in rates.items() if rate}
    try:
        return timm.create_model(
            name,
            # named here, so that the arguments of an untrusted checkpoint cannot set them
            pretrained=False,
            pretrained_cfg=None,
            pretrained_cfg_overlay=None,
            checkpoint_path=None,
            cache_dir=None,
            num_classes=num_classes,
            in_chans=in_chans,
            **optional,
            **model_args,
        )
    except (TypeError, ValueError, AssertionError) as error:
        raise TaskError(f"{name}: {' '.join(str(error).split()) or type(error).__name__}") from error
