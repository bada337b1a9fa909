"""A network by its registered name, with errors that help; and its batch norms that cannot train on one sample."""

import difflib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeGuard

import timm
import torch
from torch import Tensor, nn

from .error import NOT_TAKEN, TaskError, explain_argument, require_own

if TYPE_CHECKING:
    from ctxvision.models._contextual_net import ContextualNet

_WEIGHTS = "weights to start from are given with --init-from"
_CHANNELS = "it follows from the data; --in-chans chooses it where there is a choice"
_FEATURES = "the task takes the feature maps that it needs"
_TAKEN = {
    "model_name": "that is the name of the network",
    "num_classes": "it follows from the classes of the data",
    "in_chans": _CHANNELS,
    **dict.fromkeys(("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path"), _WEIGHTS),
    **dict.fromkeys(("pretrained_strict", "cache_dir"), _WEIGHTS),
    **dict.fromkeys(("features_only", "out_indices", "feature_cls", "feature_cfg"), _FEATURES),
}


def require_model(name: str) -> None:
    """Raise `TaskError`, which suggests names, if timm knows no such network."""
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"did you mean {' or '.join(near)}?" if near else "`ctxvision models` lists them"
        raise TaskError(f"unknown model {name!r}; {hint}")


def usual_interpolation(name: str) -> str:
    """Return the filter with which the images of a network's published weights are resized; else bicubic.

    Args:
        name: The registered name of the network, with or without a tag.
    """
    about = timm.get_pretrained_cfg(name) if timm.is_model(name) else None
    return str(about.interpolation) if about else "bicubic"


def takes_argument(name: str, argument: str, value: Any) -> bool:
    """Tell whether the constructor of a network has an argument, by calling it on no device and without weights.

    Args:
        name: The registered name of the network.
        argument: The name of the argument of its constructor.
        value: A value for it.
    """
    try:
        with torch.device("meta"):
            timm.create_model(name, pretrained=False, **{argument: value})
    except TypeError:
        return False
    except NOT_TAKEN:  # of its value, or of a network that cannot be built on no device
        return True
    return True


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
    options = {"drop_path_rate": "--drop-path-rate", "drop_rate": "--dropout"}
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
    except NOT_TAKEN as error:
        # without arguments of the user's, what else goes wrong is a bug
        if not model_args and not isinstance(error, TypeError | ValueError | AssertionError):
            raise
        given = f" with {dict(model_args)}" if model_args else ""
        reason = " ".join(str(error).split())
        if model_args and (network_class := _class_of(name)):
            explain_argument(f"model_args of {name}", model_args, error, network_class, _TAKEN | twice)
        kind = (
            "" if isinstance(error, TypeError | ValueError | AssertionError) and reason else type(error).__name__
        )
        raise TaskError(f"{name}{given}: {': '.join(filter(None, (kind, reason)))}") from error


def _class_of(name: str) -> type[nn.Module] | None:
    """Return the class of a registered network; ``None`` if it cannot be built on no device."""
    try:
        with torch.device("meta"):
            return type(timm.create_model(name, pretrained=False))
    except NOT_TAKEN:
        return None


_BatchNorm = nn.modules.batchnorm._BatchNorm


def single_value_norms(model: nn.Module, run: Callable[[], Any]) -> tuple[str, ...]:
    """Name the batch norms in training mode that get one value per channel of one sample.

    Over a single image they have nothing to normalise, and torch refuses it in training. Those of CoT layers,
    split attention, squeeze-and-excitation with a norm, pyramid pooling, and the last stage on small images are of
    this kind.

    Args:
        model: The network; it is in evaluation mode meanwhile, and no statistics change.
        run: A function that calls the network with one sample.
    """
    modes = {module: module.training for module in model.modules()}
    found: list[str] = []

    def looking(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].numel() == inputs[0].shape[1] and name not in found:
                found.append(name)

        return look

    norms = [(n, m) for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m.training]
    handles = [norm.register_forward_pre_hook(looking(name)) for name, norm in norms]
    try:
        model.eval()
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return tuple(found)


def keep_statistics(model: nn.Module, names: tuple[str, ...], keep: bool) -> None:
    """Put batch norms into eval mode or back into training mode; their affine part is trained either way.

    It lasts until the next call, because activations may be recomputed in the backward pass. What is synchronised
    between processes gets more values and stays as it is.

    Args:
        model: The network that `single_value_norms` was asked about.
        names: The names that `single_value_norms` returned.
        keep: Whether the norms use their statistics, because the next batch is of one sample.
    """
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    for name in names:
        norm = model.get_submodule(name)
        if not (together and isinstance(norm, nn.SyncBatchNorm)):
            norm.train(not keep)
