"""Any of timm's networks as the backbone of a dense task, and feature pyramids over it."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from timm.layers import LayerNorm2d, convert_sync_batchnorm, freeze_batch_norm_2d
from timm.models import FeatureInfo
from torch import Tensor, nn
from torchvision.ops import FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import ExtraFPNBlock

from ctxvision.checkpoints import WarmStartReport, warm_start
from ctxvision.checkpoints.sources import Source
from ctxvision.models import ContextualNet
from ctxvision.nn import Involution2d

from .error import TaskError
from .networks import create_network

NormName = Literal["frozen", "eval", "batch", "sync"]
_BatchNorm = nn.modules.batchnorm._BatchNorm


class FeatureBackbone(nn.Module):
    """Feature maps of a network without its classifier, one for each wanted stride.

    Feature maps of networks without batch normalisation (ConvNeXt, Swin and ours over ConvNeXt) leave their last
    block unnormalised: each gets a layer norm, as in the detectors and segmentation networks of Swin and ConvNeXt.

    Args:
        name: The registered name of a network of timm or ours.
        strides: The strides of the wanted feature maps, finest first; one that comes up twice stands for the last
            two maps of this stride, as networks have them whose later stages dilate.
        in_chans: The number of channels of the image.
        norm: The mode of the network's batch norms: ``"frozen"`` has statistics, scale and shift fixed
            (Detectron), ``"eval"`` only the statistics (MMDetection's ``norm_eval``), ``"batch"`` and ``"sync"``
            train.
        frozen_stages: The number of stages that are not trained: 1 fixes the stem and the first stage, 2 the
            second too, 0 trains all.
        drop_path_rate: The probability that stochastic depth leaves out a residual branch.
        model_args: More arguments of the network's constructor.

    Attributes:
        channels: The number of channels of each feature map.

    Raises:
        TaskError: The network is unknown, does not take its arguments, or has no feature maps of these strides.
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
        info: FeatureInfo = body.feature_info
        reductions = info.reduction()
        if any(reductions.count(stride) < strides.count(stride) for stride in strides):
            found = ", ".join(map(str, sorted(set(reductions))))
            raise TaskError(
                f"{name} has feature maps of stride {found}; this network needs {', '.join(map(str, strides))}, "
                "as ResNet, ConvNeXt and their relatives have them"
            )
        self.indices = _deepest(reductions, strides)
        self.channels = [info.channels()[i] for i in self.indices]
        self.strides = tuple(strides)
        self.is_channels_last_output = str(getattr(body, "output_fmt", "NCHW")).endswith("NHWC")
        has_batch_norm = any(isinstance(module, _BatchNorm) for module in body.modules())
        _freeze(body, name, frozen_stages)
        if norm == "frozen":
            freeze_batch_norm_2d(body)
        elif norm == "sync":
            convert_sync_batchnorm(body)
        self.name, self.in_chans, self.model_args, self.norm = name, in_chans, dict(model_args or {}), norm
        self.body = body
        self.norms = nn.ModuleList(nn.Identity() if has_batch_norm else LayerNorm2d(c) for c in self.channels)
        self.train()

    def train(self, mode: bool = True) -> "FeatureBackbone":
        """Set the mode; batch norms whose statistics are fixed stay in evaluation mode."""
        super().train(mode)
        if self.norm == "eval":
            for module in self.body.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return feature maps (B, C_i, H / stride_i, W / stride_i), sizes rounded up, finest first."""
        features = self.body(images)
        maps = (features[index] for index in self.indices)
        if self.is_channels_last_output:
            maps = (feature.permute(0, 3, 1, 2) for feature in maps)
        return [norm(feature) for norm, feature in zip(self.norms, maps, strict=True)]

    def start_from(
        self, source: Source, *, source_name: str | None = None, partial: bool = False
    ) -> WarmStartReport:
        """Load whatever `ctxvision.checkpoints.warm_start` takes for the whole network.

        A contextual backbone keeps the class embeddings of a source with as many classes as it considers.

        Args:
            source: The weights of the network or of its plain counterpart, or the name of one of timm's pretrained
                networks.
            source_name: The name of the source in messages and in the report.
            partial: Whether to load what fits, even of quite another network.

        Returns:
            The report of what was loaded into the whole network, whose classifier the backbone lacks.

        Raises:
            CheckpointError: The source is unusable or of another network; the backbone is unchanged.
        """
        classifier = create_network(
            self.name,
            num_classes=self.model_args.get("context_classes", 1000),
            in_chans=self.in_chans,
            model_args=self.model_args,
        )
        report = warm_start(classifier, source, source_name=source_name, partial=partial)
        self.load_classifier(classifier.state_dict())
        return report

    def load_classifier(self, weights: Mapping[str, Tensor]) -> None:
        """Copy a classification network's weights; for those of another network or layout see `start_from`.

        Args:
            weights: The state dict of the same network with its classifier.

        Raises:
            TaskError: A tensor is absent or of another shape; the backbone is unchanged.
        """
        network = getattr(self.body, "model", self.body)
        if isinstance(network, ContextualNet):
            network.adopt_design(weights)
        sources: dict[str, Tensor] = {}
        for name, own in self.body.state_dict().items():
            # what timm's feature networks call it, and what the whole network may
            names = name, name.removeprefix("model."), re.sub(r"^(\w+)_(\d+)\.", r"\1.\2.", name)
            found = next((source for source in names if source in weights), None)
            if found is None:
                if name.endswith("num_batches_tracked"):  # older checkpoints have none
                    continue
                raise TaskError(
                    f"the weights have no {name!r}, which the backbone needs; are they of another network?"
                )
            if weights[found].shape != own.shape:
                shapes = f"{tuple(weights[found].shape)}, not {tuple(own.shape)}"
                raise TaskError(f"the weights' {found!r} has shape {shapes}; are they of another network?")
            sources[name] = weights[found]
        self.body.load_state_dict(sources, strict=False)


def _deepest(reductions: Sequence[int], strides: Sequence[int]) -> list[int]:
    """Return the number of the deepest map of each stride, of the last maps where one is wanted repeatedly."""
    of_stride = {s: [i for i, r in enumerate(reductions) if r == s][-strides.count(s) :] for s in strides}
    return [of_stride[stride].pop(0) for stride in strides]


def _feature_network(name: str, in_chans: int, drop_path_rate: float, model_args: Mapping[str, Any]) -> nn.Module:
    try:
        return create_network(
            name,
            num_classes=0,
            in_chans=in_chans,
            drop_path_rate=drop_path_rate,
            features_only=True,
            model_args=model_args,
        )
    except (RuntimeError, NotImplementedError, AttributeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TaskError(f"{name} cannot be a backbone, timm gives no feature maps of it: {reason}") from error


def _freeze(body: nn.Module, name: str, stages: int) -> None:
    """Fix all parameters up to the last of a stage, in the order of registration, which is that of use."""
    if not stages:
        return
    info: FeatureInfo = body.feature_info
    modules = info.module_name()
    # timm counts the stem as a feature map of its own where it has stride 2
    first = next(i for i, reduction in enumerate(info.reduction()) if reduction > 2)
    if not 0 < stages <= len(modules) - first:
        raise TaskError(f"frozen_stages must be 0 to {len(modules) - first} for {name}, got {stages}")
    module = modules[first + stages - 1]
    prefixes = (f"{module}.", f"{module.replace('.', '_')}.", f"model.{module}.")
    names = [parameter for parameter, _ in body.named_parameters()]
    last = max(i for i, parameter in enumerate(names) if parameter.startswith(prefixes))
    for parameter in list(body.parameters())[: last + 1]:
        parameter.requires_grad_(False)


LayerKind = Literal["convolution", "involution"]


def make_fpn(
    channels: Sequence[int],
    width: int,
    kind: LayerKind,
    extra: ExtraFPNBlock | None = None,
    norm: Callable[[int], nn.Module] | None = None,
) -> FeaturePyramidNetwork:
    """Return torchvision's FPN; with ``"involution"`` its 3x3 output convolutions are 7x7 involutions.

    Source: Li et al., Involution, CVPR 2021.

    Args:
        channels: The number of channels of each feature map, finest first.
        width: The number of channels of the pyramid.
        kind: The kind of the output layers.
        extra: The module that makes coarser levels; by default there are none.
        norm: The function that makes a norm for after every layer of the pyramid; by default there is none.
    """
    fpn = FeaturePyramidNetwork(list(channels), width, extra_blocks=extra, norm_layer=norm)
    if kind == "involution":
        for i in range(len(channels)):
            layer: nn.Module = make_involution(width)
            fpn.layer_blocks[i] = layer if norm is None else nn.Sequential(layer, norm(width))
    return fpn


def make_involution(width: int) -> Involution2d:
    """Return a 7x7 involution whose output begins at the scale of its input.

    Its kernels begin with mean 0 and variance ``1 / 49``. With torch's default they are several times as large,
    and four of them in a mask head multiply activations by thousands.

    Args:
        width: The number of channels, a multiple of 16.
    """
    layer = Involution2d(width, kernel_size=7)
    # the generator's ReLU after a batch norm has mean square 1/2
    nn.init.normal_(layer.span.weight, std=(2 / (layer.span.in_channels * layer.kernel_size**2)) ** 0.5)
    nn.init.zeros_(layer.span.get_parameter("bias"))
    return layer
