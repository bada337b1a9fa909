"""Contextual Convolutional Networks (Liang, Shen, Liu, Hua, ICLR 2023), on ConvNeXt and on ResNet-50.

The paper leaves widths to a supplement that was never published:

* ResNet-50 is the authors' released network: blocks 0, 2, 4 of a stage are contextual, both generators have a
  bottleneck of a quarter of the layer's width, the last convolution for sampling offsets is dense, the prior is
  half as wide as the layer that it bends, projections are 64, 128, 256 and 512 wide, merging is 128 wide, and
  projections and generators have BatchNorm.
* ConvNeXt follows from the paper's parameter counts (`tools/search_contextual_budget.py`): projections are half
  as wide as their input, merging is 64 wide, and every weight-offset bottleneck is 24 wide. T makes the first of
  every three blocks contextual, S and B as many blocks as T.

Parameter names are timm's for ConvNeXt and ResNet; what is contextual comes under new names, so that the
weights of a plain network load (`ctxvision.checkpoints.warm_start`).
"""

from collections.abc import Sequence
from functools import partial
from itertools import accumulate
from operator import mul
from typing import Any, ClassVar

import torch
from timm.layers import trunc_normal_
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from ctxvision.nn import ContextualConv2d, _steps

from ._backbone import default_cfg, drop_path_rates, layer_norm
from ._contextual_blocks import (
    Blocks,
    ContextualBottleneck,
    ContextualNeXtBlock,
    ConvNeXtStage,
    PriorSequence,
    chosen_blocks,
    downsampling,
    strides_and_dilations,
)
from ._contextual_net import ContextualNet, Design, keep_classes
from ._pretrained import build_network
from ._residual import LAYERS, plain_shortcut

__all__ = ["ContextualConvNeXt", "ContextualNet", "ContextualResNet"]


def _has_offsets(plan: Design, stage: int) -> bool:
    """Return whether a stage has contextual convolutions."""
    return stage in plan.stages and not plan.extra_input and (plan.weight_offsets or plan.sampling_offsets)


def _contextual_args(
    plan: Design, prior_dim: int, weight_hidden: int, sampling_hidden: int | None = None
) -> dict[str, Any]:
    """Return what the design means for a `ContextualConv2d`."""
    return {
        "prior_dim": prior_dim if plan.prior else 0,
        "weight_hidden": weight_hidden if plan.weight_offsets else None,
        "sampling_hidden": sampling_hidden,
        "norm": plan.norm,
        "sampling": plan.sampling_offsets,
        "modulation": plan.modulation,
    }


def _plain_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers that the plain network has as well; generators initialise themselves."""
    return [m for name, m in model.named_modules() if "_offsets" not in name]


class ContextualConvNeXt(ContextualNet):
    """ConvNeXt with contextual 7x7 depthwise convolutions (Contextual CNN, section 4.1).

    It maps images ``(B, in_chans, H, W)`` to logits ``(B, num_classes)``.

    Args:
        depths: Number of blocks in each of the four stages.
        dims: Number of channels of each of the four stages.
        contextual_blocks: For each stage, if the design makes it contextual, the numbers of the contextual
            blocks, from 0, or how many there are: the first of each of as many equal runs.
        weight_hidden: Width inside the generator of weight offsets.
        output_stride: Stride of the last stage, 32, 16 or 8; below 32 later stages dilate instead of striding.
        ls_init_value: Initial value of the layer scale.
        wide_funnel: Whether projections and class embeddings start larger than ConvNeXt's layers, so that SGD
            trains them too, see `ClassFunnel.start_wide`.
        num_classes: Number of classes; 0 returns pooled features, and the funnel has ``context_classes`` classes.
        in_chans: Number of channels of the image.
        global_pool: Name of timm's global pooling, ``""`` for none.
        drop_rate: Dropout probability before the head.
        drop_path_rate: Stochastic depth probability of the last block; those of earlier blocks grow linearly.
        device: Device of the parameters and buffers, as for torch's own layers.
        dtype: Floating-point type of the parameters and buffers, as for torch's own layers.
        **design: The fields of `Design`.

    Raises:
        TypeError: If the design has no such field.
        ValueError: If an argument is out of range, or the design contradicts itself.
    """

    stem_end = "stem"
    feature_cfg: ClassVar[dict[str, Any]] = {
        "out_indices": (0, 1, 2, 3), "feature_cls": "getter", "flatten_sequential": True,
    }  # fmt: skip

    def __init__(
        self,
        depths: Sequence[int],
        dims: Sequence[int],
        *,
        contextual_blocks: Sequence[Blocks] = (1, 1, 3, 1),
        weight_hidden: int = 24,
        output_stride: int = 32,
        ls_init_value: float = 1e-6,
        wide_funnel: bool = False,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **design: Any,
    ) -> None:
        placed: dict[str, Any] = {"device": device, "dtype": dtype}
        if not len(depths) == len(dims) == len(contextual_blocks) == 4 or min(*depths, *dims) < 1:
            raise ValueError(
                "depths, dims and contextual_blocks must be four numbers, "
                f"got {depths}, {dims}, {contextual_blocks}"
            )
        chosen = chosen_blocks(depths, contextual_blocks)
        plan = Design.of(**design)
        if plan.extra_input:
            raise ValueError("extra_input is the ablation of contextual_resnet50; ConvNeXt does not build it")
        per_block = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        matcher = {"stem": r"^stem", "coarse": r"^stages\.(\d+)", "blocks": per_block}
        super().__init__(num_classes, in_chans, drop_rate, matcher, placed)
        rates, steps = drop_path_rates(depths, drop_path_rate), strides_and_dilations(4, output_stride)

        def depthwise(width: int, dilation: int, contextual: bool) -> nn.Module:
            kernel = {"padding": 3 * dilation, "dilation": dilation, "groups": width, **placed}
            if contextual:
                args = _contextual_args(plan, plan.dim, weight_hidden)
                return ContextualConv2d(width, width, kernel_size=7, **kernel, **args)
            return nn.Conv2d(width, width, 7, **kernel)

        def stage(i: int) -> ConvNeXtStage:
            width, depth, (stride, dilation) = dims[i], depths[i], steps[i]
            contextual = chosen[i] if _has_offsets(plan, i + 1) else set()
            blocks = [
                ContextualNeXtBlock(
                    width,
                    conv_dw=depthwise(width, dilation, n in contextual),
                    drop_path=rates[i][n],
                    layer_scale=ls_init_value,
                    **placed,
                )
                for n in range(depth)
            ]
            before = downsampling(dims[i - 1], width, stride, dilation, **placed) if i else nn.Identity()
            return ConvNeXtStage(before, blocks)

        stages = nn.Sequential(*map(stage, range(4)))
        self.stem = nn.Sequential(  # type: ignore[method-assign]
            nn.Conv2d(in_chans, dims[0], 4, 4, **placed), layer_norm(dims[0], **placed)
        )
        self.stages = stages  # type: ignore[assignment, misc]
        paths = [f"stages.{i}" for i in range(4)]
        strides = [2, *accumulate((stride for stride, _ in steps), mul)]
        self._add_head(plan, paths, (dims[0], *dims), strides, layer_norm(dims[-1], **placed), global_pool)
        for name, layer in self.named_modules():
            if name.endswith(("offsets.fc2", "offsets.conv2")):
                continue  # they start at zero
            if isinstance(layer, nn.Conv2d | nn.Linear | ContextualConv2d | nn.Embedding):
                trunc_normal_(layer.weight, std=0.02)
            if isinstance(layer, nn.Conv2d | nn.Linear | ContextualConv2d) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
        if wide_funnel and self.context is not None:
            self.context.start_wide()


class ContextualResNet(ContextualNet):
    """ResNet with contextual 3x3 convolutions in every second block of the contextual stages (section 4.2).

    It maps images ``(B, in_chans, H, W)`` to logits ``(B, num_classes)``.

    Args:
        depths: Number of blocks in each of the four stages.
        planes: Width of the 3x3 convolutions of each stage; the stage has four times as many channels.
        contextual_blocks: As in `ContextualConvNeXt`; ``None`` for blocks 0, 2, 4, ... of each stage.
        bottleneck: Width inside the generators, as a share of the layer that they bend.
        prior_width: Width of the prior, as a share of the layer that it bends.
        wide_funnel: As in `ContextualConvNeXt`; the authors' class embeddings start with a deviation of 0.02.
        output_stride: Stride of the last stage, 32, 16 or 8; below 32 later stages dilate instead of striding.
        num_classes: Number of classes; 0 returns pooled features, and the funnel has ``context_classes`` classes.
        in_chans: Number of channels of the image.
        global_pool: Name of timm's global pooling, ``""`` for none.
        drop_rate: Dropout probability before the head.
        drop_path_rate: Stochastic depth probability of the last block; those of earlier blocks grow linearly.
        device: Device of the parameters and buffers, as for torch's own layers.
        dtype: Floating-point type of the parameters and buffers, as for torch's own layers.
        **design: The fields of `Design`.

    Raises:
        TypeError: If the design has no such field.
        ValueError: If an argument is out of range, or the design contradicts itself.
    """

    stem_end = "maxpool"
    feature_cfg: ClassVar[dict[str, Any]] = {"out_indices": (0, 1, 2, 3, 4), "feature_cls": "getter"}

    def __init__(
        self,
        depths: Sequence[int],
        *,
        planes: Sequence[int] = (64, 128, 256, 512),
        contextual_blocks: Sequence[Blocks] | None = None,
        bottleneck: float = 0.25,
        prior_width: float = 0.5,
        wide_funnel: bool = False,
        output_stride: int = 32,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        **design: Any,
    ) -> None:
        placed: dict[str, Any] = {"device": device, "dtype": dtype}
        if not len(depths) == len(planes) == 4 or min(*depths, *planes) < 1:
            raise ValueError(f"depths and planes must be four positive integers, got {depths} and {planes}")
        if not 0 < bottleneck <= 1 or not 0 < prior_width <= 4:
            raise ValueError(
                f"bottleneck must be a share up to 1, prior_width up to 4, got {bottleneck} and {prior_width}"
            )
        if contextual_blocks is None:
            contextual_blocks = [range(0, depth, 2) for depth in depths]
        chosen = chosen_blocks(depths, contextual_blocks)
        plan = Design.of(**design)
        matcher = {"stem": r"^conv1|^bn1", "coarse": r"^layer(\d+)", "blocks": r"^layer(\d+)\.(\d+)"}
        super().__init__(num_classes, in_chans, drop_rate, matcher, placed)
        steps = strides_and_dilations(4, output_stride)
        stages, channels, rates = [], [planes[0]], drop_path_rates(depths, drop_path_rate)
        for i, (depth, width) in enumerate(zip(depths, planes, strict=True)):
            blocks, prior_dim = PriorSequence(), max(1, round(prior_width * width))
            dilation = steps[i][1]
            for index in range(depth):
                stride = steps[i][0] if i and index == 0 else 1
                in_channels = channels[-1] if index == 0 else 4 * width
                kernel = {"stride": stride, "padding": dilation, "dilation": dilation, "bias": False, **placed}
                if _has_offsets(plan, i + 1) and index in chosen[i]:
                    hidden = max(1, round(bottleneck * width))
                    args = _contextual_args(plan, prior_dim, hidden, hidden)
                    conv2: nn.Module = ContextualConv2d(width, width, kernel_size=3, **kernel, **args)
                else:
                    conv2 = nn.Conv2d(width, width, 3, **kernel)
                shortcut = plain_shortcut(in_channels, 4 * width, stride, **placed) if index == 0 else None
                extra = prior_dim if plan.extra_input and i + 1 in plan.stages and index == 0 else 0
                block = partial(ContextualBottleneck, in_channels, width, drop_path=rates[i][index], **placed)
                blocks.append(block(conv2=conv2, shortcut=shortcut, prior_dim=extra))
            stages.append(blocks)
            channels.append(4 * width)
        self.conv1 = nn.Conv2d(in_chans, planes[0], 7, 2, 3, bias=False, **placed)
        self.bn1 = nn.BatchNorm2d(planes[0], **placed)
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        for layer in _plain_layers(self):
            if isinstance(layer, nn.Conv2d | ContextualConv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, ContextualBottleneck):
                nn.init.zeros_(layer.bn3.weight)
        prior_dims = {i: max(1, round(prior_width * width)) for i, width in enumerate(planes, 1)}
        strides = [2, *accumulate((stride for stride, _ in steps), mul)]
        self._add_head(plan, ("act1", *LAYERS), channels, strides, None, global_pool, prior_dims)
        if self.context is not None:
            nn.init.normal_(self.context.embedding.weight, std=0.02)
            if wide_funnel:
                self.context.start_wide()

    @property
    def stages(self) -> list[PriorSequence]:
        """Return the four stages; those that were pruned away are empty."""
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def stem(self, x: Tensor) -> Tensor:
        """Return the features before the first stage, ``(B, C, H / 4, W / 4)``."""
        y: Tensor = self.maxpool(self.before_pool(x))
        return y

    def before_pool(self, x: Tensor) -> Tensor:
        """Return the stem's features before its max-pool, ``(B, C, H / 2, W / 2)``."""
        y: Tensor = _steps.apply(x, self.conv1, self.bn1, self.act1)
        return y


_cfg = partial(
    default_cfg,
    classifier="context.embedding",
    paper_name="Contextual Convolutional Networks",
    origin_url="https://github.com/liang4sx/contextual_cnn",
)

default_cfgs = generate_default_cfgs(
    {
        "contextual_convnext_tiny": _cfg(first_conv="stem.0"),
        "contextual_convnext_small": _cfg(first_conv="stem.0"),
        "contextual_convnext_base": _cfg(first_conv="stem.0"),
        "contextual_convnext_micro": _cfg(
            first_conv="stem.0", input_size=(3, 64, 64), pool_size=(2, 2), crop_pct=1.0
        ),
        "contextual_resnet50": _cfg(first_conv="conv1", crop_pct=0.95),
        "contextual_resnet_micro": _cfg(
            first_conv="conv1", input_size=(3, 64, 64), pool_size=(2, 2), crop_pct=1.0
        ),
    }
)


def _create(
    network: type[ContextualConvNeXt] | type[ContextualResNet], variant: str, pretrained: bool, **kwargs: Any
) -> ContextualNet:
    if not kwargs.get("stages", Design().stages) or not kwargs.get("prior", Design().prior):
        # without classes to weigh the classifier is a linear layer
        overlay = {"classifier": "fc", **(kwargs.get("pretrained_cfg_overlay") or {})}
        kwargs["pretrained_cfg_overlay"] = overlay
    model: ContextualNet = build_network(
        network,
        variant,
        pretrained,
        pretrained_filter_fn=keep_classes,
        feature_cfg=dict(network.feature_cfg),
        **kwargs,
    )
    return model


_create_convnext = partial(_create, ContextualConvNeXt)
_create_resnet = partial(_create, ContextualResNet)


@register_model
def contextual_convnext_tiny(pretrained: bool = False, **kwargs: Any) -> ContextualNet:
    """Contextual ConvNeXt-T, 32M parameters, 4.6 GMACs."""
    args = {"depths": (3, 3, 9, 3), "dims": (96, 192, 384, 768)}
    return _create_convnext("contextual_convnext_tiny", pretrained, **{**args, **kwargs})


@register_model
def contextual_convnext_small(pretrained: bool = False, **kwargs: Any) -> ContextualNet:
    """Contextual ConvNeXt-S, 53M parameters, 8.9 GMACs."""
    args = {"depths": (3, 3, 27, 3), "dims": (96, 192, 384, 768)}
    return _create_convnext("contextual_convnext_small", pretrained, **{**args, **kwargs})


@register_model
def contextual_convnext_base(pretrained: bool = False, **kwargs: Any) -> ContextualNet:
    """Contextual ConvNeXt-B, 93M parameters, 15.6 GMACs."""
    args = {"depths": (3, 3, 27, 3), "dims": (128, 256, 512, 1024)}
    return _create_convnext("contextual_convnext_base", pretrained, **{**args, **kwargs})


@register_model
def contextual_convnext_micro(pretrained: bool = False, **kwargs: Any) -> ContextualNet:
    """Small contextual ConvNeXt for images of 32 to 64 pixels and for CPUs."""
    args = {
        "depths": (2, 2, 4, 2), "dims": (32, 64, 128, 256), "contextual_blocks": (1, 1, 2, 1), "weight_hidden": 8,
        "dim": 64, "merge_hidden": 32, "ls_init_value": 1.0, "wide_funnel": True,
    }  # fmt: skip
    return _create_convnext("contextual_convnext_micro", pretrained, **{**args, **kwargs})


@register_model
def contextual_resnet50(pretrained: bool = False, **kwargs: Any) -> ContextualNet:
    """Contextual ResNet-50, 27.9M parameters, 4.3 GMACs."""
    args = {"hidden": 0.25, "head_hidden": 0.25, "merge_hidden": 128, "norm": "batch"}
    return _create_resnet("contextual_resnet50", pretrained, **{"depths": (3, 4, 6, 3), **args, **kwargs})


@register_model
def contextual_resnet_micro(pretrained: bool = False, **kwargs: Any) -> ContextualNet:
    """Small contextual ResNet for few images of 32 to 64 pixels and for CPUs."""
    args = {
        "depths": (1, 1, 2, 1), "planes": (32, 64, 96, 128), "dim": 128, "hidden": 0.25, "head_hidden": 0.25,
        "merge_hidden": 32, "norm": "batch", "wide_funnel": True, "selection": "rerank",
    }  # fmt: skip
    return _create_resnet("contextual_resnet_micro", pretrained, **{**args, **kwargs})
