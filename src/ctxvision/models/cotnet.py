"""CoTNet: Contextual Transformer Networks (Li, Yao, Pan, Mei, 2021).

ResNet whose 3x3 convolutions are CoT layers. The published checkpoints load under `ctxvision.checkpoints`.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from timm.layers import BlurPool2d
from timm.models import generate_default_cfgs, register_model
from torch import nn

from ctxvision.nn import CoTLayer, SplitAttention2d
from ctxvision.nn.cot import Context

from ._backbone import default_cfg
from ._pretrained import build_network
from ._residual import BlockPlace, ResidualNet, Spatial, Stem, average_shortcut, plain_shortcut
from ._weights import WEIGHTS

__all__ = ["CoTNet"]


class CoTNet(ResidualNet):
    """CoTNet, CoTNeXt and SE-CoTNetD (Li et al., 2021, section 3.3 and Table 1).

    They map images ``(B, in_chans, H, W)`` to logits ``(B, num_classes)``.

    Args:
        depths: Number of blocks in each of the four stages.
        planes: ResNet's base width of each stage.
        expansion: Number of output channels of a block divided by its ``planes``.
        cardinality: Number of groups of the CoT layers, 1, or 2 for CoTNeXt.
        base_width: Number of channels of a group where ``planes`` is 64.
        key_groups: Number of groups of the static context's convolution.
        cot_stages: Numbers of the stages whose blocks are CoT (Table 6); the other stages keep ``plain``.
        alternate_stage: Number of a stage in which only blocks 0, 2, 4, ... are CoT.
        plain: The layer of all other blocks, ``"conv"`` for ResNet's 3x3 convolution or ``"se"`` for a 3x3
            split-attention convolution of radix 1 with SiLU.
        context: The contexts that the CoT layers fuse (Table 5), as in `CoTLayer`.
        stem_width: Width of the three 3x3 convolutions of a deep stem, of which the last has twice as many
            channels; 0 for ResNet's 7x7 stem and max-pool. Without a max-pool every stage starts with stride 2.
        stem_pool: Whether a deep stem is followed by ResNet's max-pool.
        avg_down: Whether projection shortcuts start with an average pool, as in ResNet-D.
        downsample: Way in which a stride-2 block shrinks: ``"pool"`` is the convolution's stride, or an average
            pool before a CoT layer; ``"blur"`` is a blur-pool after either layer.
        in_chans: Number of channels of the image.
        device: Device of the parameters and buffers, as for torch's own layers.
        dtype: Floating-point type of the parameters and buffers, as for torch's own layers.
        **kwargs: The other arguments of `ResidualNet`.

    Raises:
        ValueError: If an argument is out of range.
    """

    def __init__(
        self,
        depths: Sequence[int],
        *,
        planes: Sequence[int] = (64, 128, 256, 512),
        expansion: int = 4,
        cardinality: int = 1,
        base_width: int = 64,
        key_groups: int = 4,
        cot_stages: Sequence[int] = (1, 2, 3, 4),
        alternate_stage: int | None = None,
        plain: Literal["conv", "se"] = "conv",
        context: Context = "full",
        stem_width: int = 0,
        stem_pool: bool = True,
        avg_down: bool = False,
        downsample: Literal["pool", "blur"] = "pool",
        in_chans: int = 3,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        placed: dict[str, Any] = {"device": device, "dtype": dtype}
        for name, value, known in (("plain", plain, ("conv", "se")), ("downsample", downsample, ("pool", "blur"))):
            if value not in known:
                raise ValueError(f"CoTNet: {name} must be {' or '.join(map(repr, known))}, got {value!r}")
        if not {*cot_stages, alternate_stage} <= {1, 2, 3, 4, None}:
            raise ValueError(
                "CoTNet: cot_stages and alternate_stage must be numbers from 1 to 4, "
                f"got {tuple(cot_stages)} and {alternate_stage}"
            )

        def spatial(place: BlockPlace) -> Spatial:
            cot = place.stage in cot_stages and (place.stage != alternate_stage or place.block % 2 == 0)
            blur = (
                BlurPool2d(place.width, stride=2).to(**placed)
                if place.stride == 2 and downsample == "blur"
                else None
            )
            if cot:
                layer = CoTLayer(
                    place.width,
                    dilation=place.dilation,
                    key_groups=key_groups,
                    groups=cardinality,
                    context=context,
                    **placed,
                )
                pool = nn.AvgPool2d(3, 2, padding=1) if place.stride == 2 and blur is None else None
                return Spatial(layer, before=pool, after=blur)
            stride = 1 if blur is not None else place.stride
            if plain == "se":
                split = SplitAttention2d(
                    place.width, stride=stride, dilation=place.dilation, groups=cardinality, **placed
                )
                return Spatial(split, after=blur)
            conv = nn.Conv2d(
                place.width, place.width, 3, stride, padding=place.dilation, dilation=place.dilation,
                groups=cardinality, bias=False, **placed,
            )  # fmt: skip
            return Spatial(conv, norm=True, after=blur)

        super().__init__(
            stem=_deep_stem(in_chans, stem_width, stem_pool, **placed)
            if stem_width
            else _resnet_stem(in_chans, **placed),
            spatial=spatial,
            depths=depths,
            planes=planes,
            widths=[math.floor(p * base_width / 64) * cardinality for p in planes],
            expansion=expansion,
            shortcut=average_shortcut if avg_down else plain_shortcut,
            in_chans=in_chans,
            **placed,
            **kwargs,
        )


def _resnet_stem(in_chans: int, **placed: Any) -> Stem:
    conv = nn.Conv2d(in_chans, 64, 7, 2, 3, bias=False, **placed)
    return Stem(conv, nn.BatchNorm2d(64, **placed), nn.MaxPool2d(3, 2, 1), channels=64, stride=4)


def _deep_stem(in_chans: int, width: int, pool: bool, **placed: Any) -> Stem:
    conv = nn.Sequential(
        nn.Conv2d(in_chans, width, 3, 2, 1, bias=False, **placed), nn.BatchNorm2d(width, **placed),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, width, 3, 1, 1, bias=False, **placed), nn.BatchNorm2d(width, **placed),
        nn.ReLU(inplace=True),
        nn.Conv2d(width, 2 * width, 3, 1, 1, bias=False, **placed),
    )  # fmt: skip
    maxpool = nn.MaxPool2d(3, 2, 1) if pool else nn.Identity()
    return Stem(conv, nn.BatchNorm2d(2 * width, **placed), maxpool, channels=2 * width, stride=4 if pool else 2)


_cfg = partial(
    default_cfg,
    paper_name="Contextual Transformer Networks for Visual Recognition",
    paper_ids="arXiv:2107.12292",
    origin_url="https://github.com/JDAI-CV/CoTNet",
)

default_cfgs = generate_default_cfgs(
    {
        "cotnet50": _cfg(),
        "cotnet101": _cfg(),
        "cotnext50_2x48d": _cfg(),
        "cotnext101_2x48d": _cfg(),
        "se_cotnetd50.in1k": _cfg(first_conv="conv1.0", url=WEIGHTS["se_cotnetd50"].url),
        "se_cotnetd101.in1k": _cfg(first_conv="conv1.0", url=WEIGHTS["se_cotnetd101"].url),
        # the authors' two files, trained and tested at 256 and 320 pixels
        "se_cotnetd152.in1k": _cfg(
            first_conv="conv1.0", input_size=(3, 256, 256), pool_size=(8, 8), crop_pct=0.888
        ),
        "se_cotnetd152.in1k_320": _cfg(
            first_conv="conv1.0", input_size=(3, 320, 320), pool_size=(10, 10), crop_pct=0.909
        ),
        "cotnet_micro": _cfg(first_conv="conv1.0", input_size=(3, 64, 64), pool_size=(2, 2), crop_pct=1.0),
    }
)


def _create(variant: str, pretrained: bool, **kwargs: Any) -> CoTNet:
    model: CoTNet = build_network(
        CoTNet, variant, pretrained, feature_cfg={"out_indices": (0, 1, 2, 3, 4)}, **kwargs
    )  # fmt: skip
    return model


_NEXT = {"cardinality": 2, "base_width": 48, "key_groups": 8}
_SE_D = {
    "cot_stages": (3, 4), "alternate_stage": 3, "plain": "se", "stem_pool": False, "avg_down": True,
}  # fmt: skip


@register_model
def cotnet50(pretrained: bool = False, **kwargs: Any) -> CoTNet:
    """CoTNet-50, 22.2M parameters, 3.3 GMACs."""
    return _create("cotnet50", pretrained, **{"depths": (3, 4, 6, 3), **kwargs})


@register_model
def cotnet101(pretrained: bool = False, **kwargs: Any) -> CoTNet:
    """CoTNet-101, 38.3M parameters, 6.1 GMACs."""
    return _create("cotnet101", pretrained, **{"depths": (3, 4, 23, 3), **kwargs})


@register_model
def cotnext50_2x48d(pretrained: bool = False, **kwargs: Any) -> CoTNet:
    """CoTNeXt-50, 30.0M parameters, 4.3 GMACs."""
    return _create("cotnext50_2x48d", pretrained, **{"depths": (3, 4, 6, 3), **_NEXT, **kwargs})


@register_model
def cotnext101_2x48d(pretrained: bool = False, **kwargs: Any) -> CoTNet:
    """CoTNeXt-101, 53.3M parameters, 8.2 GMACs."""
    return _create("cotnext101_2x48d", pretrained, **{"depths": (3, 4, 23, 3), **_NEXT, **kwargs})


@register_model
def se_cotnetd50(pretrained: bool = False, **kwargs: Any) -> CoTNet:
    """SE-CoTNetD-50, 23.1M parameters, 4.1 GMACs."""
    return _create("se_cotnetd50", pretrained, **{"depths": (3, 4, 6, 3), "stem_width": 32, **_SE_D, **kwargs})


@register_model
def se_cotnetd101(pretrained: bool = False, **kwargs: Any) -> CoTNet:
    """SE-CoTNetD-101, 40.9M parameters, 8.5 GMACs."""
    return _create("se_cotnetd101", pretrained, **{"depths": (3, 4, 23, 3), "stem_width": 64, **_SE_D, **kwargs})


@register_model
def se_cotnetd152(pretrained: bool = False, **kwargs: Any) -> CoTNet:
    """SE-CoTNetD-152, 55.8M parameters, 17.0 GMACs."""
    args = {"depths": (3, 8, 36, 3), "stem_width": 64, "downsample": "blur", **_SE_D}
    return _create("se_cotnetd152", pretrained, **{**args, **kwargs})


@register_model
def cotnet_micro(pretrained: bool = False, **kwargs: Any) -> CoTNet:
    """Small CoTNet for images of 32 to 64 pixels and for CPUs."""
    args = {"depths": (1, 1, 2, 1), "planes": (32, 64, 96, 128), "stem_width": 16}
    return _create("cotnet_micro", pretrained, **{**args, **kwargs})
