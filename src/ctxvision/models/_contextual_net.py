"""A network whose convolutions bend to the classes it still considers."""

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import SelectAdaptivePool2d
from torch import Tensor, nn

from ctxvision.nn import ClassFunnel, ContextualOutput
from ctxvision.nn._checks import NormKind
from ctxvision.nn.funnel import ClassSelection

from ._backbone import Backbone, make_pool
from ._class_sets import StageClasses, Steps, recall, remember
from ._contextual_blocks import PriorSequence
from ._old_designs import adopt_design


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
    norm: NormKind = "layer"
    """Norm in projections and generators: ``"layer"`` (the paper's text) or ``"batch"`` (the authors' ResNets)."""
    head_norm: bool = False
    """Whether a norm stands between pooling and the head's projection, as in weights of older versions."""
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
    selection: ClassSelection = "reduce"
    """``"rerank"`` chooses among all classes at every stage (the authors' code)."""
    class_ratios: Sequence[float] = (1.0, 0.5, 0.2, 0.05)
    """Considered classes of the four stages as shares of all."""
    context_classes: int = 1000
    """Size of the class funnel of a network that is built without a classifier."""

    @classmethod
    def of(cls, **fields: Any) -> "Design":
        """Return the design of these fields.

        Raises:
            TypeError: If there is no such field.
            ValueError: If they contradict each other.
        """
        unknown = [name for name in fields if name not in cls._fields]
        if unknown:
            raise TypeError(
                f"ContextualNet takes no argument {unknown[0]!r}; beside timm's num_classes, in_chans, "
                f"global_pool, drop_rate and drop_path_rate it takes {', '.join(cls._fields)}"
            )
        design = cls(**fields)
        if not set(design.stages) <= {1, 2, 3, 4} or sorted(set(design.stages)) != list(design.stages):
            raise ValueError(f"stages must be increasing numbers from 1 to 4, got {tuple(design.stages)}")
        if design.extra_input and not design.prior:
            raise ValueError("extra_input=True needs prior=True, the prior is the extra input")
        return design


class ContextualNet(Backbone):
    """A ConvNeXt or a ResNet whose convolutions bend to the classes it still considers.

    It maps images ``(B, in_chans, H, W)`` to logits ``(B, num_classes)``. Beside timm's protocol, `forward_stages`
    returns the scores, the class sets and τ of every stage. A subclass builds ``stem`` and ``stages``, then calls
    `_add_head`. Each stage is called with the features and the prior; one that is called with the features alone
    asks the network's class funnel for the prior.

    Args:
        num_classes: Number of classes; 0 returns pooled features, and the funnel has ``context_classes`` classes.
        in_chans: Number of channels of the image.
        drop_rate: Dropout probability before the head.
        matcher: Patterns of timm for layer-wise learning rates, by the names ``stem``, ``blocks`` and ``coarse``.
        placed: ``device`` and ``dtype`` of the parameters.
    """

    stem_end: str
    """Name of the module that the stem ends with."""
    more_arguments: ClassVar = Design._fields
    """Names of the arguments that constructors take as ``**design``."""

    if TYPE_CHECKING:

        def stem(self, x: Tensor) -> Tensor:
            """Return the features before the first stage, ``(B, C, H / 4, W / 4)``."""

        maxpool: nn.Module

        def before_pool(self, x: Tensor) -> Tensor:
            """Return the features of the stem's level of stride 2; only a network that has one needs it."""

    def __init__(
        self, num_classes: int, in_chans: int, drop_rate: float, matcher: Mapping[str, Any], placed: dict[str, Any]
    ) -> None:
        super().__init__(num_classes, in_chans, drop_rate, matcher)
        self._placed = placed

    def _add_head(
        self,
        plan: Design,
        paths: Sequence[str],
        channels: Sequence[int],
        strides: Sequence[int],
        norm: nn.Module | None,
        global_pool: str,
        prior_dims: Mapping[int, int] | None = None,
    ) -> None:
        """Add the class funnel and the head.

        Args:
            plan: Plan that says what is contextual in the network, and how wide it is.
            paths: Names of the modules of the four stages, before them that of the stem's level of stride 2.
            channels: Number of channels of the stem and of each of the four stages.
            strides: Strides of the stem's level and of the four stages.
            norm: Norm of the pooled features; ``None`` if the plain network has none.
            global_pool: Name of timm's global pooling, ``""`` for none.
            prior_dims: Width of the prior by stage number; ``None`` for that of the embeddings.
        """
        self.contextual_stages = tuple(plan.stages) if plan.prior else ()
        self._describe_levels(paths, channels[-len(paths) :], strides[-len(paths) :])
        placed = self.__dict__.pop("_placed")
        self.global_pool = make_pool(global_pool, self.num_classes)
        _require_width(self.global_pool)
        self.head = nn.ModuleDict()
        if norm is not None and (plan.head_norm or not self.contextual_stages):
            self.head["norm"] = norm
        self.context: ClassFunnel | None = None
        self.fc: nn.Module | None = None
        if self.contextual_stages:
            self.context = ClassFunnel(
                self.num_classes or plan.context_classes,
                dim=plan.dim,
                channels={stage: channels[stage - 1] for stage in self.contextual_stages},
                head_channels=self.num_features,
                hidden={stage: _width(plan.hidden, channels[stage - 1]) for stage in self.contextual_stages},
                head_hidden=_width(plan.head_hidden, self.num_features),
                merge_hidden=plan.merge_hidden,
                prior_dims=prior_dims,
                norm=plan.norm,
                ratios=plan.class_ratios,
                selection=plan.selection,
                **placed,
            )
            for number in range(self.contextual_stages[0], self.contextual_stages[-1] + 1):
                self.stages[number - 1].classes = StageClasses(self.context, number)  # type: ignore[assignment]
        else:
            self.fc = self._linear(self.num_classes, **placed)

    def _linear(self, num_classes: int, **placed: Any) -> nn.Module:
        return nn.Linear(self.num_features, num_classes, **placed) if num_classes else nn.Identity()

    # timm's protocol ---------------------------------------------------------------------------

    def get_classifier(self) -> nn.Module:
        """Return the class embeddings (a plain design: the linear layer); Identity if there is no classifier."""
        if self.num_classes == 0:
            return nn.Identity()
        return self.context.embedding if self.context is not None else self.fc  # type: ignore[return-value]

    def no_weight_decay(self) -> set[str]:
        """Return the names that weight decay spares beyond norms and biases: class embeddings and τ."""
        return {"context.embedding.weight", "context.logit_scale"}

    def _set_classifier(self, num_classes: int, pool: SelectAdaptivePool2d) -> None:
        """Start over with new class embeddings.

        With 0 classes they stay, because the contextual convolutions still depend on them.
        """
        _require_width(pool)
        if self.context is None:
            weight = next(self.parameters())
            self.fc = self._linear(num_classes, device=weight.device, dtype=weight.dtype)
        elif num_classes:
            self.context.reset(num_classes)

    def _remove_stages(self, count: int) -> None:
        """Drop stages and head; the classes stay, and so does the funnel up to the last stage that stays.

        The features depend on them. What chooses the classes gets no gradient from features: it is frozen.
        """
        stem_levels = len(self.feature_info) - len(self.stages)
        for number in range(count + 1, len(self.stages) + 1):
            self.set_submodule(self.feature_info[stem_levels + number - 1]["module"], PriorSequence())
            if self.context is not None and str(number) in self.context.steps:
                del self.context.steps[str(number)]
        self.contextual_stages = tuple(stage for stage in self.contextual_stages if stage <= count)
        self.reset_classifier(0, "")
        self.head, self._takes_classifier = nn.ModuleDict(), False
        if self.context is not None:
            self.context.remove_head()

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the last stage's features, ``(B, num_features, H / 32, W / 32)``.

        As long as the memory of this tensor lives, the class sets found on the way are remembered with it, so that
        ``forward_head(forward_features(x))`` equals ``forward(x)``. Copies have none.
        """
        x, steps = self._features_and_steps(x)
        self._remember(x, steps)
        return x

    def _forward_levels(self, x: Tensor, wanted: Collection[int], count: int) -> tuple[Tensor, list[Tensor]]:
        outputs: list[Tensor] = []
        steps: Steps = []
        stem_levels = len(self.feature_info) - len(self.stages)
        if stem_levels:
            x = self.before_pool(x)
            if 0 in wanted:
                outputs.append(x)
            x = self.maxpool(x) if count > 1 else x
        else:
            x = self.stem(x)
        for index, stage in enumerate(self.stages[: count - stem_levels]):
            x = self._run(index + 1, stage, x, steps)
            if index + stem_levels in wanted:
                outputs.append(x)
        self._remember(x, steps)
        return x, outputs

    def _remember(self, x: Tensor, steps: Steps) -> None:
        if self.context is not None and not torch.compiler.is_compiling():
            remember(x, steps)

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Return logits, ``(B, num_classes)``, or with ``pre_logits`` the pooled features.

        For features that did not come straight from `forward_features` no class sets are known: then the head
        scores all classes, and a warning says so.
        """
        pooled = self._pool(x)
        if pre_logits or self.num_classes == 0:
            return pooled
        steps = [] if torch.compiler.is_compiling() else recall(x)
        if steps is None and self.contextual_stages:
            warnings.warn(
                "forward_head got features that forward_features did not return: no class sets are known, so the "
                "head scores all classes; call the model itself, or forward_stages",
                stacklevel=2,
            )
        return self._logits(pooled, steps or [])

    def forward(self, x: Tensor) -> Tensor:
        """Return logits, ``(B, num_classes)``: a class that was dropped ranks below every one that was kept.

        In training mode no class is dropped: the logits are the mean scores of all stages and the head, over τ, by
        which a plain cross entropy trains each of them. `forward_stages` returns the same in both modes.
        """
        x, steps = self._features_and_steps(x)
        x = self._pool(x)
        return x if self.num_classes == 0 else self._logits(x, steps)

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """Return all parameters, or without ``recurse`` those that the network uses itself: the class funnel's.

        No layer's ``forward`` reads the embeddings or τ. Tools that differentiate layer by layer, as Opacus does,
        take a network that has parameters of its own as a whole.
        """
        if recurse or self.context is None:
            return super().parameters(recurse)
        return iter((*self.context.embedding.parameters(), self.context.logit_scale))

    # beside the protocol -----------------------------------------------------------------------

    def forward_stages(self, x: Tensor) -> ContextualOutput:
        """Return logits together with each stage's scores and class sets, and τ; `ContextualLoss` takes them.

        Args:
            x: Images, ``(B, in_chans, H, W)``.

        Returns:
            The logits, ``(B, num_classes)``, the scores and class sets of the stages, ``(B, N_i)`` each, and τ, a
            scalar.

        Raises:
            ValueError: If the network has no classifier.
        """
        if self.num_classes == 0:
            raise ValueError("forward_stages needs a classifier; call reset_classifier(num_classes) first")
        x, steps = self._features_and_steps(x)
        return self._classify(self._pool(x), steps)

    def _features_and_steps(self, x: Tensor) -> tuple[Tensor, Steps]:
        """Return the last stage's features, and what each contextual stage found out about the classes."""
        x = self.stem(x)
        steps: Steps = []
        for number, stage in enumerate(self.stages, 1):
            x = self._run(number, stage, x, steps)
        return x, steps

    def _run(self, number: int, stage: nn.Module, x: Tensor, steps: Steps) -> Tensor:
        """Narrow the classes at the entry of a stage, and run it with the prior of those that go on.

        Args:
            number: Number of the stage, 1 to 4.
            stage: The stage.
            x: Features that enter the stage, ``(B, C, H, W)``.
            steps: Results of the earlier contextual stages; this stage's step is appended.

        Returns:
            The stage's features, ``(B, C', H', W')``.
        """
        if self.context is None or number not in self.contextual_stages:
            y: Tensor = stage(x)
            return y
        steps.append(self.context.narrow(number, x, steps))
        y = stage(x, steps[-1][1].prior)
        return y

    def adopt_design(self, names: Collection[str], prefix: str = "") -> None:
        """Become the network that older weights were made with, as far as names of tensors tell.

        Loading a state dict does this first.

        Args:
            names: Names of the tensors.
            prefix: What the names of the network's own tensors start with.

        Raises:
            RuntimeError: If this network cannot; the message says what changed.
        """
        adopt_design(self, names, prefix)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        self.adopt_design(state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args)

    def named_children(self) -> Iterator[tuple[str, nn.Module]]:
        """Return the parts as torch does, but first the class funnel, which the stages ask for their priors.

        A tool that rebuilds a network from its first children keeps it then.
        """
        children = list(super().named_children())
        return iter(sorted(children, key=lambda child: child[0] != "context"))

    def _pool(self, x: Tensor) -> Tensor:
        x = self.global_pool(x)
        if "norm" in self.head:
            x = self.head["norm"](x)
        if self.global_pool.is_identity():
            return x
        x = x.flatten(1)
        return F.dropout(x, self.drop_rate, self.training) if self.drop_rate else x

    def _logits(self, pooled: Tensor, steps: Steps) -> Tensor:
        if self.context is not None and self.training:
            return self.context.training_logits(pooled, steps)
        return self._classify(pooled, steps).logits

    def _classify(self, pooled: Tensor, steps: Steps) -> ContextualOutput:
        if self.context is not None:
            return self.context.score(pooled, steps)
        logits: Tensor = self.fc(pooled)  # type: ignore[misc]
        # len() would fix the batch of an exported graph
        classes = torch.arange(self.num_classes, device=logits.device).expand(logits.shape[0], -1)
        return ContextualOutput(logits, (logits,), (classes,), logits.new_ones(()))


def _width(width: int | float, channels: int) -> int:
    return round(width * channels) if isinstance(width, float) else width


def _require_width(pool: SelectAdaptivePool2d) -> None:
    if pool.feat_mult() != 1:
        raise ValueError(
            f"global_pool must keep the number of channels (avg, max, avgmax or ''), got {pool.pool_type!r}"
        )


def keep_classes(state_dict: dict[str, Tensor], model: ContextualNet) -> dict[str, Tensor]:
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
