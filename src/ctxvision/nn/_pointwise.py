"""1x1 convolutions computed as matrix products where those are faster: in inference on a CPU."""

from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from ctxvision.ops._derivatives import transforms_active

from ._checks import is_plain

# A convolution brings its weights into oneDNN's order anew at each call, which costs as much as many pixels do.
# Measured with weights outside the cache, as a network finds them, on an AVX-512 processor (docs/benchmarks.md):
# float32 needs a large matrix and few pixels, bfloat16 gains from fewer calls as well.
_LEAST_WEIGHTS = {torch.float32: 512 * 512, torch.bfloat16: 0}
_WEIGHTS_PER_PIXEL = 2500
_FEW_PIXELS = {torch.float32: 0, torch.bfloat16: 1024}


def apply(layer: nn.Module, x: Tensor) -> Tensor:
    """Return ``layer(x)``, up to rounding, by a matrix product where that is faster.

    Args:
        layer: A 1x1 convolution or any other layer.
        x: Features, ``(B, C, H, W)``.
    """
    y: Tensor = computed(layer, x) if may_choose(x) else layer(x)
    return y


def linear(x: Tensor, weight: Tensor, bias: Tensor | None, gelu: str | None = None) -> Tensor:
    """Return a linear layer over the channels of ``(B, C, H, W)``, as ``(B, O, H, W)``, with a GELU behind it.

    On CPUs in channels-last; there the product with its GELU is one call, which saves a pass over the largest
    features of a network.

    Args:
        x: Features, ``(B, C, H, W)``.
        weight: Weight, ``(O, C)``.
        bias: Bias, ``(O,)``, or ``None``.
        gelu: GELU's ``approximate``; ``None`` for no GELU.
    """
    if may_choose(x) and _can_multiply(weight, x):
        return _product(x, weight, bias, gelu=gelu)
    # up to twice as fast as the matrix product behind nn.Linear
    y = F.conv2d(x, weight[:, :, None, None], bias)
    if gelu is None:
        return y
    return F.gelu(y.permute(0, 2, 3, 1), approximate=gelu).permute(0, 3, 1, 2)  # sooner where it is contiguous


def may_choose(x: Tensor) -> bool:
    """Whether nobody looks on: no gradient, tracer, compiler or counter of operations expects a convolution."""
    return not (
        torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or type(x) is not Tensor
        or x.device.type != "cpu"
        or x.dtype not in _LEAST_WEIGHTS
        or torch.is_autocast_enabled("cpu")
        or torch._C._len_torch_dispatch_stack()
        or torch._C._len_torch_function_stack()
        or torch.jit.is_tracing()
        or transforms_active()
        or forward_ad._current_level >= 0
    )


def _product_is_faster(weight: Tensor, x: Tensor, stride: tuple[int, ...] = (1, 1)) -> bool:
    """Whether `_product` takes less time than a 1x1 convolution with this weight, if `may_choose` holds."""
    batch, _, height, width = x.shape
    pixels = batch * -(-height // stride[0]) * -(-width // stride[1])
    weights = weight.numel()
    few = pixels <= _FEW_PIXELS[x.dtype] or weights >= max(_LEAST_WEIGHTS[x.dtype], _WEIGHTS_PER_PIXEL * pixels)
    return few and _can_multiply(weight.flatten(1), x)


def _can_multiply(weight: Tensor, x: Tensor) -> bool:
    """Whether oneDNN has a fast product of this matrix, with all of its type's digits, if `may_choose` holds."""
    return (
        weight.dtype == x.dtype
        and x.is_contiguous(memory_format=torch.channels_last)
        and weight.is_contiguous()  # oneDNN has none but reference code for parts of a matrix
        and torch.backends.mkldnn.is_available()
        and torch._C._get_mkldnn_enabled()
        and (_computes_bfloat16() if x.dtype == torch.bfloat16 else _products_are_exact())
    )


def _products_are_exact() -> bool:
    """Whether float32 matrix products compute in float32; less may be asked of them alone."""
    try:
        asked = torch._C._get_fp32_precision_getter("mkldnn", "matmul")
    except AttributeError:  # torch 2.8; later ones raise here where their new setting was used
        asked = torch.get_float32_matmul_precision()
    return asked in ("none", "ieee", "highest")


@cache
def _computes_bfloat16() -> bool:
    """Whether the processor has the instructions without which oneDNN refuses bfloat16, and torch does not."""
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _product(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, ...] = (1, 1), gelu: str | None = None
) -> Tensor:
    """Return a 1x1 convolution, ``(B, O, H', W')`` in channels-last, as a matrix product.

    Args:
        x: Features, ``(B, C, H, W)``.
        weight: Weight, ``(O, C)``.
        bias: Bias, ``(O,)``, or ``None``.
        stride: Strides of the convolution.
        gelu: As for `linear`.
    """
    pixels = x[:, :, :: stride[0], :: stride[1]].permute(0, 2, 3, 1).contiguous()
    behind, way = ("none", "") if gelu is None else ("gelu", gelu)
    result: Tensor = torch.ops.mkldnn._linear_pointwise(pixels, weight, bias, behind, [], way)
    return result.permute(0, 3, 1, 2)


def computed(layer: nn.Module, x: Tensor) -> Tensor:
    """Return what `apply` does, if `may_choose` holds for ``x``."""
    if isinstance(layer, nn.Conv2d) and is_pointwise(layer):
        stride: tuple[int, ...] = layer.stride
        if x.shape[2:] == (1, 1) and layer.weight.dtype == x.dtype and _products_are_exact():
            return F.linear(x.flatten(1), layer.weight.flatten(1), layer.bias)[:, :, None, None]
        if _product_is_faster(layer.weight, x, stride):
            return _product(x, layer.weight.flatten(1), layer.bias, stride)
    y: Tensor = layer(x)
    return y


def is_pointwise(conv: nn.Module) -> bool:
    """Whether a layer is a 1x1 convolution of all channels, without padding, and nothing else."""
    if not isinstance(conv, nn.Conv2d):
        return False
    return conv.kernel_size == (1, 1) and conv.groups == 1 and conv.padding == (0, 0) and is_plain(conv, nn.Conv2d)
