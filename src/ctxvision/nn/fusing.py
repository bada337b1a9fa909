"""Fold BatchNorm into the convolutions and linear layers before it, for inference."""

import copy
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights, fuse_linear_bn_weights
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from ._checks import is_plain

Model = TypeVar("Model", bound=nn.Module)
NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)  # not what adds an activation to them
LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
CONVOLUTIONS = (F.conv1d, F.conv2d, F.conv3d)


def fuse(model: Model, example: Tensor | None = None) -> Model:
    """Return a copy for inference in which BatchNorm is folded into the layer before it.

    A BatchNorm in evaluation mode is a fixed scale and shift per channel, which the convolution or linear layer
    before it can apply by its own weight and bias. Who feeds whom is not guessed from names: a copy without values
    processes one image while its calls are recorded. A pair is folded only if the norm is the one reader of the
    layer's output and no weight of the two is used anywhere else, so shared layers stay as they are. The result
    equals the model's within rounding; the folded norms become ``nn.Identity``.

    Not folded, because nothing linear with a weight of its own stands before them: the norm after a local
    aggregation (one in each CoT layer, ``bn2`` of RedNet's blocks and one in its stem) and after a contextual
    convolution, whose kernel offsets are shared by the output channels. Nor is the norm in its generator of
    sampling offsets, before which the prior's part is added.

    Args:
        model: Network that takes one tensor of images, ``(B, C, H, W)``, in any mode; it is not changed.
        example: Images as the model takes them, ``(B, C, H, W)``, of which only the shape matters. ``None`` takes
            one image of the ``input_size`` in the network's timm configuration.

    Returns:
        A new model in evaluation mode, with the same class, dtype, device and memory format.

    Raises:
        ValueError: If an example is needed, or the model cannot process it.

    Examples:
        >>> import timm, torch
        >>> import ctxvision.models
        >>> from ctxvision.nn import fuse
        >>> model = timm.create_model("rednet_micro", num_classes=10).eval()
        >>> fused, x = fuse(model), torch.randn(1, 3, 64, 64)
        >>> torch.allclose(fused(x), model(x), atol=1e-5)
        True
        >>> [sum(isinstance(m, torch.nn.BatchNorm2d) for m in net.modules()) for net in (model, fused)]
        [28, 6]
    """
    try:
        fused = copy.deepcopy(model).eval()
    except RuntimeError as error:  # a weight that is computed from others, as by weight_norm's hooks
        raise ValueError(f"fuse: {type(model).__name__} cannot be copied: {error}") from error
    for layer_name, norm_name in _foldable(fused, example):
        norm: Any = fused.get_submodule(norm_name)
        _fold(fused.get_submodule(layer_name), norm)
        _replace(fused, norm, nn.Identity().eval())
    return fused


def _fold(layer: Any, norm: Any) -> None:
    """Let a layer do what the norm after it does, computed in double precision; its hooks stay."""
    parameters = layer.weight, layer.bias, norm.running_mean, norm.running_var, norm.weight, norm.bias
    weight, bias, mean, variance, *affine = (None if t is None else t.detach().double() for t in parameters)
    fold: Any = fuse_linear_bn_weights if isinstance(layer, nn.Linear) else fuse_conv_bn_weights
    dtype, trained = layer.weight.dtype, layer.weight.requires_grad
    folded = fold(weight, bias, mean, variance, norm.eps, *affine)
    layer.weight, layer.bias = (nn.Parameter(t.detach().to(dtype), requires_grad=trained) for t in folded)


def _replace(model: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Put ``new`` wherever ``old`` is; a module may have several names."""
    for name in [name for name, module in model.named_modules(remove_duplicate=False) if module is old]:
        model.set_submodule(name, new)


class _Call(NamedTuple):
    function: Callable[..., Any]
    arguments: list[Any]
    """Positional arguments and values of keywords."""
    result: Any


class _Recorder(TorchFunctionMode):
    """Record the calls of torch functions that return tensors, or change one and return nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[_Call] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if result is None or any(isinstance(leaf, Tensor) for leaf in tree_leaves(result)):
            self.calls.append(_Call(func, tree_leaves((args, kwargs)), result))
        return result


def _foldable(model: nn.Module, example: Tensor | None) -> Iterator[tuple[str, str]]:
    """Yield the names of layers and of the norms that can be folded into them."""
    # one dtype, so that the image fits whatever the model's is; "meta" tensors have no values
    shadow = copy.deepcopy(model).to(device="meta", dtype=torch.float32)
    for module in shadow.modules():
        if isinstance(module, LAYERS):  # our layers call one that is hooked, instead of splitting its weight
            module.register_forward_pre_hook(lambda *_: None)
    image = torch.empty(_image_shape(model, example), dtype=torch.float32, device="meta")
    recorder = _Recorder()
    try:
        with torch.no_grad(), recorder:
            output = shadow(image)
    except Exception as error:
        raise ValueError(f"fuse: {type(model).__name__} cannot process {tuple(image.shape)}: {error}") from error
    readers = Counter(
        id(value) for call in recorder.calls for value in call.arguments if isinstance(value, Tensor)
    )
    readers.update(id(value) for value in tree_leaves(output) if isinstance(value, Tensor))
    layers = {
        id(module.weight): (name, module) for name, module in shadow.named_modules() if isinstance(module, LAYERS)
    }
    norms = {
        id(module.running_mean): (name, module)
        for name, module in shadow.named_modules()
        if type(module) in NORMS and module.running_mean is not None and is_plain(module, type(module))
    }
    made_by = {id(call.result): call for call in recorder.calls}
    for call in recorder.calls:
        if call.function is not F.batch_norm or id(call.arguments[1]) not in norms:
            continue
        source = made_by.get(id(call.arguments[0]))
        if source is None or not _applies_a_weight(source) or id(source.arguments[1]) not in layers:
            continue
        layer_name, layer = layers[id(source.arguments[1])]
        if (source.arguments[2] if len(source.arguments) > 2 else None) is not layer.bias:
            continue
        norm_name, norm = norms[id(call.arguments[1])]
        once = [source.result, *layer.parameters(), *norm.parameters(), *norm.buffers()]
        if all(readers[id(value)] <= 1 for value in once):
            yield layer_name, norm_name


def _applies_a_weight(call: _Call) -> bool:
    # BatchNorm counts channels in dimension 1, a linear layer in the last
    return call.function in CONVOLUTIONS or (call.function is F.linear and call.result.dim() == 2)


def _image_shape(model: nn.Module, example: Tensor | None) -> tuple[int, ...]:
    if example is not None:
        return tuple(example.shape)
    cfg = getattr(model, "pretrained_cfg", None) or {}
    if "input_size" not in cfg:
        raise ValueError(f"fuse: {type(model).__name__} has no timm configuration, so it needs an example input")
    return (1, *cfg["input_size"])
