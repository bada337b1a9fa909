"""The networks that are compared, and how they are built for timing."""

from typing import Any, NamedTuple

import timm
import torch
from torch import Tensor, nn

import ctxvision.models  # noqa: F401, registers our networks
from ctxvision.nn import ContextualLoss
from ctxvision.nn.layouts import LAYOUTS, Layout
from ctxvision.timing.preparation import fill_zero_weights

SE_PEER = "seresnet50d_poolfree"
CONVOLUTIONAL_PEER = "convnext_tiny_conv_mlp"  # 1x1 convolutions instead of linear layers: faster on some CPUs
# ours: the peer whose time ours is divided by
PEERS = {
    "rednet50": "resnet50",
    "cotnet50": "resnet50",
    "se_cotnetd50": SE_PEER,
    "contextual_convnext_tiny": "convnext_tiny",
}
DEFAULT = (
    *PEERS, "resnet50", "seresnet50", SE_PEER, "resnext50_32x4d", "convnext_tiny",
    CONVOLUTIONAL_PEER, "halonet26t",
    "lambda_resnet26t", "botnet26t_256",
)  # fmt: skip
SWEPT = (*PEERS, "resnet50", SE_PEER, "convnext_tiny")
# timm fixes or restricts these to the size they were trained at
OWN_SIZE = {"halonet26t": 256, "botnet26t_256": 256}


def selected(only: list[str] | None, default: tuple[str, ...]) -> list[str]:
    """Return the networks to measure; ``only`` may hold any name of timm's registry.

    Raises:
        ValueError: If there is no such network.
    """
    names = list(dict.fromkeys(only or default))
    unknown = [name for name in names if name not in _VARIANTS and not timm.is_model(name)]
    if unknown:
        raise ValueError(
            f"--only: no network {', '.join(unknown)}; ours and timm's are known, and {', '.join(_VARIANTS)}"
        )
    return names


def build(name: str) -> nn.Module:
    """Return a network with random weights in which every branch contributes."""
    model: nn.Module = _VARIANTS[name]() if name in _VARIANTS else timm.create_model(name)
    fill_zero_weights(model)
    return model


def _seresnet50d_without_pool() -> nn.Module:
    """Return timm's seresnet50 with the stem and the shortcuts of SE-CoTNetD-50.

    Deep stem of three 3x3 convolutions (32-32-64), average-pool shortcuts (ResNet-D), and no max-pool: the first
    block of stage 1 has the stride instead, in its 3x3 convolution and, as an average pool, in its shortcut.
    timm's ``replace_stem_pool`` would add a fourth 3x3 convolution that SE-CoTNetD-50 lacks: a slower peer.
    """
    model: Any = timm.create_model("seresnet50", stem_type="deep", stem_width=32, avg_down=True)
    model.maxpool = nn.Identity()
    first = model.layer1[0]
    first.conv2.stride = (2, 2)
    first.downsample[0] = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False)
    peer: nn.Module = model
    return peer


_VARIANTS = {
    SE_PEER: _seresnet50d_without_pool,
    CONVOLUTIONAL_PEER: lambda: timm.create_model("convnext_tiny", conv_mlp=True),
}


class Batch(NamedTuple):
    """What a network is fed."""

    images: Tensor
    targets: Tensor


def random_batch(size: int, batch: int, layout: Layout, device: torch.device) -> Batch:
    """Return images (B, 3, size, size) and class indices (B,)."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(batch, 3, size, size, generator=generator)
    targets = torch.randint(1000, (batch,), generator=generator)
    return Batch(images.to(device).contiguous(memory_format=LAYOUTS[layout]), targets.to(device))


class Steps:
    """Inference and training step of one network.

    Args:
        model: On its device.
        autocast: Whether to compute in bfloat16 autocast.
    """

    def __init__(self, model: nn.Module, autocast: bool) -> None:
        self.model = model
        self.device = next(model.parameters()).device
        self._autocast = autocast
        # learning rate 0: all the work of a step, and the weights stay what the gate has seen
        self._optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
        self._forward: Any = getattr(model, "forward_stages", model)
        self._loss = nn.CrossEntropyLoss() if self._forward is model else ContextualLoss()

    def infer(self, batch: Batch, exact: bool = False) -> Tensor:
        """Return the logits, with ``exact`` always without autocast; the model is in eval mode."""
        autocast = self._autocast and not exact
        with torch.inference_mode(), torch.autocast(self.device.type, torch.bfloat16, enabled=autocast):
            logits: Tensor = self.model(batch.images)
        return logits

    def compile(self, backend: str = "inductor") -> None:
        """Compile inference and training step by `torch.compile`."""
        compiled: Any = torch.compile(self._forward, backend=backend)
        self.model.compile(backend=backend)
        self._forward = self.model if self._forward is self.model else compiled

    def train(self, batch: Batch) -> None:
        """Forward, loss, backward, SGD with momentum; the model is in training mode.

        Contextual networks are trained with the loss of all their stages, as their paper does.
        """
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast):
            loss = self._loss(self._forward(batch.images), batch.targets)
        loss.backward()
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
