"""The bottleneck network of ResNet's shape (He et al., CVPR 2016) that CoTNet and RedNet share.

Parameter names are timm's for ResNet: conv1, bn1, layer1 to layer4, fc.
"""

from collections.abc import Callable, Collection, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import DropPath, SelectAdaptivePool2d
from timm.models import checkpoint_seq
from torch import Tensor, nn

from ctxvision.nn import _steps

from ._backbone import Backbone, drop_path_rates

LAYERS = ("layer1", "layer2", "layer3", "layer4")


class Stem(NamedTuple):
    """The layers before the first stage, and the channels and the stride of what they return."""

    conv: nn.Module
    norm: nn.Module
    pool: nn.Module
    channels: int
    stride: int


class BlockPlace(NamedTuple):
    """Where a block stands, for the function that builds its spatial layer."""

    stage: int
    """Number of the stage, 1 to 4."""
    block: int
    """Number of the block in its stage, counted from 0."""
    width: int
    """Number of channels of the spatial layer."""
    stride: int
    """Stride of the block in pixels of its input."""
    dilation: int
    """Distance between the taps of the spatial layer in pixels."""


class Spatial(NamedTuple):
    """The spatial layer of a bottleneck, and what surrounds it."""

    layer: nn.Module
    """Maps ``(B, width, H, W)`` to ``(B, width, H', W')``."""
    norm: bool = False
    """Whether BatchNorm and ReLU follow the layer; a CoT layer has its own."""
    before: nn.Module | None = None
    """A pool before the layer, if there is one."""
    after: nn.Module | None = None
    """A pool after the layer, if there is one."""


class Bottleneck(nn.Module):
    """ResNet's bottleneck, ``1x1 -> spatial layer -> 1x1``, with a shortcut.

    It maps ``(B, in_channels, H, W)`` to ``(B, out_channels, H / stride, W / stride)``.

    Args:
        in_channels: Number of channels of the input.
        out_channels: Number of channels of the output.
        width: Number of channels between the two 1x1 convolutions.
        spatial: The spatial layer and what surrounds it.
        shortcut: The projection in the shortcut; ``None`` for the identity.
        drop_path: Probability with which stochastic depth drops the branch of an image.
        **placed: ``device`` and ``dtype`` of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
        width: int,
        spatial: Spatial,
        shortcut: nn.Module | None,
        drop_path: float,
        **placed: Any,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False, **placed)
        self.bn1 = nn.BatchNorm2d(width, **placed)
        self.act1 = nn.ReLU(inplace=True)
        self.before = spatial.before or nn.Identity()
        self.conv2 = spatial.layer
        self.bn2 = nn.BatchNorm2d(width, **placed) if spatial.norm else nn.Identity()
        self.act2 = nn.ReLU(inplace=True) if spatial.norm else nn.Identity()
        self.after = spatial.after or nn.Identity()
        self.conv3 = nn.Conv2d(width, out_channels, 1, bias=False, **placed)
        self.bn3 = nn.BatchNorm2d(out_channels, **placed)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.act3 = nn.ReLU(inplace=True)
        self.downsample = shortcut

    def forward(self, x: Tensor) -> Tensor:
        """Return the residual sum after its ReLU, ``(B, out_channels, H / stride, W / stride)``."""
        shortcut = x if self.downsample is None else _steps.apply(x, self.downsample)
        x = _steps.apply(x, self.conv1, self.bn1, self.act1, self.before)
        x = _steps.apply(x, self.conv2, self.bn2, self.act2, self.after)
        return _steps.apply(x, self.conv3, self.bn3, self.drop_path, self.act3, shortcut=shortcut)


def plain_shortcut(in_channels: int, out_channels: int, stride: int, **placed: Any) -> nn.Sequential:
    """Return ResNet's projection shortcut, a strided 1x1 convolution and BatchNorm.

    It maps ``(B, in_channels, H, W)`` to ``(B, out_channels, ceil(H / stride), ceil(W / stride))``.
    """
    conv = nn.Conv2d(in_channels, out_channels, 1, stride, bias=False, **placed)
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels, **placed))


def average_shortcut(in_channels: int, out_channels: int, stride: int, **placed: Any) -> nn.Sequential:
    """Return ResNet-D's projection shortcut, an average pool, a 1x1 convolution and BatchNorm (He et al., 2019).

    It maps ``(B, in_channels, H, W)`` to ``(B, out_channels, ceil(H / stride), ceil(W / stride))``.
    """
    pool = nn.AvgPool2d(2, stride, ceil_mode=True, count_include_pad=False) if stride > 1 else nn.Identity()
    conv = nn.Conv2d(in_channels, out_channels, 1, bias=False, **placed)
    return nn.Sequential(pool, conv, nn.BatchNorm2d(out_channels, **placed))


class Stage(nn.Sequential):
    """The blocks of a stage, one after the other.

    With ``grad_checkpointing`` each block is computed again in the backward pass instead of being stored.
    """

    grad_checkpointing = False

    def forward(self, x: Tensor) -> Tensor:
        """Return the last block's output, ``(B, C', H', W')``, for features ``(B, C, H, W)``."""
        recompute = self.grad_checkpointing and self.training
        y: Tensor = checkpoint_seq(self, x) if recompute else super().forward(x)  # type: ignore[no-untyped-call]
        return y


class ResidualNet(Backbone):
    """A stem, four stages of bottlenecks and a pooled linear classifier, with all of timm's protocol.

    It maps images ``(B, in_chans, H, W)`` to logits ``(B, num_classes)``.

    Args:
        stem: The layers before the first stage.
        spatial: Function that builds the spatial layer of each bottleneck.
        depths: Number of blocks in each of the four stages.
        planes: ResNet's base width of each stage; a stage has ``planes * expansion`` channels.
        widths: Number of channels of the spatial layers of each stage.
        expansion: Number of output channels of a block divided by its ``planes``.
        shortcut: Function of input channels, output channels and stride that builds a projection shortcut, with
            the ``device`` and the ``dtype`` of its parameters as keywords.
        num_classes: Number of classes; 0 returns pooled features.
        in_chans: Number of channels of the image.
        global_pool: Name of timm's global pooling, ``""`` for none.
        output_stride: Stride of the last stage, 32, 16 or 8; below 32 later stages dilate instead of striding.
        drop_rate: Dropout probability before the classifier.
        drop_path_rate: Stochastic depth probability of the last block; those of earlier blocks grow linearly.
        zero_init_last: Whether every block starts as its shortcut.
        device: Device of the parameters and buffers, as for torch's own layers.
        dtype: Floating-point type of the parameters and buffers, as for torch's own layers.

    Raises:
        ValueError: If an argument is out of range.
    """

    more_arguments: ClassVar = ("global_pool", "output_stride", "drop_rate", "drop_path_rate", "zero_init_last")
    """Names of the arguments that constructors of families take as ``**kwargs``."""

    layer1: Stage
    layer2: Stage
    layer3: Stage
    layer4: Stage

    def __init__(
        self,
        *,
        stem: Stem,
        spatial: Callable[[BlockPlace], Spatial],
        depths: Sequence[int],
        planes: Sequence[int],
        widths: Sequence[int],
        expansion: int = 4,
        shortcut: Callable[..., nn.Module] = plain_shortcut,
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        output_stride: int = 32,
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        zero_init_last: bool = True,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        placed: dict[str, Any] = {"device": device, "dtype": dtype}
        super().__init__(
            num_classes,
            in_chans,
            drop_rate,
            {"stem": r"^conv1|^bn1", "coarse": r"^layer(\d+)", "blocks": r"^layer(\d+)\.(\d+)"},
        )
        if output_stride not in (8, 16, 32):
            raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride}")
        if not len(depths) == len(planes) == 4 or min(*depths, *planes) < 1:
            raise ValueError(f"depths and planes must be four positive integers, got {depths} and {planes}")
        self.conv1, self.bn1 = stem.conv, stem.norm
        self.act1 = nn.ReLU(inplace=True)
        self.maxpool = stem.pool  # last: tools run the parts in this order, and tap the activation
        channels, net_stride, dilation = stem.channels, stem.stride, 1
        rates, strides = drop_path_rates(depths, drop_path_rate), [2]
        for stage in range(4):
            stride = 2 if net_stride < 4 or stage else 1
            if net_stride * stride > output_stride:
                dilation, stride = dilation * stride, 1
            net_stride *= stride
            out_channels, blocks = planes[stage] * expansion, []
            for index in range(depths[stage]):
                place = BlockPlace(stage + 1, index, widths[stage], stride if index == 0 else 1, dilation)
                project = index == 0 and (stride != 1 or channels != out_channels)
                blocks.append(
                    Bottleneck(
                        channels, out_channels, width=widths[stage], spatial=spatial(place),
                        shortcut=shortcut(channels, out_channels, stride, **placed) if project else None,
                        drop_path=rates[stage][index], **placed,
                    )
                )  # fmt: skip
                channels = out_channels
            self.add_module(LAYERS[stage], Stage(*blocks))
            strides.append(net_stride)
        widths = [stem.channels, *(width * expansion for width in planes)]
        self._describe_levels(("act1", *LAYERS), widths, strides)
        self.reset_classifier(num_classes, global_pool)
        self._init_weights(zero_init_last)

    def _init_weights(self, zero_init_last: bool) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            elif zero_init_last and isinstance(module, Bottleneck):
                nn.init.zeros_(module.bn3.weight)

    @property
    def stages(self) -> list[Stage]:
        """Return the four stages; those that were pruned away are empty."""
        return [self.layer1, self.layer2, self.layer3, self.layer4]

    def stem(self, x: Tensor) -> Tensor:
        """Return the features before the first stage, ``(B, C, H / 4, W / 4)``; H / 2 without max-pool."""
        return _steps.apply(x, self.conv1, self.bn1, self.act1, self.maxpool)

    def _forward_levels(self, x: Tensor, wanted: Collection[int], count: int) -> tuple[Tensor, list[Tensor]]:
        x = _steps.apply(x, self.conv1, self.bn1, self.act1)
        outputs = [x] if 0 in wanted else []
        for index, stage in enumerate(self.stages[: count - 1], 1):
            x = stage(self.maxpool(x) if index == 1 else x)
            if index in wanted:
                outputs.append(x)
        return x, outputs

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last stage's features, ``(B, num_features, H / 32, W / 32)``."""
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return x

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits, ``(B, num_classes)``, or with ``pre_logits`` the pooled features."""
        x = self.global_pool(x)
        x = x if self.global_pool.is_identity() else x.flatten(1)
        if self.drop_rate:
            x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, ``(B, num_classes)``."""
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        """Return the classifier; Identity if there is none."""
        return self.fc

    def no_weight_decay(self) -> set[str]:
        """Return the names that weight decay spares beyond norms and biases: none."""
        return set()

    def _set_classifier(self, num_classes: int, pool: SelectAdaptivePool2d) -> None:
        self.head_hidden_size, weight = self.num_features * pool.feat_mult(), next(self.parameters())
        placed: dict[str, Any] = {"device": weight.device, "dtype": weight.dtype}
        fc = nn.Linear(self.head_hidden_size, num_classes, **placed) if num_classes else nn.Identity()
        self.fc: nn.Module = fc.train(self.training)

    def _remove_stages(self, count: int) -> None:
        for name in LAYERS[count:]:
            setattr(self, name, Stage())
        if count == 0:
            self.maxpool = nn.Identity()
        self.reset_classifier(0, "")
