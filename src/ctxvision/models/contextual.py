"""Contextual Convolutional Networks (Liang, Shen, Liu, Hua, ICLR 2023), on ConvNeXt and on ResNet-50.

Widths that the paper leaves to its unpublished supplement follow from its parameter counts
(`tools/search_contextual_budget.py`):

* ConvNeXt: projections are half as wide as their input, merging is 64 wide, and every weight-offset
  bottleneck is 24 wide. T makes the last of every three blocks contextual, S and B as many blocks as T.
* ResNet-50: projections are 32 wide at the stages and 808 at the head, merging is 32 wide, and every
  weight-offset bottleneck is a seventh of its layer's width, rounded to a multiple of 8.

Parameter names are timm's for ConvNeXt and ResNet; what is contextual comes under new names, so that the
weights of a plain network load (`ctxvision.checkpoints.warm_start`).
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, LayerNorm, LayerNorm2d, trunc_normal_
from timm.models import generate_default_cfgs, register_model
from torch import Tensor, nn

from ctxvision.nn import ContextualConv2d
from ctxvision.nn._checks import is_plain
from ctxvision.ops._derivatives import add_in_place

from ._backbone import default_cfg, drop_path_rates
from ._contextual_net import ContextualNet, Design, PriorSequence, keep_classes
from ._pretrained import build_network
from ._residual import LAYERS, plain_shortcut

__all__ = ["ContextualConvNeXt", "ContextualNet", "ContextualResNet"]


class PointwiseMlp(nn.Module):
    """``Linear -> GELU -> Linear`` over the channels of ``(B, C, H, W)``, under the names of timm's ``Mlp``."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the same shape and memory format."""
        layers = (self.fc1, self.fc2)
        if x.device.type != "cpu" or not all(is_plain(layer, nn.Linear) for layer in layers):
            y: Tensor = self.fc2(self.act(self.fc1(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
            return y
        # on CPUs oneDNN's convolutions are up to twice as fast as the matrix product behind nn.Linear
        hidden = self.act(F.conv2d(x, self.fc1.weight[:, :, None, None], self.fc1.bias))
        return F.conv2d(hidden, self.fc2.weight[:, :, None, None], self.fc2.bias)


class ContextualNeXtBlock(nn.Module):
    """ConvNeXt's block with a contextual or a plain 7x7 depthwise convolution; keeps ``(B, C, H, W)``."""

    def __init__(self, conv_dw: nn.Module, channels: int, drop_path: float, layer_scale: float) -> None:
        super().__init__()
        self.conv_dw = conv_dw
        self.norm = LayerNorm(channels, eps=1e-6)
        self.mlp = PointwiseMlp(channels, 4 * channels)
        self.gamma = nn.Parameter(nn.init.constant_(self.norm.weight.new_empty(channels), layer_scale))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, prior: Tensor | None = None) -> Tensor:
        """Return the block's output under the prior ``(B, d)``."""
        y = self.conv_dw(x, prior) if isinstance(self.conv_dw, ContextualConv2d) else self.conv_dw(x)
        y = self.mlp(self.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return torch.addcmul(x, self.drop_path(y), self.gamma[:, None, None])


class ContextualBottleneck(nn.Module):
    """ResNet's bottleneck with a contextual or a plain 3x3 convolution.

    Args:
        in_channels: Channels in.
        width: Channels of the 3x3 convolution; four times as many go out.
        conv2: The 3x3 convolution.
        shortcut: Projection shortcut.
        drop_path: Stochastic depth.
        prior_dim: Channels of the prior that are expanded and concatenated to the input of the first 1x1
            convolution (Table 4, a2: context as an extra input); 0 for none.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        conv2: nn.Module,
        shortcut: nn.Module | None,
        drop_path: float,
        prior_dim: int,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False)
        self.prior = nn.Linear(prior_dim, width, bias=False) if prior_dim else None
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = conv2
        self.bn2 = nn.BatchNorm2d(width)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.act3 = nn.ReLU(inplace=True)
        self.downsample = shortcut

    def forward(self, x: Tensor, prior: Tensor | None = None) -> Tensor:
        """Return the block's output under the prior ``(B, d)``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.conv1(x)
        if self.prior is not None:
            x = add_in_place(x, self.prior(prior)[:, :, None, None])
        x = self.act1(self.bn1(x))
        x = self.conv2(x, prior) if isinstance(self.conv2, ContextualConv2d) else self.conv2(x)
        x = self.drop_path(self.bn3(self.conv3(self.act2(self.bn2(x)))))
        y: Tensor = self.act3(add_in_place(x, shortcut))
        return y


def _contextual_blocks(depth: int, count: int) -> set[int]:
    """Return which blocks of a stage are contextual: the last of each of ``count`` equal runs."""
    return {depth * (run + 1) // count - 1 for run in range(count)}


def _bends(plan: Design, stage: int) -> bool:
    return stage in plan.stages and not plan.extra_input and (plan.weight_offsets or plan.sampling_offsets)


def _contextual_args(plan: Design, weight_hidden: int) -> dict[str, Any]:
    return {
        "prior_dim": plan.dim if plan.prior else 0,
        "weight_hidden": weight_hidden if plan.weight_offsets else None,
        "sampling": plan.sampling_offsets,
        "modulation": plan.modulation,
    }


def _plain_layers(model: nn.Module) -> list[nn.Module]:
    """Return the layers that the plain network has as well; generators initialise themselves."""
    return [m for name, m in model.named_modules() if "_offsets" not in name]


class ConvNeXtStage(nn.Module):
    """Downsampling, then blocks that all see the same prior."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = PriorSequence(blocks)

    @property
    def grad_checkpointing(self) -> bool:
        """Whether each block is computed again in the backward pass."""
        return self.blocks.grad_checkpointing

    @grad_checkpointing.setter
    def grad_checkpointing(self, enable: bool) -> None:
        self.blocks.grad_checkpointing = enable

    def forward(self, x: Tensor, prior: Tensor | None) -> Tensor:
        """Return ``(B, C', H / 2, W / 2)``, in the first stage ``(B, C, H, W)``, under the prior ``(B, d)``."""
        y: Tensor = self.blocks(self.downsample(x), prior)
        return y


class ContextualConvNeXt(ContextualNet):
    """ConvNeXt with contextual 7x7 depthwise convolutions.

    Args:
        depths: Blocks per stage.
        dims: Channels per stage.
        contextual_blocks: How many blocks of a contextual stage are contextual.
        weight_hidden: Width inside the generator of weight offsets.
        ls_init_value: Start of the layer scale.
        num_classes: Classes; 0 returns pooled features, and the funnel keeps ``context_classes`` classes.
        in_chans: Channels of the image.
        global_pool: timm's pooling type, ``""`` for none.
        drop_rate: Dropout before the head.
        drop_path_rate: Stochastic depth of the last block; earlier ones less, linearly.
        **design: Fields of `Design`.

    Raises:
        TypeError: If the design has no such field.
        ValueError: If an argument is out of range, or the design contradicts itself.
    """

    stem_end = "stem"

    def __init__(
        self,
        depths: Sequence[int],
        dims: Sequence[int],
        contextual_blocks: Sequence[int] = (1, 1, 3, 1),
        weight_hidden: int = 24,
        ls_init_value: float = 1e-6,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **design: Any,
    ) -> None:
        if not len(depths) == len(dims) == len(contextual_blocks) == 4 or min(*depths, *dims) < 1:
            raise ValueError(
                "depths, dims and contextual_blocks must be four numbers, "
                f"got {depths}, {dims}, {contextual_blocks}"
            )
        if any(not 1 <= count <= depth for count, depth in zip(contextual_blocks, depths, strict=True)):
            raise ValueError(
                f"contextual_blocks must lie between 1 and depths {tuple(depths)}, got {tuple(contextual_blocks)}"
            )
        plan = Design.of(**design)
        if plan.extra_input:
            raise ValueError("extra_input is the ablation of contextual_resnet50; ConvNeXt does not build it")
        blocks = [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)]
        super().__init__(
            num_classes, in_chans, drop_rate, {"stem": r"^stem", "coarse": r"^stages\.(\d+)", "blocks": blocks}
        )
        stages, rates = nn.ModuleList(), drop_path_rates(depths, drop_path_rate)
        for i, (depth, width) in enumerate(zip(depths, dims, strict=True)):
            bent = _contextual_blocks(depth, contextual_blocks[i]) if _bends(plan, i + 1) else set()
            kernel: dict[str, Any] = {"kernel_size": 7, "padding": 3, "groups": width}
            stage = [
                ContextualNeXtBlock(
                    ContextualConv2d(width, width, **kernel, **_contextual_args(plan, weight_hidden))
                    if index in bent
                    else nn.Conv2d(width, width, **kernel),
                    width,
                    rates[i][index],
                    ls_init_value,
                )
                for index in range(depth)
            ]
            down = (
                nn.Sequential(LayerNorm2d(dims[i - 1]), nn.Conv2d(dims[i - 1], width, 2, 2))
                if i
                else nn.Identity()
            )
            stages.append(ConvNeXtStage(down, stage))
        self.stem = nn.Sequential(nn.Conv2d(in_chans, dims[0], 4, 4), LayerNorm2d(dims[0]))  # type: ignore[method-assign]
        self.stages = stages  # type: ignore[assignment, misc]
        for layer in _plain_layers(self):
            if isinstance(layer, nn.Conv2d | nn.Linear | ContextualConv2d):
                trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
        paths = [f"stages.{i}" for i in range(4)]
        self._add_head(plan, paths, (dims[0], *dims), LayerNorm2d(dims[-1]), global_pool)


def _seventh(width: int) -> int:
    return max(8, round(width / 56) * 8)


class ContextualResNet(ContextualNet):
    """ResNet with contextual 3x3 convolutions in all blocks of the contextual stages.

    Args:
        depths: Blocks per stage.
        planes: ResNet's base width per stage.
        num_classes, in_chans, global_pool, drop_rate, drop_path_rate: As in `ContextualConvNeXt`.
        **design: Fields of `Design`.

    Raises:
        TypeError: If the design has no such field.
        ValueError: If an argument is out of range, or the design contradicts itself.
    """

    stem_end = "maxpool"

    def __init__(
        self,
        depths: Sequence[int],
        planes: Sequence[int] = (64, 128, 256, 512),
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **design: Any,
    ) -> None:
        if not len(depths) == len(planes) == 4 or min(*depths, *planes) < 1:
            raise ValueError(f"depths and planes must be four positive integers, got {depths} and {planes}")
        plan = Design.of(**design)
        super().__init__(
            num_classes,
            in_chans,
            drop_rate,
            {"stem": r"^conv1|^bn1", "coarse": r"^layer(\d+)", "blocks": r"^layer(\d+)\.(\d+)"},
        )
        stages, channels, rates = [], [planes[0]], drop_path_rates(depths, drop_path_rate)
        for i, (depth, width) in enumerate(zip(depths, planes, strict=True)):
            blocks = PriorSequence()
            for index in range(depth):
                stride, in_channels = (2 if i and index == 0 else 1), channels[-1] if index == 0 else 4 * width
                if _bends(plan, i + 1):
                    args = _contextual_args(plan, _seventh(width))
                    conv2: nn.Module = ContextualConv2d(width, width, 3, stride, 1, bias=False, **args)
                else:
                    conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
                shortcut = plain_shortcut(in_channels, 4 * width, stride) if index == 0 else None
                extra = plan.dim if plan.extra_input and i + 1 in plan.stages and index == 0 else 0
                blocks.append(ContextualBottleneck(in_channels, width, conv2, shortcut, rates[i][index], extra))
            stages.append(blocks)
            channels.append(4 * width)
        self.conv1 = nn.Conv2d(in_chans, planes[0], 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(planes[0])
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        for layer in _plain_layers(self):
            if isinstance(layer, nn.Conv2d | ContextualConv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            elif isinstance(layer, ContextualBottleneck):
                nn.init.zeros_(layer.bn3.weight)
        self._add_head(plan, LAYERS, channels, None, global_pool)

    @property
    def stages(self) -> list[PriorSequence]:
        """Return the four stages; those that were pruned away are empty."""
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def stem(self, x: Tensor) -> Tensor:
        """Return the features before the first stage, ``(B, C, H / 4, W / 4)``."""
        y: Tensor = self.maxpool(self.act1(self.bn1(self.conv1(x))))
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
        "contextual_resnet50": _cfg(first_conv="conv1"),
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
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
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
        "dim": 64, "merge_hidden": 32, "ls_init_value": 1.0,
    }  # fmt: skip
    return _create_convnext("contextual_convnext_micro", pretrained, **{**args, **kwargs})


@register_model
def contextual_resnet50(pretrained: bool = False, **kwargs: Any) -> ContextualNet:
    """Contextual ResNet-50, 27.9M parameters, 4.2 GMACs."""
    args = {"hidden": 32, "head_hidden": 808, "merge_hidden": 32}
    return _create_resnet("contextual_resnet50", pretrained, **{"depths": (3, 4, 6, 3), **args, **kwargs})
