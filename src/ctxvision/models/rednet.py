"""RedNet: ResNet with involution (Li et al., Involution, CVPR 2021).

The published (OpenMMLab) checkpoints load under `ctxvision.checkpoints`.
"""

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import SelectAdaptivePool2d
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from ctxvision.nn import Involution2d

from ._backbone import default_cfg
from ._pretrained import build_network
from ._residual import BlockPlace, ResidualNet, Spatial, Stem
from ._weights import WEIGHTS

__all__ = ["RedNet"]


class RedNet(ResidualNet):
    """ResNet whose 3x3 convolutions are 7x7 involutions, with an involution in the stem.

    It maps images ``(B, in_chans, H, W)`` to logits ``(B, num_classes)`` (section 4.1 of the paper). As in the
    authors' code the generators' biases start at zero and the classifier at N(0, 0.01).

    Args:
        depths: Number of blocks in each of the four stages.
        planes: ResNet's base width of each stage.
        expansion: Number of output channels of a block divided by its ``planes``.
        kernel_size: Side of the involutions in the stages, in pixels.
        stem_kernel_size: Side of the involution in the stem, in pixels: 3 in the authors' classifiers, 7 in their
            detectors and segmentation networks.
        in_chans: Number of channels of the image.
        device: Device of the parameters and buffers, as for torch's own layers.
        dtype: Floating-point type of the parameters and buffers, as for torch's own layers.
        **kwargs: The other arguments of `ResidualNet`.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        planes: Sequence[int] = (64, 128, 256, 512),
        expansion: int = 4,
        kernel_size: int = 7,
        stem_kernel_size: int = 3,
        in_chans: int = 3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        placed: dict[str, Any] = {"device": device, "dtype": dtype}

        def spatial(place: BlockPlace) -> Spatial:
            layer = Involution2d(
                place.width, kernel_size=kernel_size, stride=place.stride, dilation=place.dilation, **placed
            )
            return Spatial(layer, norm=True)

        super().__init__(
            stem=_stem(in_chans, planes[0], stem_kernel_size, **placed),
            spatial=spatial,
            depths=depths,
            planes=planes,
            widths=planes,
            expansion=expansion,
            in_chans=in_chans,
            **placed,
            **kwargs,
        )
        for layer in self.modules():  # as the authors', beside ResNet's own
            if isinstance(layer, Involution2d):
                nn.init.zeros_(layer.span.bias)  # type: ignore[arg-type]

    def _set_classifier(self, num_classes: int, pool: SelectAdaptivePool2d) -> None:
        super()._set_classifier(num_classes, pool)
        if isinstance(self.fc, nn.Linear):
            nn.init.normal_(self.fc.weight, std=0.01)
            nn.init.zeros_(self.fc.bias)


def _stem(in_chans: int, channels: int, kernel_size: int, **placed: Any) -> Stem:
    half = channels // 2
    conv = nn.Sequential(
        nn.Conv2d(in_chans, half, 3, 2, 1, bias=False, **placed), nn.BatchNorm2d(half, **placed),
        nn.ReLU(inplace=True),
        Involution2d(half, kernel_size=kernel_size, **placed), nn.BatchNorm2d(half, **placed),
        nn.ReLU(inplace=True),
        nn.Conv2d(half, channels, 3, 1, 1, bias=False, **placed),
    )  # fmt: skip
    return Stem(conv, nn.BatchNorm2d(channels, **placed), nn.MaxPool2d(3, 2, 1), channels, stride=4)


def fit_stem(state_dict: Mapping[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Put the kernels of a smaller involution in the stem into the middle of the network's own, zeros around them.

    The network computes what it did: that is how a detector with a 7x7 involution starts from a classifier's 3x3.

    Args:
        state_dict: Tensors of a RedNet, or of any other network, by name.
        model: The network that they are for.

    Returns:
        The tensors, of which at most the two that generate these kernels have changed.
    """
    tensors, layer = dict(state_dict), getattr(model, "conv1", None)
    layer = layer[3] if isinstance(layer, nn.Sequential) and len(layer) > 3 else None
    if not isinstance(layer, Involution2d):
        return tensors
    for name in ("conv1.3.span.weight", "conv1.3.span.bias"):
        value = tensors.get(name)
        side = 0 if value is None else math.isqrt(len(value) // layer.groups)
        room, rest = divmod(layer.kernel_size - side, 2)
        if value is not None and room > 0 and rest == 0 and side**2 * layer.groups == len(value):
            maps = value.reshape(layer.groups, side, side, -1).movedim(3, 1)
            maps = F.pad(maps, (room, room, room, room)).movedim(1, 3)
            tensors[name] = maps.reshape(-1, *value.shape[1:])
    return tensors


_cfg = partial(
    default_cfg,
    first_conv="conv1.0",
    paper_name="Involution: Inverting the Inherence of Convolution for Visual Recognition",
    paper_ids="arXiv:2103.06255",
    origin_url="https://github.com/d-li14/involution",
)

default_cfgs = generate_default_cfgs(
    {
        **{  # resized bilinearly in training and test
            f"rednet{depth}.in1k": _cfg(interpolation="bilinear", url=WEIGHTS[f"rednet{depth}"].url)
            for depth in (26, 38, 50, 101, 152)
        },
        "rednet_micro": _cfg(input_size=(3, 64, 64), pool_size=(2, 2), crop_pct=1.0),
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> RedNet:
    model: RedNet = build_network(
        RedNet,
        variant,
        pretrained,
        pretrained_filter_fn=fit_stem,
        feature_cfg={"out_indices": (0, 1, 2, 3, 4)},
        **kwargs,
    )
    return model


@register_model
def rednet26(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """RedNet-26, 9.2M parameters, 1.7 GMACs."""
    return _create("rednet26", pretrained, **{"depths": (1, 2, 4, 1), **kwargs})


@register_model
def rednet38(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """RedNet-38, 12.4M parameters, 2.2 GMACs."""
    return _create("rednet38", pretrained, **{"depths": (2, 3, 5, 2), **kwargs})


@register_model
def rednet50(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """RedNet-50, 15.5M parameters, 2.7 GMACs."""
    return _create("rednet50", pretrained, **{"depths": (3, 4, 6, 3), **kwargs})


@register_model
def rednet101(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """RedNet-101, 25.7M parameters, 4.7 GMACs."""
    return _create("rednet101", pretrained, **{"depths": (3, 4, 23, 3), **kwargs})


@register_model
def rednet152(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """RedNet-152, 34.0M parameters, 6.8 GMACs."""
    return _create("rednet152", pretrained, **{"depths": (3, 8, 36, 3), **kwargs})


@register_model
def rednet_micro(pretrained: bool = False, **kwargs: Any) -> RedNet:
    """Small RedNet for images of 32 to 64 pixels and for CPUs."""
    return _create("rednet_micro", pretrained, **{"depths": (1, 1, 2, 1), "planes": (32, 64, 96, 128), **kwargs})
