"""Which tensors a network of ours expects, and how a state dict differs from that."""

import difflib
import math
from collections.abc import Mapping
from typing import Any

import timm
import torch
from torch import Tensor, nn

from .error import CheckpointError, name_some


def our_models() -> list[str]:
    """Return the registered names of this library's networks, sorted."""
    return [name for name in timm.list_models() if timm.model_entrypoint(name).__module__.startswith("ctxvision.")]


def skeleton(model_name: str, **arguments: Any) -> nn.Module:
    """Build one of our networks with shapes but no values (on the meta device).

    Args:
        model_name: Registered name of the network.
        **arguments: Arguments of the network's constructor.

    Raises:
        CheckpointError: The name is not one of ours.
    """
    names = our_models()
    if model_name not in names:
        near = difflib.get_close_matches(model_name, names, n=1)
        raise CheckpointError(
            model_name,
            f"no such network; did you mean {near[0]}?"
            if near
            else f"no such network; there are {', '.join(names)}",
        )
    with torch.device("meta"):
        model: nn.Module = timm.create_model(model_name, **arguments)
    return model


def difference(tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str | None:
    """Describe how names, shapes and kinds of number differ; None where they do not."""
    missing = [name for name in expected if name not in tensors]
    unexpected = [name for name in tensors if name not in expected]
    unlike = [name for name in expected if name in tensors and not alike(tensors[name], expected[name])]
    shown = [f"{name} is {describe(tensors[name])}, not {describe(expected[name])}" for name in unlike]
    parts = [
        f"{len(names)} {what} ({name_some(names)})"
        for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shown))
        if names
    ]
    return "; ".join(parts) or None


def alike(one: Tensor, other: Tensor) -> bool:
    """Tell whether two tensors have the same shape and are both floating-point or both not."""
    return one.shape == other.shape and one.is_floating_point() == other.is_floating_point()


def describe(tensor: Tensor) -> str:
    """Show a tensor's shape, and its dtype where that is not a floating-point one."""
    shape = "×".join(map(str, tensor.shape)) or "scalar"
    return shape if tensor.is_floating_point() else f"{shape} {str(tensor.dtype).removeprefix('torch.')}"


def arguments_of(tensors: Mapping[str, Tensor], model_name: str) -> dict[str, int]:
    """Return the arguments of a network that its tensors show to be others than those of ImageNet's classifiers.

    These are ``num_classes`` (0 where there is no classifier at all), ``in_chans`` and, of a RedNet, the
    ``stem_kernel_size``.

    Args:
        tensors: Tensors by our names.
        model_name: Name of the network that takes the arguments.
    """
    classifier = tensors.get("fc.weight")
    first = tensors.get("conv1.weight", tensors.get("conv1.0.weight"))
    found = {}
    if classifier is not None and classifier.ndim == 2 and len(classifier) not in (0, 1000):
        found["num_classes"] = len(classifier)
    elif first is not None and not any(name.startswith("fc.") for name in tensors):
        found["num_classes"] = 0
    if first is not None and first.ndim == 4 and first.shape[1] not in (0, 3):
        found["in_chans"] = first.shape[1]
    span = tensors.get("conv1.3.span.weight")
    if model_name.startswith("rednet") and span is not None and first is not None and len(first) >= 16:
        taps, rest = divmod(len(span), len(first) // 16)  # 16 channels share a kernel
        side = math.isqrt(taps)
        if rest == 0 and side**2 == taps and side % 2 and side != 3:
            found["stem_kernel_size"] = side
    return found


def fitting_models(tensors: Mapping[str, Tensor]) -> list[str]:
    """Return the names of our networks whose tensors these are, be it with other arguments than ImageNet's."""
    names = [name for name in our_models() if not name.startswith("contextual_")]  # which nobody published
    return [
        name
        for name in names
        if difference(tensors, skeleton(name, **arguments_of(tensors, name)).state_dict()) is None
    ]


def advice_on(tensors: Mapping[str, Tensor]) -> str:
    """Say what to do with the tensors of a CoTNet whose shortcuts average pixels, as the authors' do not."""
    for name in ("cotnet50", "cotnet101"):
        arguments = {"avg_down": True, **arguments_of(tensors, name)}
        if difference(tensors, skeleton(name, **arguments).state_dict()) is None:
            network = f'timm.create_model("{name}", {", ".join(f"{k}={v}" for k, v in arguments.items())})'
            return (
                f"; they are those of a {name} whose shortcuts average pixels, which is not the authors' network: "
                f"ctxvision.checkpoints.warm_start({network}, FILE) loads them into that"
            )
    return ""


def require_fit(tensors: Mapping[str, Tensor], model: nn.Module, model_name: str, where: object) -> None:
    """Raise `CheckpointError` unless the tensors are exactly those of the model, and say whose they are."""
    problem = difference(tensors, model.state_dict())
    if problem is None:
        return
    fitting = [name for name in fitting_models(tensors) if name != model_name]
    advice = f"; they are those of {fitting[0]}: name that model" if len(fitting) == 1 else advice_on(tensors)
    raise CheckpointError(where, f"the tensors are not those of {model_name}: {problem}{advice}")
