"""Start a contextual network from the weights of the plain network that it extends."""

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike

from torch import Tensor, nn

from .error import CheckpointError, name_some
from .layout import alike, describe, require_finite
from .reading import read_state_dict

_CLASSIFIERS = ("head.fc.", "fc.")


@dataclass(frozen=True)
class WarmStartReport:
    """What `warm_start` did, as names of tensors.

    Attributes:
        source: where the weights came from.
        loaded: tensors copied into the model.
        new: tensors of the model that the plain network does not have; they keep their values.
        unused: tensors of the plain network's classifier that the model has no place for.
    """

    source: str
    loaded: tuple[str, ...]
    new: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{self.source}: {len(self.loaded)} tensors loaded"]
        for what, names in (("new", self.new), ("unused", self.unused)):
            lines.append(f"{len(names)} {what}")
            layers = Counter(_pattern(name).rpartition(".")[0] for name in names)
            lines += [f"  {count} in {layer}" for layer, count in layers.items()]
        return "\n".join(lines)


def warm_start(
    model: nn.Module,
    source: nn.Module | Mapping[str, Tensor] | str | PathLike[str],
    *,
    source_name: str | None = None,
) -> WarmStartReport:
    """Load a plain network's weights into the contextual network that keeps its names.

    All shared tensors are loaded or, on any error, none. A contextual network's generators start at zero, so
    afterwards its blocks compute what the plain network's compute.

    Args:
        model: the network to load into, e.g. ``timm.create_model("contextual_resnet50")``.
        source: the plain network, e.g. ``timm.create_model("resnet50", pretrained=True)``, its state dict,
            or a checkpoint file of it (see `read_state_dict`).
        source_name: what to call the source in messages and in the report.

    Returns:
        Which tensors were loaded, which are new and which were left out.

    Raises:
        CheckpointError: the file is unusable, or the source is not the plain counterpart of the model: a
            tensor other than its classifier's has another shape, has no place, or is absent.
    """
    if isinstance(source, nn.Module):
        where, tensors = source_name or type(source).__name__, source.state_dict()
    elif isinstance(source, Mapping):
        where, tensors = source_name or "state dict", dict(source)
    else:
        where, tensors = source_name or str(source), read_state_dict(source)

    own = model.state_dict()
    loaded = {name: value for name, value in tensors.items() if name in own and alike(value, own[name])}
    unused = [name for name in tensors if name not in loaded]
    new = [name for name in own if name not in loaded]
    _require_counterpart(where, tensors, own, unused, new)
    require_finite(loaded, where)
    model.load_state_dict(loaded, strict=False)
    return WarmStartReport(where, tuple(loaded), tuple(new), tuple(unused))


def _require_counterpart(
    where: str, tensors: Mapping[str, Tensor], own: Mapping[str, Tensor], unused: list[str], new: list[str]
) -> None:
    """Raise unless the source leaves over only its classifier, and the model only what it alone has."""
    misfits = [name for name in unused if not name.startswith(_CLASSIFIERS)]
    unlike = [f"{name} is {describe(tensors[name])}, not {describe(own[name])}" for name in misfits if name in own]
    homeless = [name for name in misfits if name not in own]
    patterns = {_pattern(name) for name in tensors}
    absent = [name for name in new if name not in tensors and _pattern(name) in patterns]
    for names, what in (
        (unlike, "tensors have another shape"),
        (homeless, "tensors have no place in the model"),
        (absent, "tensors that the model needs are absent"),
    ):
        if names:
            problem = f"{len(names)} {what} ({name_some(names)})"
            raise CheckpointError(where, f"not the model's plain counterpart: {problem}; nothing was loaded")


def _pattern(name: str) -> str:
    """Replace the numbers of stages and blocks by ``*``: tensors that play the same part share a pattern."""
    return re.sub(r"(^layer|(?<=\.))\d+(?=\.)", r"\1*", name)
