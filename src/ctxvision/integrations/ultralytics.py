"""Ultralytics: our layers and backbones in model YAMLs, and replaced convolutions that outlast ``train()``.

Importing this module is enough for YAMLs, and for ``model.fuse()`` after a replacement. ``CoTLayer``,
``Involution2d`` and ``ContextualConv2d`` stand where ``Conv`` stands, with the same arguments and the same
scaling of channels; ``TimmBackbone`` stands where ``TorchVision`` stands.
"""

import builtins
import copy
import functools
import types
from collections.abc import Callable, Iterable
from typing import Any

import timm
import torch
from torch import Tensor, nn
from ultralytics import __version__
from ultralytics.nn import tasks
from ultralytics.nn.modules import Conv, RepConv, RepVGGDW, TorchVision

from ctxvision.nn import ContextualConv2d, CoTLayer, Involution2d
from ctxvision.nn._conv_successors import Kind, successor

_OWN_LAYERS = (CoTLayer, Involution2d, ContextualConv2d)


class _InPlaceOfConv(nn.Module):
    """Ultralytics' ``Conv`` after `ctxvision.nn.replace_convs`: a layer of ours, norm and activation.

    It maps ``(B, c1, H, W)`` to ``(B, c2, H', W')``, as ``Conv`` with the same arguments.

    Args:
        c1: Number of channels of the input.
        c2: Number of channels of the output.
        *args: Further arguments of ``Conv`` in its order: kernel size, stride, padding, groups, dilation,
            activation. The last one may be a mapping with options of the layer, as `replace_convs` lists them.

    Raises:
        ValueError: If the layer cannot stand for this convolution; the message says why.
    """

    kind: Kind
    kernel_size = 3

    def __init__(self, c1: int, c2: int, *args: Any) -> None:
        super().__init__()
        options = dict(args[-1]) if args and isinstance(args[-1], dict) else {}
        given = args[:-1] if args and isinstance(args[-1], dict) else args
        plain = Conv(c1, c2, *(given or (self.kernel_size,)))
        try:
            self.conv = successor(plain.conv, self.kind, options, weight_is_tied=False)
        except ValueError as error:
            raise ValueError(
                f"{self.kind} in place of Conv({c1}, {c2}, {', '.join(map(repr, given))}): {error}"
            ) from error
        self.bn, self.act = plain.bn, plain.act

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output after norm and activation, ``(B, c2, H', W')``, for ``(B, c1, H, W)``."""
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y


class CoT(_InPlaceOfConv):
    """``CoTLayer`` in a YAML, after a pool for the stride and a 1x1 convolution for new channels, if needed.

    No norm and no activation follow: the layer has its own, as in CoTNet's blocks.
    """

    kind = "cot"

    def __init__(self, c1: int, c2: int, *args: Any) -> None:
        super().__init__(c1, c2, *args)
        self.bn, self.act = nn.Identity(), nn.Identity()


class Involution(_InPlaceOfConv):
    """``Involution2d`` in a YAML, after a 1x1 convolution for new channels; norm and activation follow."""

    kind, kernel_size = "involution", 7


class Contextual(_InPlaceOfConv):
    """``ContextualConv2d`` in a YAML, without a prior: contextual convolution, norm and activation."""

    kind = "contextual"


class TimmBackbone(nn.Module):
    """``TimmBackbone`` in a YAML: the feature levels of a network of timm, which ``Index`` rows pick from.

    It maps images ``(B, C, H, W)`` to a list of features ``(B, C_i, H_i, W_i)``, the finest first.

    Args:
        name: Name of the network, such as ``cotnet50``, or ``local-dir:FOLDER``.
        pretrained: Whether timm loads its weights.
        options: More arguments of `timm.create_model`, such as ``out_indices``.
    """

    def __init__(self, name: str, pretrained: bool = False, options: dict[str, Any] | None = None) -> None:
        super().__init__()
        self.m = timm.create_model(name, pretrained=pretrained, features_only=True, **(options or {}))

    def forward(self, x: Tensor) -> list[Tensor]:
        """Return the features of all levels, for images ``(B, C, H, W)``."""
        return list(self.m(x))


_LIKE_CONV: dict[str, type[nn.Module]] = {
    "CoTLayer": CoT,
    "Involution2d": Involution,
    "ContextualConv2d": Contextual,
}
_LIKE_TORCHVISION: dict[str, type[nn.Module]] = {"TimmBackbone": TimmBackbone}


class KeepReplacements:
    """Callback that keeps what `ctxvision.nn.replace_convs` did to a network when ultralytics trains it.

    ``train()`` builds the network anew from its YAML. This callback has the trainer put copies of the replaced
    layers into the new network, weights included. Give it to the model before every call of ``train()``, also one
    that resumes::

        yolo = YOLO("yolo11n.yaml")
        replace_convs(yolo.model, "cot", where="model.6")
        yolo.add_callback("on_pretrain_routine_start", KeepReplacements(yolo.model))
        yolo.train(data="coco8.yaml")

    It cannot be kept where ultralytics starts a command line of its own, as ``yolo.tune()`` does; name the layers
    in the YAML there.

    Args:
        model: Network after the replacement, ``yolo.model``.

    Raises:
        ValueError: If the network has no layer of ours.
    """

    def __init__(self, model: nn.Module) -> None:
        if not _has_ours(model):
            raise ValueError("KeepReplacements: the network has no layer of ctxvision; call replace_convs first")
        self.model = model

    def __call__(self, trainer: Any) -> None:
        """Change how this trainer builds its network."""
        build: Callable[..., nn.Module] = trainer.get_model

        def get_model(*args: Any, **kwargs: Any) -> nn.Module:
            return graft(self.model, build(*args, **kwargs))

        trainer.get_model = get_model


def graft(source: nn.Module, target: nn.Module) -> nn.Module:
    """Put copies of the layers that `replace_convs` made in ``source`` in place of the convolutions in ``target``.

    Args:
        source: Network whose convolutions were replaced.
        target: Network with the same structure before the replacement; it is changed.

    Returns:
        ``target``.

    Raises:
        ValueError: If ``target`` has no convolution where ``source`` has a layer of ours.
    """
    placed = [name for name, module in source.named_modules() if isinstance(module, _OWN_LAYERS)]
    for name in placed:
        place = name
        # a pool or a projection stand before the layer, together in the convolution's place
        while place and not _stands(target, place):
            place = place.rpartition(".")[0]
        found = target.get_submodule(place)
        if isinstance(found, _OWN_LAYERS):
            continue  # the YAML names the layer
        if not isinstance(found, nn.Conv2d):
            raise ValueError(
                f"the new network has no convolution at {name}, where the old one has a layer of ours"
            )
        layer = copy.deepcopy(source.get_submodule(place)).to(found.weight.device)
        # layers from a checkpoint are frozen
        target.set_submodule(place, layer.requires_grad_(found.weight.requires_grad))
    return target


def _stands(model: nn.Module, name: str) -> bool:
    try:
        model.get_submodule(name)
    except AttributeError:
        return False
    return True


@functools.wraps(tasks.BaseModel.fuse)
def _fuse(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Fold BatchNorm into convolutions as ultralytics does, but not into layers of ours.

    Those have no single weight that a norm could be folded into: their norms stay behind them, and blocks that
    would merge parallel convolutions stay as they are.
    """
    for module in list(self.modules()):
        if isinstance(module, Conv) and hasattr(module, "bn") and _has_ours(module.conv):
            module.conv = nn.Sequential(module.conv, module.bn).requires_grad_(False)
            del module.bn
            module.forward = module.forward_fuse
        elif isinstance(module, (RepConv, RepVGGDW)) and _has_ours(module):
            module.fuse = module.fuse_convs = _do_nothing
            module.forward_fuse = module.forward
    return _fuse.__wrapped__(self, *args, **kwargs)


def _has_ours(model: nn.Module) -> bool:
    return any(isinstance(module, _OWN_LAYERS) for module in model.modules())


def _do_nothing() -> None:
    pass


def _register() -> None:
    """Have ultralytics' parser know our names.

    The parser decides by sets of classes which it writes down in its own code, ``frozenset({Conv, …})``. It goes
    on running that very code, but with globals in which our names are known and a set of classes that has ``Conv``
    has ours too. Nothing else in ultralytics is touched.
    """
    original = tasks.parse_model

    def joined(items: Iterable[Any] = ()) -> builtins.frozenset[Any]:
        found = builtins.frozenset(items)
        if Conv in found:
            found |= set(_LIKE_CONV.values())
        if TorchVision in found:
            found |= set(_LIKE_TORCHVISION.values())
        return found

    def parse_model(*args: Any, **kwargs: Any) -> Any:
        known = {**vars(tasks), **_LIKE_CONV, **_LIKE_TORCHVISION, "frozenset": joined}
        parse = types.FunctionType(original.__code__, known, original.__name__, original.__defaults__)
        return parse(*args, **kwargs)

    tasks.parse_model = parse_model
    try:
        rows = {"backbone": [[-1, 1, "ContextualConv2d", [64, 3]]], "head": [], "width_multiple": 0.5}
        with torch.random.fork_rng(devices=[]):
            layer = tasks.parse_model(rows, ch=3, verbose=False)[0][0]
        shape = layer(torch.zeros(2, 3, 8, 8)).shape
    except Exception as error:
        tasks.parse_model = original
        raise ImportError(
            f"ultralytics {__version__} parses YAMLs in another way than 8.4 does: {error}"
        ) from error
    if shape != (2, 32, 8, 8):
        tasks.parse_model = original
        raise ImportError(
            f"ultralytics {__version__} parses YAMLs in another way than 8.4: channels are not scaled"
        )


_register()
tasks.BaseModel.fuse = _fuse
