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
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from ctxvision.models._config import default_cfg
from ctxvision.models._contextual_net import ContextualNet, ContextualStage, Design, Trunk
from ctxvision.models._residual import drop_path_rates, plain_shortcut
from ctxvision.nn import ContextualConv2d
from ctxvision.nn._checks import is_plain

__all__ = ["ContextualNet"]


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

    def forward(self, x: Tensor, prior: Tensor | None) -> Tensor:
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

    def forward(self, x: Tensor, prior: Tensor | None) -> Tensor:
        """Return the block's output under the prior ``(B, d)``."""
        shortcut = x if self.downsample is None else self.downsample(x)
        x = self.conv1(x)
        if self.prior is not None:
            x = x.add_(self.prior(prior)[:, :, None, None])
        x = self.act1(self.bn1(x))
        x = self.conv2(x, prior) if isinstance(self.conv2, ContextualConv2d) else self.conv2(x)
        x = self.drop_path(self.bn3(self.conv3(self.act2(self.bn2(x)))))
        y: Tensor = self.act3(x.add_(shortcut))
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


def _plain_layers(modules: Sequence[tuple[str, nn.Module]]) -> list[nn.Module]:
    """Return the layers that the plain network has as well; generators initialise themselves."""
    container = nn.ModuleDict(dict(modules))
    return [m for name, m in container.named_modules() if "_offsets" not in name]


def _convnext(
    depths: Sequence[int],
    dims: Sequence[int],
    blocks: Sequence[int],
    weight_hidden: int,
    layer_scale: float,
    plan: Design,
    in_chans: int,
    drop_path_rate: float,
) -> Trunk:
    """Return ConvNeXt's parts; ``blocks[i]`` of the blocks of a contextual stage are contextual."""
    if not len(depths) == len(dims) == len(blocks) == 4 or min(*depths, *dims) < 1:
        raise ValueError(
            f"depths, dims and contextual_blocks must be four numbers, got {depths}, {dims}, {blocks}"
        )
    if any(not 1 <= count <= depth for count, depth in zip(blocks, depths, strict=True)):
        raise ValueError(f"contextual_blocks must lie between 1 and depths {tuple(depths)}, got {tuple(blocks)}")
    if plan.extra_input:
        raise ValueError("extra_input is the ablation of contextual_resnet50; ConvNeXt does not build it")
    stages, rates = nn.ModuleList(), drop_path_rates(depths, drop_path_rate)
    for i, (depth, width) in enumerate(zip(depths, dims, strict=True)):
        bent = _contextual_blocks(depth, blocks[i]) if _bends(plan, i + 1) else set()
        kernel: dict[str, Any] = {"kernel_size": 7, "padding": 3, "groups": width}
        stage = [
            ContextualNeXtBlock(
                ContextualConv2d(width, width, **kernel, **_contextual_args(plan, weight_hidden))
                if index in bent
                else nn.Conv2d(width, width, **kernel),
                width,
                rates[i][index],
                layer_scale,
            )
            for index in range(depth)
        ]
        down = nn.Sequential(LayerNorm2d(dims[i - 1]), nn.Conv2d(dims[i - 1], width, 2, 2)) if i else nn.Identity()
        stages.append(ContextualStage(down, stage))
    stem = nn.Sequential(nn.Conv2d(in_chans, dims[0], 4, 4), LayerNorm2d(dims[0]))
    for layer in _plain_layers([("stem", stem), ("stages", stages)]):
        if isinstance(layer, nn.Conv2d | nn.Linear | ContextualConv2d):
            trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return Trunk(
        stem=[("stem", stem)], stages=[("stages", stages)], channels=(dims[0], *dims), norm=LayerNorm2d(dims[-1]),
        matcher={
            "stem": r"^stem",
            "coarse": r"^stages\.(\d+)",
            "blocks": [(r"^stages\.(\d+)\.downsample", (0,)), (r"^stages\.(\d+)\.blocks\.(\d+)", None)],
        },
    )  # fmt: skip


def _seventh(width: int) -> int:
    return max(8, round(width / 56) * 8)


def _resnet(
    depths: Sequence[int], planes: Sequence[int], plan: Design, in_chans: int, drop_path_rate: float
) -> Trunk:
    """Return ResNet's parts; every block of a contextual stage is contextual."""
    if not len(depths) == len(planes) == 4 or min(*depths, *planes) < 1:
        raise ValueError(f"depths and planes must be four positive integers, got {depths} and {planes}")
    stages: list[tuple[str, nn.Module]] = []
    channels, rates = [planes[0]], drop_path_rates(depths, drop_path_rate)
    for i, (depth, width) in enumerate(zip(depths, planes, strict=True)):
        blocks = nn.ModuleList()
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
        stages.append((f"layer{i + 1}", blocks))
        channels.append(4 * width)
    stem: list[tuple[str, nn.Module]] = [
        ("conv1", nn.Conv2d(in_chans, planes[0], 7, 2, 3, bias=False)), ("bn1", nn.BatchNorm2d(planes[0])),
        ("act1", nn.ReLU(inplace=True)), ("maxpool", nn.MaxPool2d(3, 2, 1)),
    ]  # fmt: skip
    for layer in _plain_layers([*stem, *stages]):
        if isinstance(layer, nn.Conv2d | ContextualConv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(layer, ContextualBottleneck):
            nn.init.zeros_(layer.bn3.weight)
    matcher = {"stem": r"^conv1|^bn1", "coarse": r"^layer(\d+)", "blocks": r"^layer(\d+)\.(\d+)"}
    return Trunk(stem, stages, channels, norm=None, matcher=matcher)


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


def _keep_classes(state_dict: dict[str, Tensor], model: ContextualNet) -> dict[str, Tensor]:
    """Load the class embeddings even where timm, loading only features, throws the classifier away.

    The features depend on them. A network without a classifier has no number of classes of its own and takes that
    of the weights; for a classifier of another number they do not fit, and timm is right.
    """
    table = state_dict.get("context.embedding.weight")
    if table is None or model.context is None:
        return state_dict
    if model.num_classes == 0 and table.shape[0] != model.context.num_classes:
        model.context.reset(table.shape[0])
    if table.shape == model.context.embedding.weight.shape:
        model.context.embedding.weight.data.copy_(table)
    return state_dict


def _create(variant: str, pretrained: bool, **kwargs: Any) -> ContextualNet:
    if not kwargs.get("stages", Design().stages) or not kwargs.get("prior", Design().prior):
        # without classes to weigh the classifier is a linear layer
        overlay = {"classifier": "fc", **(kwargs.get("pretrained_cfg_overlay") or {})}
        kwargs["pretrained_cfg_overlay"] = overlay
    model: ContextualNet = build_model_with_cfg(
        ContextualNet,
        variant,
        pretrained,
        pretrained_filter_fn=_keep_classes,
        feature_cfg={"out_indices": (0, 1, 2, 3), "feature_cls": "getter"},
        **kwargs,
    )
    return model


def _create_convnext(
    variant: str,
    pretrained: bool,
    depths: Sequence[int],
    dims: Sequence[int],
    contextual_blocks: Sequence[int] = (1, 1, 3, 1),
    weight_hidden: int = 24,
    ls_init_value: float = 1e-6,
    **kwargs: Any,
) -> ContextualNet:
    trunk = partial(_convnext, depths, dims, contextual_blocks, weight_hidden, ls_init_value)
    return _create(variant, pretrained, trunk=trunk, **kwargs)


def _create_resnet(
    variant: str,
    pretrained: bool,
    depths: Sequence[int],
    planes: Sequence[int] = (64, 128, 256, 512),
    **kwargs: Any,
) -> ContextualNet:
    return _create(variant, pretrained, trunk=partial(_resnet, depths, planes), **kwargs)


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
