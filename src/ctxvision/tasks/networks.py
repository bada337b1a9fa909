"""A network by its registered name, with errors that help."""

import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import timm
from torch import nn

import ctxvision  # noqa: F401 - registers our networks with timm

from .error import TaskError, require_own

if TYPE_CHECKING:
    from ctxvision.models._contextual_net import ContextualNet

_WEIGHTS = "weights to start from are given with --init_from"
_CHANNELS = "it follows from the data; --in_chans chooses it where there is a choice"
_FEATURES = "the task takes the feature maps that it needs"
_TAKEN = {
    "model_name": "that is the name of the network",
    "num_classes": "it follows from the classes of the data",
    "in_chans": _CHANNELS,
    **dict.fromkeys(("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path"), _WEIGHTS),
    **dict.fromkeys(("pretrained_strict", "cache_dir"), _WEIGHTS),
    **dict.fromkeys(("features_only", "out_indices", "feature_cls", "feature_cfg"), _FEATURES),
}
# whatever a constructor makes of arguments that it was not written for
_NOT_TAKEN = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


def require_model(name: str) -> None:
    """Raise `TaskError`, which suggests names, if timm knows no such network."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`ctxvision models` lists them"
        raise TaskError(f"unknown model {name!r}; {hint}")


def has_stage_outputs(model: nn.Module) -> "TypeGuard[ContextualNet]":
    """Tell whether a network has ``forward_stages``, which returns a `ContextualOutput`."""
    return hasattr(model, "forward_stages")


def create_network(
    name: str,
    *,
    num_classes: int,
    in_chans: int,
    drop_path_rate: float = 0.0,
    dropout: float = 0.0,
    features_only: bool = False,
    model_args: Mapping[str, Any],
) -> nn.Module:
    """Build a registered network without pretrained weights; nothing is downloaded or read.

    Args:
        name: Any name that timm knows, ours included.
        num_classes: The number of outputs.
        in_chans: The number of channels of the network's input.
        drop_path_rate: The probability that stochastic depth leaves out a residual branch; 0 is not passed on,
            since some networks do not take it.
        dropout: The probability that dropout zeroes a feature before the classifier; 0 is not passed on, since
            some networks do not take it.
        features_only: Whether to build timm's feature network instead of the classifier.
        model_args: More arguments of the network's constructor.

    Raises:
        TaskError: The name is unknown, or the network does not take the arguments.
    """
    require_model(name)
    rates = {"drop_path_rate": drop_path_rate, "drop_rate": dropout}
    optional = {argument: rate for argument, rate in rates.items() if rate}
    options = {"drop_path_rate": "--drop_path_rate", "drop_rate": "--dropout"}
    twice = {argument: f"{options[argument]} has set it; leave one of them out" for argument in optional}
    require_own(f"model_args of {name}", model_args, _TAKEN | twice)
    if features_only:
        optional |= {"features_only": True}
    try:
        network: nn.Module = timm.create_model(
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
        return network
    except _NOT_TAKEN as error:
        # without arguments of the user's, what else goes wrong is a bug
        if not model_args and not isinstance(error, TypeError | ValueError | AssertionError):
            raise
        given = f" with {dict(model_args)}" if model_args else ""
        reason = " ".join(str(error).split())
        kind = (
            "" if isinstance(error, TypeError | ValueError | AssertionError) and reason else type(error).__name__
        )
        raise TaskError(f"{name}{given}: {': '.join(filter(None, (kind, reason)))}") from error
