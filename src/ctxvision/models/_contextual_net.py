"""A network whose convolutions bend to the classes it still considers, with all of timm's protocol."""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import SelectAdaptivePool2d
from timm.models._features import feature_take_indices
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.weak import WeakTensorKeyDictionary

from ctxvision.models._pooling import make_pool
from ctxvision.nn import ClassFunnel, ClassStep, ContextualOutput
from ctxvision.nn.funnel import Selection

Steps = list[tuple[Tensor | None, ClassStep]]

# By the tensor that forward_features returned: an attribute of the tensor would be pickled with it.
_CLASS_STEPS = WeakTensorKeyDictionary()


class ContextualStage(nn.Module):
    """Downsampling, then blocks that all see the same prior."""

    def __init__(self, downsample: nn.Module, blocks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.downsample = downsample
        self.blocks = nn.ModuleList(blocks)


class Trunk(NamedTuple):
    """The parts of a network under the names they have in timm."""

    stem: Sequence[tuple[str, nn.Module]]
    stages: Sequence[tuple[str, nn.Module]]
    """``"layer1"`` with a ModuleList of blocks, or ``"stages"`` with all `ContextualStage`."""
    channels: Sequence[int]
    """Channels of the stem and of each stage."""
    norm: nn.Module | None
    """Norm of the pooled features, if the plain network has one."""
    matcher: dict[str, Any]


class Design(NamedTuple):
    """What is contextual in a network, and how wide; the defaults are the paper's."""

    stages: Sequence[int] = (2, 3, 4)
    """Contextual stages; none builds the plain network with a linear classifier (Table 6)."""
    dim: int = 256
    """Width ``d`` of class embeddings and prior (Table 6)."""
    hidden: int | float = 0.5
    """Width of the projections at the stages; a float is a share of their input."""
    head_hidden: int | float = 0.5
    """Width of the projection at the head; a float is a share of its input."""
    merge_hidden: int = 64
    """Width inside the merging."""
    weight_offsets: bool = True
    """Whether kernels bend (Table 5)."""
    sampling_offsets: bool = True
    """Whether sampling grids bend (Table 5)."""
    prior: bool = True
    """Whether the offsets see the contextual prior; without it there are no classes to weigh (Table 4, a3)."""
    extra_input: bool = False
    """Only concatenate the prior to the input of each stage's first block, without any offset (Table 4, a2)."""
    modulation: bool = False
    """Whether taps are modulated as in DCNv2 (the authors' code)."""
    selection: Selection = "reduce"
    """``"rerank"`` chooses among all classes at every stage (the authors' code)."""
    class_ratios: Sequence[float] = (1.0, 0.5, 0.2, 0.05)
    """Considered classes of the four stages as shares of all."""
    context_classes: int = 1000
    """Size of the class funnel of a network that is built without a classifier."""


class ContextualNet(nn.Module):
    """A ConvNeXt or a ResNet whose convolutions bend to the classes it still considers.

    Beside timm's protocol, `forward_stages` returns what every stage thought: scores, class sets and τ.

    Args:
        trunk: Builds stem, stages and head norm for a design.
        num_classes: Classes; 0 returns pooled features, and the funnel keeps ``context_classes`` classes.
        in_chans: Channels of the image.
        global_pool: timm's pooling type, ``""`` for none.
        drop_rate: Dropout before the head.
        drop_path_rate: Stochastic depth of the last block; earlier ones less, linearly.
        **design: Fields of `Design`.

    Raises:
        ValueError: If the design contradicts itself.
    """

    def __init__(
        self,
        trunk: Callable[[Design, int, float], Trunk],
        num_classes: int = 1000,
        in_chans: int = 3,
        global_pool: str = "avg",
        drop_rate: float = 0.0,
        drop_path_rate: float = 0.0,
        **design: Any,
    ) -> None:
        super().__init__()
        unknown = [name for name in design if name not in Design._fields]
        if unknown:
            raise TypeError(
                f"ContextualNet takes no argument {unknown[0]!r}; beside timm's num_classes, in_chans, "
                f"global_pool, drop_rate and drop_path_rate it takes {', '.join(Design._fields)}"
            )
        plan = Design(**design)
        if not set(plan.stages) <= {1, 2, 3, 4} or sorted(set(plan.stages)) != list(plan.stages):
            raise ValueError(f"stages must be increasing numbers from 1 to 4, got {tuple(plan.stages)}")
        if plan.extra_input and not plan.prior:
            raise ValueError("extra_input=True needs prior=True, the prior is the extra input")
        self.num_classes, self.in_chans, self.drop_rate = num_classes, in_chans, drop_rate
        self.grad_checkpointing = False
        parts = trunk(plan, in_chans, drop_path_rate)
        for name, module in (*parts.stem, *parts.stages):
            self.add_module(name, module)
        self._stem_names = [name for name, _ in parts.stem]
        self._stage_names = [name for name, _ in parts.stages]
        self._matcher, self.contextual_stages = parts.matcher, tuple(plan.stages) if plan.prior else ()
        self.num_features = self.head_hidden_size = parts.channels[-1]
        self.feature_info = [
            {
                "num_chs": channels,
                "reduction": 4 * 2**i,
                "module": self._stage_path(i + 1),
            }
            for i, channels in enumerate(parts.channels[1:])
        ]
        self._depth, self._has_head = len(self.feature_info), True
        self.global_pool = _width_keeping_pool(global_pool, num_classes)
        self.head = nn.ModuleDict() if parts.norm is None else nn.ModuleDict({"norm": parts.norm})
        self.context: ClassFunnel | None = None
        self.fc: nn.Module | None = None
        if self.contextual_stages:
            self.context = ClassFunnel(
                num_classes or plan.context_classes,
                plan.dim,
                {stage: parts.channels[stage - 1] for stage in self.contextual_stages},
                self.num_features,
                {stage: _width(plan.hidden, parts.channels[stage - 1]) for stage in self.contextual_stages},
                _width(plan.head_hidden, self.num_features),
                plan.merge_hidden,
                plan.class_ratios,
                plan.selection,
            )
        else:
            self.fc = self._linear(num_classes)

    def _linear(self, num_classes: int) -> nn.Module:
        return nn.Linear(self.num_features, num_classes) if num_classes else nn.Identity()

    # timm's protocol ---------------------------------------------------------------------------

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        """Return timm's patterns for layer-wise learning rates."""
        return {"stem": self._matcher["stem"], "blocks": self._matcher["coarse" if coarse else "blocks"]}

    def no_weight_decay(self) -> set[str]:
        """Return the names that weight decay spares beyond norms and biases: class embeddings and τ."""
        return {"context.embedding.weight", "context.logit_scale"}

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        """Recompute each block in the backward pass instead of storing it."""
        self.grad_checkpointing = enable

    def get_classifier(self) -> nn.Module:
        """Return the class embeddings (a plain design: the linear layer); Identity if there is no classifier."""
        if self.num_classes == 0:
            return nn.Identity()
        return self.context.embedding if self.context is not None else self.fc  # type: ignore[return-value]

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Start over with ``num_classes`` new class embeddings.

        With 0 classes the head returns pooled features (``global_pool=""``: the map) and the class embeddings
        stay, because the contextual convolutions still depend on them.

        Raises:
            ValueError: If ``num_classes > 0`` and the head was pruned away, or the pool does not fit.
        """
        if num_classes and not self._has_head:
            raise ValueError("this network was pruned to a feature extractor, which no classifier can follow")
        if global_pool is None:
            global_pool = self.global_pool.pool_type
        self.global_pool = _width_keeping_pool(global_pool, num_classes)
        self.num_classes = num_classes
        if self.context is None:
            weight = next(self.parameters())
            self.fc = self._linear(num_classes).to(device=weight.device, dtype=weight.dtype)
        elif num_classes:
            self.context.reset(num_classes)

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
            indices: The last n stages if an integer, these if a list, all if ``None``.
            norm: Without effect, there is no final norm over the map.
            stop_early: Do not compute stages after the last wanted one.
            output_fmt: Only ``"NCHW"``.
            intermediates_only: Leave out the final features.

        Returns:
            The wanted features, or ``(final features, wanted features)``.
        """
        if output_fmt != "NCHW":
            raise ValueError(f"output_fmt must be 'NCHW', got {output_fmt!r}")
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        features, steps = self._stages(x, last + 1 if stop_early else self._depth)
        intermediates = [features[index] for index in wanted]
        if intermediates_only:
            return intermediates
        _remember(features[-1], steps)
        return features[-1], intermediates

    def prune_intermediate_layers(
        self, indices: int | Sequence[int] = 1, prune_norm: bool = False, prune_head: bool = True
    ) -> list[int]:
        """Drop the stages after the last wanted one, and the head (timm's protocol); return the wanted indices.

        The classes stay, and so does the funnel up to the last wanted stage, because the features depend on them.
        What chooses the classes gets no gradient from features: without a head it is frozen.
        """
        wanted, last = feature_take_indices(len(self.feature_info), indices)
        for number in range(last + 2, self._depth + 1):
            self.set_submodule(self._stage_path(number), nn.ModuleList())
            if self.context is not None and str(number) in self.context.steps:
                del self.context.steps[str(number)]
        if last + 1 < self._depth:
            self._depth, self.num_features = last + 1, self.feature_info[last]["num_chs"]
            self.head_hidden_size = self.num_features
            self.contextual_stages = tuple(stage for stage in self.contextual_stages if stage <= last + 1)
        if prune_head or last + 1 < len(self.feature_info):
            self.reset_classifier(0, "")
            self.head, self._has_head = nn.ModuleDict(), False
            if self.context is not None:
                self.context.remove_head()
        return list(wanted)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last stage's features, ``(B, num_features, H / 32, W / 32)``.

        As long as this very tensor lives, the class sets found on the way are remembered with it, so that
        ``forward_head(forward_features(x))`` equals ``forward(x)``. Copies, also detached ones, have none.
        """
        features, steps = self._stages(x, self._depth)
        _remember(features[-1], steps)
        return features[-1]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits, ``(B, num_classes)``, or with ``pre_logits`` the pooled features.

        For features that did not come straight from `forward_features` no class sets are known: then the head
        scores all classes, and a warning says so.
        """
        pooled = self._pool(x)
        if pre_logits or self.num_classes == 0:
            return pooled
        steps = [] if torch.compiler.is_compiling() else _CLASS_STEPS.get(x)
        if steps is None and self.contextual_stages:
            warnings.warn(
                "forward_head got features that forward_features did not return: no class sets are known, so the "
                "head scores all classes; call the model itself, or forward_stages",
                stacklevel=2,
            )
        return self._classify(pooled, steps or []).logits

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, ``(B, num_classes)``: a class that was dropped ranks below every one that was kept."""
        features, steps = self._stages(x, self._depth)
        pooled = self._pool(features[-1])
        return pooled if self.num_classes == 0 else self._classify(pooled, steps).logits

    # beside the protocol -----------------------------------------------------------------------

    def forward_stages(self, x: Tensor) -> ContextualOutput:
        """Return logits together with each stage's scores and class sets, and τ; `ContextualLoss` takes them.

        Raises:
            ValueError: If the network has no classifier.
        """
        if self.num_classes == 0:
            raise ValueError("forward_stages needs a classifier; call reset_classifier(num_classes) first")
        features, steps = self._stages(x, self._depth)
        return self._classify(self._pool(features[-1]), steps)

    def _stages(self, x: Tensor, count: int) -> tuple[list[Tensor], Steps]:
        for name in self._stem_names:
            x = self.get_submodule(name)(x)
        features: list[Tensor] = []
        steps: Steps = []
        for number in range(1, count + 1):
            prior = None
            if self.context is not None and number in self.contextual_stages:
                steps.append(self.context.enter(number, x, steps))
                prior = steps[-1][1].prior
            stage = self.get_submodule(self._stage_path(number))
            if isinstance(stage, ContextualStage):
                x = stage.downsample(x)
            blocks = stage.blocks if isinstance(stage, ContextualStage) else stage
            for block in blocks.children():
                if self.grad_checkpointing and self.training:
                    x = checkpoint(block, x, prior, use_reentrant=False)
                else:
                    x = block(x, prior)
            features.append(x)
        return features, steps

    def _stage_path(self, number: int) -> str:
        names = self._stage_names
        return names[number - 1] if len(names) > 1 else f"{names[0]}.{number - 1}"

    def _pool(self, x: Tensor) -> Tensor:
        x = self.global_pool(x)
        if "norm" in self.head:
            x = self.head["norm"](x)
        if self.global_pool.is_identity():
            return x
        x = x.flatten(1)
        return F.dropout(x, self.drop_rate, self.training) if self.drop_rate else x

    def _classify(self, pooled: Tensor, steps: Steps) -> ContextualOutput:
        if self.context is not None:
            return self.context.finish(pooled, steps)
        logits: Tensor = self.fc(pooled)  # type: ignore[misc]
        # len() would fix the batch of an exported graph
        classes = torch.arange(self.num_classes, device=logits.device).expand(logits.shape[0], -1)
        return ContextualOutput(logits, (logits,), (classes,), torch.ones((), device=logits.device))


def _width(width: int | float, channels: int) -> int:
    return round(width * channels) if isinstance(width, float) else width


def _remember(features: Tensor, steps: Steps) -> None:
    if not torch.compiler.is_compiling():
        _CLASS_STEPS[features] = steps


def _width_keeping_pool(pool_type: str, num_classes: int) -> SelectAdaptivePool2d:
    pool = make_pool(pool_type, num_classes)
    if pool.feat_mult() != 1:
        raise ValueError(
            f"global_pool must keep the number of channels (avg, max, avgmax or ''), got {pool_type!r}"
        )
    return pool
