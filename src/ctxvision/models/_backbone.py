"""timm's protocol, which all our networks speak, and the configuration that they start from."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers import SelectAdaptivePool2d
from timm.models._features import feature_take_indices
from torch import Tensor, nn

from ctxvision.nn._checks import refuse_script


def default_cfg(**kwargs: Any) -> dict[str, Any]:
    """Return timm's default configuration as the papers evaluate: 224 px, bicubic, crop 0.875."""
    return {
        "num_classes": 1000, "input_size": (3, 224, 224), "pool_size": (7, 7), "crop_pct": 0.875,
        "interpolation": "bicubic", "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD,
        "first_conv": "conv1", "classifier": "fc", "license": "apache-2.0",
        **kwargs,
    }  # fmt: skip


def drop_path_rates(depths: Sequence[int], rate: float) -> list[list[float]]:
    """Return the drop-path probability of each block, by stage, growing linearly from 0 to ``rate``."""
    last, block, rates = max(sum(depths) - 1, 1), 0, []
    for depth in depths:
        rates.append([rate * (block + i) / last for i in range(depth)])
        block += depth
    return rates


def make_pool(pool_type: str, num_classes: int) -> SelectAdaptivePool2d:
    """Return timm's global pool; it keeps two axes of size 1, or with ``""`` the map.

    Raises:
        ValueError: If the type is unknown, or there is no pool for a classifier to follow.
    """
    if not pool_type and num_classes:
        raise ValueError("global_pool='' leaves a map that no classifier can follow; it needs num_classes=0")
    try:
        return SelectAdaptivePool2d(pool_type=pool_type, flatten=False)
    except AssertionError as error:
        raise ValueError(
            f"unknown global_pool {pool_type!r}; timm has avg, max, avgmax, catavgmax, fast..."
        ) from error


class Backbone(nn.Module, ABC):
    """A stem, four stages and a head, with all of timm's protocol.

    A subclass builds its stem, its ``stages`` and its head, and calls `_describe_stages`.

    Args:
        num_classes: Number of classes; 0 returns pooled features.
        in_chans: Number of channels of the image.
        drop_rate: Dropout probability before the classifier.
        matcher: Patterns of timm for layer-wise learning rates, by the names ``stem``, ``blocks`` and ``coarse``
            (whole stages).
    """

    __prepare_scriptable__ = refuse_script
    global_pool: SelectAdaptivePool2d

    if TYPE_CHECKING:  # parts of a network, or what finds them: their names are those of published weights

        @property
        def stages(self) -> Sequence[nn.Module]:
            """Return the stages that were not pruned away."""

    def __init__(self, num_classes: int, in_chans: int, drop_rate: float, matcher: Mapping[str, Any]) -> None:
        super().__init__()
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self._matcher, self._takes_classifier = dict(matcher), True

    def _describe_stages(self, paths: Sequence[str], channels: Sequence[int], strides: Sequence[int]) -> None:
        self.feature_info: list[dict[str, Any]] = [
            {"num_chs": width, "reduction": stride, "module": path}
            for path, width, stride in zip(paths, channels, strides, strict=True)
        ]
        self.num_features = self.head_hidden_size = channels[-1]

    # what the families do in their own ways ------------------------------------------------------

    @abstractmethod
    def _forward_stages(self, x: Tensor, wanted: Collection[int], count: int) -> tuple[Tensor, list[Tensor]]:
        """Return what the first ``count`` stages make of images, and the outputs of the wanted ones."""

    @abstractmethod
    def _set_classifier(self, num_classes: int, pool: SelectAdaptivePool2d) -> None:
        """Replace the classifier by a new one behind ``pool``.

        Raises:
            ValueError: If a classifier cannot stand there; nothing has changed then.
        """

    @abstractmethod
    def _remove_stages(self, count: int) -> None:
        """Drop all stages but the first ``count``, and the head."""

    @abstractmethod
    def get_classifier(self) -> nn.Module:
        """Return the classifier; Identity if there is none."""

    @abstractmethod
    def no_weight_decay(self) -> set[str]:
        """Return the names that weight decay spares beyond norms and biases."""

    @abstractmethod
    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last stage's features, ``(B, num_features, H / 32, W / 32)``."""

    @abstractmethod
    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits, ``(B, num_classes)``, or with ``pre_logits`` the pooled features."""

    @abstractmethod
    def forward(self, x: Tensor) -> Tensor:
        """Return logits, ``(B, num_classes)``."""

    # what all of them share ----------------------------------------------------------------------

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns for layer-wise learning rates."""
        return {"stem": self._matcher["stem"], "blocks": self._matcher["coarse" if coarse else "blocks"]}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of storing it."""
        for stage in self.stages:
            stage.grad_checkpointing = enable  # type: ignore[assignment]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the classifier; 0 classes return pooled features, ``global_pool=""`` the map itself.

        Raises:
            ValueError: If no classifier can follow the pool, or the network was pruned to a feature extractor.
        """
        if num_classes and not self._takes_classifier:
            raise ValueError("this network was pruned to a feature extractor, which no classifier can follow")
        pool = make_pool(self.global_pool.pool_type if global_pool is None else global_pool, num_classes)
        self._set_classifier(num_classes, pool)
        self.global_pool, self.num_classes = pool, num_classes

    def forward_intermediates(
        self,
        x: Tensor,
        indices: int | Sequence[int] | None = None,
        norm: bool = False,
        stop_early: bool = False,
        output_fmt: str = "NCHW",
        intermediates_only: bool = False,
    ) -> list[Tensor] | tuple[Tensor, list[Tensor]]:
        """Return the features of the stages, strides 4, 8, 16, 32 (timm's protocol).

        Args:
            x: Images, ``(B, in_chans, H, W)``.
            indices: Choice of the stages: an integer ``n`` wants the last ``n`` stages, a list wants these stages,
                ``None`` wants all.
            norm: Argument of timm's protocol that has no effect, because there is no final norm over the map.
            stop_early: Whether stages after the last wanted one are not computed.
            output_fmt: Layout of the features, only ``"NCHW"``.
            intermediates_only: Whether the final features are left out.

        Returns:
            The wanted features, each ``(B, C_i, H_i, W_i)``, or ``(final features, wanted features)``.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        x, intermediates = self._forward_stages(x, wanted, last + 1 if stop_early else len(self.stages))
        return intermediates if intermediates_only else (x, intermediates)

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last wanted one, and the head (timm's protocol); return the wanted indices."""
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        if last + 1 < len(self.stages):
            self.num_features = self.head_hidden_size = self.feature_info[last]["num_chs"]
        if prune_head or last + 1 < len(self.feature_info):
            self._remove_stages(last + 1)
        return list(wanted)
