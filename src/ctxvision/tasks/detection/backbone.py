"""Any of timm's networks as the backbone of a detector: its feature maps, normalised and merged by an FPN."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from timm.layers import LayerNorm2d, convert_sync_batchnorm, freeze_batch_norm_2d
from torch import Tensor, nn

from ctxvision.tasks.error import TaskError
from ctxvision.tasks.networks import create_network

NormName = Literal["frozen", "eval", "batch", "sync"]
_BatchNorm = nn.modules.batchnorm._BatchNorm


class FeatureBackbone(nn.Module):
    """Feature maps of a network, one for each wanted stride, merged by a feature pyramid.

    Feature maps of networks without batch normalisation (ConvNeXt, Swin and ours over ConvNeXt) leave their last
    block unnormalised: each gets a layer norm, as in the detectors of Swin and ConvNeXt.

    Args:
        name: a registered name of timm or ours.
        strides: of the wanted feature maps, finest first.
        in_chans: channels of the image.
        norm: what the network's batch norms do: ``"frozen"`` has statistics, scale and shift fixed (Detectron),
            ``"eval"`` only the statistics (MMDetection's ``norm_eval``), ``"batch"`` and ``"sync"`` train.
        frozen_stages: 1 keeps the stem and the first stage as they are, 2 the second too, 0 trains all.
        drop_path_rate: stochastic depth.
        model_args: more arguments of the network's constructor.

    Raises:
        TaskError: unknown network, or one without feature maps of these strides.
    """

    def __init__(
        self,
        name: str,
        strides: Sequence[int],
        *,
        in_chans: int = 3,
        norm: NormName = "frozen",
        frozen_stages: int = 0,
        drop_path_rate: float = 0.0,
        model_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        body = _feature_network(name, in_chans, drop_path_rate, model_args or {})
        reductions = body.feature_info.reduction()
        missing = [stride for stride in strides if stride not in reductions]
        if missing:
            found = ", ".join(map(str, sorted(set(reductions))))
            raise TaskError(
                f"{name} has feature maps of stride {found}; this detector needs {', '.join(map(str, strides))}"
            )
        # the deepest of a stride
        self.indices = [max(i for i, r in enumerate(reductions) if r == stride) for stride in strides]
        self.channels = [body.feature_info.channels()[i] for i in self.indices]
        self.strides = tuple(strides)
        self.is_channels_last_output = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")
        has_batch_norm = any(isinstance(module, _BatchNorm) for module in body.modules())
        _freeze(body, name, frozen_stages)
        if norm == "frozen":
            freeze_batch_norm_2d(body)
        elif norm == "sync":
            convert_sync_batchnorm(body)
        self.name, self.model_args, self.norm = name, dict(model_args or {}), norm
        self.body = body
        self.norms = nn.ModuleList(nn.Identity() if has_batch_norm else LayerNorm2d(c) for c in self.channels)

    def train(self, mode: bool = True) -> "FeatureBackbone":
        """Set the mode; batch norms whose statistics are fixed stay in evaluation mode."""
        super().train(mode)
        if self.norm == "eval":
            for module in self.body.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return feature maps ``(B, C_i, H / stride_i, W / stride_i)`` under the names "0", "1", ... ."""
        features = self.body(images)
        maps = (features[index] for index in self.indices)
        if self.is_channels_last_output:
            maps = (feature.permute(0, 3, 1, 2) for feature in maps)
        return {str(i): norm(feature) for i, (norm, feature) in enumerate(zip(self.norms, maps, strict=True))}


class PyramidBackbone(nn.Module):
    """A backbone and its feature pyramid, as torchvision's detectors want it.

    Args:
        features: the backbone.
        fpn: takes and returns feature maps by name.
        out_channels: of every map of the pyramid.
    """

    def __init__(self, features: FeatureBackbone, fpn: nn.Module, out_channels: int) -> None:
        super().__init__()
        self.features, self.fpn, self.out_channels = features, fpn, out_channels

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Return the pyramid, finest map first."""
        pyramid: dict[str, Tensor] = self.fpn(self.features(images))
        return pyramid


def _feature_network(name: str, in_chans: int, drop_path_rate: float, model_args: Mapping[str, Any]) -> nn.Module:
    try:
        return create_network(
            name,
            num_classes=0,
            in_chans=in_chans,
            drop_path_rate=drop_path_rate,
            model_args={**model_args, "features_only": True},
        )
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TaskError(f"{name} cannot be a backbone, timm gives no feature maps of it: {reason}") from error


def _freeze(body: nn.Module, name: str, stages: int) -> None:
    """Fix all parameters up to the last of a stage, in the order of registration, which is that of use."""
    if not stages:
        return
    modules = body.feature_info.module_name()
    # timm counts the stem as a feature map of its own where it has stride 2
    first = next(i for i, reduction in enumerate(body.feature_info.reduction()) if reduction > 2)
    if not 0 < stages <= len(modules) - first:
        raise TaskError(f"frozen_stages must be 0 to {len(modules) - first} for {name}, got {stages}")
    module = modules[first + stages - 1]
    prefixes = (f"{module}.", f"{module.replace('.', '_')}.", f"model.{module}.")
    names = [parameter for parameter, _ in body.named_parameters()]
    last = max(i for i, parameter in enumerate(names) if parameter.startswith(prefixes))
    for parameter in list(body.parameters())[: last + 1]:
        parameter.requires_grad_(False)
