"""The blocks and stages of the Contextual ConvNeXt and the Contextual ResNet.

Parameter names are timm's for ConvNeXt and ResNet; what is contextual comes under new names.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import DropPath, LayerNorm, create_conv2d
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ctxvision.nn import ContextualConv2d, _pointwise, _steps
from ctxvision.nn._checks import is_plain
from ctxvision.nn._tracing import is_traced
from ctxvision.ops._derivatives import add_in_place

from ._backbone import layer_norm
from ._class_sets import StageClasses, remember_eagerly

Blocks = int | Sequence[int]


class PriorSequence(nn.Sequential):
    """The blocks of a stage, which all see the same prior.

    With ``grad_checkpointing`` each block is computed again in the backward pass instead of being stored.
    """

    grad_checkpointing = False
    classes: StageClasses | None = None
    """Source of the prior where the sequence is a stage that is called with features alone."""

    def forward(self, x: Tensor, prior: Tensor | None = None) -> Tensor:
        """Return the last block's output for features ``(B, C, H, W)`` and the prior ``(B, d)``.

        The result is ``(B, C', H', W')``. Without a prior the sequence asks its class funnel for one, as a network
        does for all of its stages; one that has none gives its blocks the features alone.
        """
        if prior is None and self.classes is not None:
            return _by_itself(self._run, self.classes, x)
        return self._run(x, prior)

    def _run(self, x: Tensor, prior: Tensor | None) -> Tensor:
        for block in self:
            if self.grad_checkpointing and self.training:
                x = checkpoint(block, x, prior, use_reentrant=False)
            else:
                x = block(x) if prior is None else block(x, prior)  # hooks of other tools expect tensors
        return x


def _by_itself(stage: Callable[[Tensor, Tensor | None], Tensor], classes: StageClasses, x: Tensor) -> Tensor:
    """Run a stage without the network around it."""
    steps = classes.known(x)
    y = stage(x, steps[-1][1].prior if classes.narrows else None)
    if steps:
        remember_eagerly(y, steps)
    return y


class PointwiseMlp(nn.Module):
    """``Linear -> GELU -> Linear`` over the channels of ``(B, C, H, W)``.

    Parameter names are those of timm's ``Mlp``.

    Args:
        channels: Number of channels in and out.
        hidden: Number of channels between the two linear layers.
        **placed: ``device`` and ``dtype`` of the parameters.
    """

    def __init__(self, channels: int, hidden: int, **placed: Any) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden, **placed)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, channels, **placed)

    def forward(self, x: Tensor) -> Tensor:
        """Return a map of the shape ``(B, C, H, W)`` and the memory format of ``x``."""
        plain = all(is_plain(layer, nn.Linear) for layer in (self.fc1, self.fc2))
        if is_traced(x) or x.device.type != "cpu" or not plain:
            y: Tensor = self.fc2(self.act(self.fc1(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2)
            return y
        gelu = self.act.approximate if is_plain(self.act, nn.GELU) else None
        hidden = _pointwise.linear(x, self.fc1.weight, self.fc1.bias, gelu)
        return _pointwise.linear(hidden if gelu else self.act(hidden), self.fc2.weight, self.fc2.bias)


class ContextualNeXtBlock(nn.Module):
    """ConvNeXt's block with a contextual or a plain 7x7 depthwise convolution (Contextual CNN, section 3.3).

    Args:
        channels: Number of channels in and out.
        conv_dw: The depthwise convolution, a `ContextualConv2d` or an ``nn.Conv2d`` that keeps the shape.
        drop_path: Probability with which stochastic depth drops the branch of an image.
        layer_scale: Initial value of the scale of each channel of the branch.
        **placed: ``device`` and ``dtype`` of the parameters.
    """

    def __init__(
        self, channels: int, *, conv_dw: nn.Module, drop_path: float, layer_scale: float, **placed: Any
    ) -> None:
        super().__init__()
        self.conv_dw = conv_dw
        self.norm = LayerNorm(channels, eps=1e-6).to(**placed)
        self.mlp = PointwiseMlp(channels, 4 * channels, **placed)
        self.gamma = nn.Parameter(nn.init.constant_(self.norm.weight.new_empty(channels), layer_scale))
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()

    def forward(self, x: Tensor, prior: Tensor | None = None) -> Tensor:
        """Return the block's output, ``(B, C, H, W)`` as ``x``; a contextual block needs the prior ``(B, d)``."""
        y = self.conv_dw(x, prior) if isinstance(self.conv_dw, ContextualConv2d) else self.conv_dw(x)
        y = self.mlp(self.norm(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return torch.addcmul(x, self.drop_path(y), self.gamma[:, None, None])


class ContextualBottleneck(nn.Module):
    """ResNet's bottleneck with a contextual or a plain 3x3 convolution (Contextual CNN, section 4.2).

    Args:
        in_channels: Number of channels of the input.
        width: Number of channels of the 3x3 convolution; the output has four times as many.
        conv2: The 3x3 convolution, a `ContextualConv2d` or an ``nn.Conv2d``.
        shortcut: The projection in the shortcut; ``None`` for the identity.
        drop_path: Probability with which stochastic depth drops the branch of an image.
        prior_dim: Width ``d`` of a prior that is expanded and concatenated to the input of the first 1x1
            convolution (Table 4, a2: context as an extra input); 0 for none.
        **placed: ``device`` and ``dtype`` of the parameters.
    """

    def __init__(
        self,
        in_channels: int,
        width: int,
        *,
        conv2: nn.Module,
        shortcut: nn.Module | None,
        drop_path: float,
        prior_dim: int,
        **placed: Any,
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 1, bias=False, **placed)
        self.prior = nn.Linear(prior_dim, width, bias=False, **placed) if prior_dim else None
        self.bn1 = nn.BatchNorm2d(width, **placed)
        self.act1 = nn.ReLU(inplace=True)
        self.conv2 = conv2
        self.bn2 = nn.BatchNorm2d(width, **placed)
        self.act2 = nn.ReLU(inplace=True)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False, **placed)
        self.bn3 = nn.BatchNorm2d(4 * width, **placed)
        self.drop_path = DropPath(drop_path) if drop_path else nn.Identity()
        self.act3 = nn.ReLU(inplace=True)
        self.downsample = shortcut

    def forward(self, x: Tensor, prior: Tensor | None = None) -> Tensor:
        """Return the block's output for ``x`` ``(B, C, H, W)`` and, if it is contextual, the prior ``(B, d)``.

        The output is ``(B, 4 * width, H', W')``, where ``H'`` and ``W'`` are those of the 3x3 convolution.
        """
        shortcut = x if self.downsample is None else _steps.apply(x, self.downsample)
        if self.prior is None:
            x = _steps.apply(x, self.conv1, self.bn1, self.act1)
        else:
            x = add_in_place(_pointwise.apply(self.conv1, x), self.prior(prior)[:, :, None, None])
            x = self.act1(self.bn1(x))
        x = self.conv2(x, prior) if isinstance(self.conv2, ContextualConv2d) else self.conv2(x)
        x = _steps.apply(x, self.bn2, self.act2, new=_steps.makes_new(self.conv2))
        return _steps.apply(x, self.conv3, self.bn3, self.drop_path, self.act3, shortcut=shortcut)


class ConvNeXtStage(nn.Module):
    """ConvNeXt's downsampling, then blocks that all see the same prior.

    Args:
        downsample: The layers that change resolution and width; an ``nn.Identity`` in the first stage.
        blocks: The blocks of the stage.
    """

    classes: StageClasses | None = None
    """Source of the prior where the stage is called with features alone."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = PriorSequence(*blocks)

    @property
    def grad_checkpointing(self) -> bool:
        """Whether each block is computed again in the backward pass."""
        return self.blocks.grad_checkpointing

    @grad_checkpointing.setter
    def grad_checkpointing(self, enable: bool) -> None:
        self.blocks.grad_checkpointing = enable

    def forward(self, x: Tensor, prior: Tensor | None = None) -> Tensor:
        """Return the stage's features for ``x`` ``(B, C, H, W)`` and the prior ``(B, d)``.

        The features are ``(B, C', H / 2, W / 2)``, in the first stage ``(B, C, H, W)``. Without a prior a
        contextual stage asks the class funnel for one, as the network does.
        """
        if prior is None and self.classes is not None:
            return _by_itself(self._run, self.classes, x)
        return self._run(x, prior)

    def _run(self, x: Tensor, prior: Tensor | None) -> Tensor:
        x = self.downsample(x)
        y: Tensor = self.blocks(x) if prior is None else self.blocks(x, prior)
        return y


def chosen_blocks(depths: Sequence[int], chosen: Sequence[Blocks]) -> list[set[int]]:
    """Return which blocks of each stage are contextual, counted from 0.

    Args:
        depths: Number of blocks in each of the four stages.
        chosen: For each stage the numbers of its contextual blocks, or how many there are: the first of each of as
            many equal runs.

    Raises:
        ValueError: If there are no such blocks.
    """
    if len(chosen) != 4:
        raise ValueError(f"contextual_blocks must be given for four stages, got {tuple(chosen)}")
    blocks = []
    for depth, choice in zip(depths, chosen, strict=True):
        if isinstance(choice, int):
            if not 1 <= choice <= depth:
                raise ValueError(
                    f"contextual_blocks must lie between 1 and depths {tuple(depths)}, got {tuple(chosen)}"
                )
            blocks.append({depth * run // choice for run in range(choice)})
        elif set(choice) and set(choice) <= set(range(depth)):
            blocks.append(set(choice))
        else:
            raise ValueError(
                f"contextual_blocks must name blocks 0 to {depth - 1} of a stage of {depth}, got {tuple(choice)}"
            )
    return blocks


def strides_and_dilations(first: int, output_stride: int) -> list[tuple[int, int]]:
    """Return stride and dilation of each stage, the stem counted with the first, where the stride is ``first``.

    Raises:
        ValueError: If there is no such output stride.
    """
    if output_stride not in (8, 16, 32):
        raise ValueError(f"output_stride must be 8, 16 or 32, got {output_stride}")
    reached, dilation, steps = first, 1, [(first, 1)]
    for _ in range(3):
        stride = 2 if reached < output_stride else 1
        reached, dilation = reached * stride, dilation * 2 // stride
        steps.append((stride, dilation))
    return steps


def downsampling(in_channels: int, out_channels: int, stride: int, dilation: int, **placed: Any) -> nn.Module:
    """Return ConvNeXt's layers between two stages; without stride, their taps lie as far apart as before."""
    if stride == 2:
        conv: nn.Module = nn.Conv2d(in_channels, out_channels, 2, 2, **placed)
    else:
        conv = create_conv2d(in_channels, out_channels, 2, dilation=dilation // 2, padding="same", bias=True).to(
            **placed
        )
    return nn.Sequential(layer_norm(in_channels, **placed), conv)
