"""Start a network from the weights of another, as a contextual one from the plain one that it extends."""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from torch import Tensor, nn

from ctxvision.models import ContextualNet
from ctxvision.models.rednet import fit_stem

from .class_fitting import PlainClassifier
from .error import CheckpointError, name_some
from .finite import require_finite
from .layout import alike, describe
from .sources import Source, Weights, classifiers_of, read_weights

# of ConvNeXt and ResNet, for sources that do not say; a contextual ConvNeXt has no norm before its head
_CLASSIFIERS = ("head.fc", "head.norm", "fc")


_MOST_MISFITS = 0.2  # of the tensors; with more of them the network is of another kind


@dataclass(frozen=True)
class WarmStartReport:
    """What `warm_start` did, as names of tensors.

    Attributes:
        source: Name or path of the source of the weights.
        loaded: Names of the tensors that were copied into the model.
        new: Names of the model's tensors that were not loaded; they keep their values.
        unused: Names of the source's tensors that were left out.
        reasons: Reason for each name in ``unused``.
        classifier: Linear classifier of the source, if the model is contextual and has as many classes;
            `fit_classes` takes it.
        fits_classes: Whether the model's class embeddings and projections are new, so that `fit_classes` is due.
    """

    source: str
    loaded: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]
    reasons: Mapping[str, str] = field(default_factory=dict)
    classifier: PlainClassifier | None = None
    fits_classes: bool = False

    def __str__(self) -> str:
        left_out = [(name, self.reasons.get(name, "")) for name in self.unused]
        return "\n".join(
            [
                f"{self.source}: {len(self.loaded)} tensors loaded",
                f"{len(self.new)} new",
                *_by_layer((name, "") for name in self.new),
                f"{len(self.unused)} unused",
                *_by_layer(left_out),
            ]
        )


def warm_start(
    model: nn.Module, source: Source, *, source_name: str | None = None, partial: bool = False
) -> WarmStartReport:
    """Load another network's weights into a network that shares names with it.

    Made for a contextual network and its plain counterpart: its generators start at zero, so that afterwards
    its blocks compute what the plain network's compute. Its class embeddings and projections stay new, because the
    plain network has none: `fit_classes` fits them to images, so that it classifies as the plain one.

    Just as well a network starts from its own weights, also in the authors' published layout, or from those of a
    run. A classifier for other classes stays new.
    All shared tensors are loaded or, on any error, none.

    Args:
        model: Network to load into, e.g. ``timm.create_model("contextual_resnet50")``.
        source: Network, state dict, checkpoint file (see `read_state_dict`), or name of one of timm's pretrained
            networks, ``"resnet50"`` or ``"resnet50.a1_in1k"``, which timm downloads. A file of that name wins.
        source_name: Name of the source in messages and in the report.
        partial: Whether to load whatever fits in name and shape, and to leave out the rest, from any source, e.g.
            a CoTNet from a ResNet.

    Returns:
        Report of the tensors that were loaded, of those that are new, and of those that were left out and why.

    Raises:
        CheckpointError: The source is unusable; or nothing of it fits; or, unless ``partial``, it is not the
            model's counterpart: a tensor other than the classifiers' has another shape, has no place, or is
            absent. The model is unchanged.
    """
    weights = read_weights(source, model, source_name)
    weights = weights._replace(tensors=fit_stem(weights.tensors, model))
    if isinstance(model, ContextualNet):
        try:
            model.adopt_design(weights.tensors)
        except RuntimeError as error:
            raise CheckpointError(weights.where, str(error)) from error
    own, tensors = model.state_dict(), weights.tensors
    loaded = {name: value for name, value in tensors.items() if name in own and alike(value, own[name])}
    unused = [name for name in tensors if name not in loaded]
    new = [name for name in own if name not in loaded]
    heads = tuple(f"{name}." for name in (*_CLASSIFIERS, *weights.classifiers, *classifiers_of(model)))
    if not partial:
        _require_counterpart(weights, own, loaded, new, heads)
    _require_something(weights, own, loaded)
    require_finite(loaded, weights.where)
    model.load_state_dict(loaded, strict=False)
    reasons = {name: _why_left_out(tensors[name], own.get(name), name.startswith(heads)) for name in unused}
    due = isinstance(model, ContextualNet) and model.context is not None and model.num_classes > 0
    due = due and not any(name.startswith("context.") for name in loaded)
    classifier = _classifier_in(weights, model.num_classes) if due else None  # type: ignore[arg-type]
    return WarmStartReport(weights.where, tuple(loaded), tuple(new), tuple(unused), reasons, classifier, due)


def _classifier_in(weights: Weights, num_classes: int) -> PlainClassifier | None:
    """Return the linear classifier among a plain network's tensors, if it has as many classes."""
    for name in (*weights.classifiers, *_CLASSIFIERS):
        weight, bias = (weights.tensors.get(f"{name}.{part}") for part in ("weight", "bias"))
        if weight is not None and bias is not None and weight.ndim == 2 and weight.shape[0] == num_classes:
            norm = [weights.tensors.get(f"head.norm.{part}") for part in ("weight", "bias")]
            both = (norm[0], norm[1]) if norm[0] is not None and norm[1] is not None else None
            return PlainClassifier(weight, bias, both)
    return None


def _require_counterpart(
    weights: Weights,
    own: Mapping[str, Tensor],
    loaded: Mapping[str, Tensor],
    new: list[str],
    heads: tuple[str, ...],
) -> None:
    """Raise unless the source leaves over only its classifier, and the model only what it alone has."""
    tensors = weights.tensors
    misfits = [name for name in tensors if name not in loaded and not name.startswith(heads)]
    unlike = [f"{name} is {_compare(tensors[name], own[name])}" for name in misfits if name in own]
    homeless = [name for name in misfits if name not in own]
    patterns = {_pattern(name) for name in tensors}
    absent = [name for name in new if name not in tensors and _pattern(name) in patterns]
    fit = f" (--init-partial, in Python partial=True, loads the {len(loaded)} tensors that fit)"
    advice = fit if _has_weights(loaded) else ""
    if len(homeless) + len(unlike) > _MOST_MISFITS * len(tensors):
        raise CheckpointError(
            weights.where,
            "the weights of another kind of network, not of the model or of its plain counterpart: "
            f"{len(homeless) + len(unlike)} of {len(tensors)} tensors, such as {misfits[0]}, have no place in the "
            f"model; nothing was loaded{advice}",
        )
    for names, what in (
        (unlike, "tensors have another shape"),
        (homeless, "tensors have no place in the model"),
        (absent, "tensors that the model needs are absent"),
    ):
        if names:
            problem = f"{len(names)} {what} ({name_some(names)})"
            raise CheckpointError(
                weights.where, f"not the model's plain counterpart: {problem}; nothing was loaded{advice}"
            )


def _require_something(weights: Weights, own: Mapping[str, Tensor], loaded: Mapping[str, Tensor]) -> None:
    if not _has_weights(loaded):
        theirs, ours = name_some(list(weights.tensors)), name_some(list(own))
        raise CheckpointError(
            weights.where,
            f"nothing in it fits: it has {len(weights.tensors)} tensors ({theirs}), the model has {len(own)} "
            f"({ours}); nothing was loaded",
        )


def _has_weights(tensors: Mapping[str, Tensor]) -> bool:
    """Tell whether there is a kernel or a matrix: counters and norms of one name fit by chance."""
    return any(value.ndim > 1 for value in tensors.values())


def _why_left_out(theirs: Tensor, ours: Tensor | None, is_classifier: bool) -> str:
    if ours is None:
        return "no place in the model"
    if is_classifier and theirs.shape[1:] == ours.shape[1:]:
        return f"{len(theirs)} classes there, {len(ours)} here"
    return _compare(theirs, ours)


def _compare(theirs: Tensor, ours: Tensor) -> str:
    return f"{describe(theirs)}, not {describe(ours)}"


def _by_layer(names: Iterable[tuple[str, str]]) -> list[str]:
    """Return a line per kind of layer and reason."""
    layers = Counter((_pattern(name).rpartition(".")[0], reason) for name, reason in names)
    return [
        f"  {count} in {layer}" + (f": {reason}" if reason else "") for (layer, reason), count in layers.items()
    ]


def _pattern(name: str) -> str:
    """Replace the numbers of stages and blocks by ``*``: tensors that play the same part share a pattern."""
    return re.sub(r"(^layer|(?<=\.))\d+(?=\.)", r"\1*", name)
