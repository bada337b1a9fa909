"""Where the weights of a warm start come from: a network, a state dict, a file, timm's pretrained weights."""

import contextlib
import difflib
import re
from collections.abc import Iterable, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import timm
from torch import Tensor, nn

from ctxvision._hub import cache_only, why_not_asked
from ctxvision.files import near_path
from ctxvision.models._weights import why_none

from .error import CheckpointError, name_some
from .layout import our_models
from .published import from_published, is_paddleclas
from .reading import read_state_dict

Source = nn.Module | Mapping[str, Tensor] | str | PathLike[str]

_FILE_SUFFIXES = (".pth", ".pt", ".tar", ".bin", ".ckpt", ".pkl", ".safetensors")
_HUB_PREFIXES = ("hf-hub:", "hf_hub:")


class Weights(NamedTuple):
    """Tensors by our names, what to call their source, and the modules that are its classifier if it says so."""

    where: str
    tensors: dict[str, Tensor]
    classifiers: tuple[str, ...]


def read_weights(source: Source, model: nn.Module, name: str | None) -> Weights:
    """Read the tensors of a source under the names that ``model`` gives them.

    Raises:
        CheckpointError: There is no such file or network, or its weights cannot be had.
    """
    if isinstance(source, nn.Module):
        return Weights(name or type(source).__name__, source.state_dict(), classifiers_of(source))
    if isinstance(source, Mapping):
        return Weights(name or "state dict", _under_our_names(source, model, name or "state dict"), ())
    if isinstance(source, str) and names_a_network(source):
        plain = pretrained_network(source, getattr(model, "in_chans", 3))
        return Weights(name or source, plain.state_dict(), classifiers_of(plain))
    if not isinstance(source, str | PathLike):
        raise CheckpointError(
            name or type(source).__name__, "weights come from a file, a timm name, a state dict or a network"
        )
    return Weights(name or str(source), _under_our_names(read_state_dict(source), model, source), ())


def classifiers_of(model: nn.Module) -> tuple[str, ...]:
    """Return the names of the modules that timm calls the network's classifier."""
    config: Any = getattr(model, "pretrained_cfg", None)
    named = config.get("classifier") if isinstance(config, Mapping) else None
    return (named,) if isinstance(named, str) else tuple(named or ())


def names_a_network(source: str) -> bool:
    """Tell whether a text is a name in timm's registry or on a hub; files win, and what looks like one is one.

    Raises:
        CheckpointError: The text is neither the path of a file nor the name of a network.
    """
    if source.startswith(_HUB_PREFIXES):
        return True
    if Path(source).is_file() or source.endswith(_FILE_SUFFIXES) or len(Path(source).parts) != 1:
        return False
    if timm.is_model(source):
        return True
    if Path(source).is_dir():
        return False
    near = difflib.get_close_matches(source.split(".")[0], timm.list_models(), n=1)
    hint = f"; did you mean {near[0]}?" if near else near_path(source)
    raise CheckpointError(source, f"neither a file nor a network of timm{hint}")


def pretrained_network(name: str, in_chans: int = 3) -> nn.Module:
    """Return a network of timm's with its pretrained weights, from the hub or its cache.

    Args:
        name: A registered name, with or without a tag, or ``hf-hub:`` and a place.
        in_chans: The number of channels of its input.

    Raises:
        CheckpointError: There are no such weights, or they cannot be had.
    """
    architecture, _, tag = name.partition(".")
    if architecture in our_models():
        return _ours(name, in_chans)
    tags = [] if name.startswith(_HUB_PREFIXES) else timm.list_pretrained(f"{architecture}.*")
    if not tags and not name.startswith(_HUB_PREFIXES):
        raise CheckpointError(name, "timm has no pretrained weights for it; give a file")
    if tag and tags and name not in tags:
        raise CheckpointError(name, f"timm has no such weights; it has {name_some(tags)}")
    reason = ""
    try:
        reason = why_not_asked(f"{_repository(name)}/resolve/main/config.json")
        with cache_only() if reason else contextlib.nullcontext():
            model: nn.Module = timm.create_model(name, pretrained=True, in_chans=in_chans)
    except Exception as error:  # the hub's client, its transport and timm each raise errors of their own
        if not reason and isinstance(error, ImportError | NameError | AttributeError | MemoryError):
            raise  # of versions that do not fit, or of ours
        reason = f"{reason}, and they are not in the cache" if reason else _root_of(error)
        raise CheckpointError(
            name, f"timm cannot get its pretrained weights ({reason}); check the connection, or give a file"
        ) from error
    return model


def _ours(name: str, in_chans: int) -> nn.Module:
    """Build a network of this library with weights that other projects keep, which no hub of timm's has."""
    architecture, _, tag = name.partition(".")
    with_weights = timm.list_pretrained(f"{architecture}.*")
    if not with_weights:
        raise CheckpointError(name, why_none(architecture))
    if tag and name not in with_weights:
        raise CheckpointError(name, f"there are no such weights; there are {name_some(with_weights)}")
    model: nn.Module = timm.create_model(name, pretrained=True, in_chans=in_chans)
    return model


def _repository(name: str) -> str:
    """Return where a network lies on the hub, ``user/name``."""
    for prefix in _HUB_PREFIXES:
        if name.startswith(prefix):
            return name.removeprefix(prefix).partition("@")[0]
    config = timm.get_pretrained_cfg(name, allow_unregistered=True)
    return str((config and config.hf_hub_id) or f"timm/{name}")


def _root_of(error: BaseException) -> str:
    """Say in a sentence what went wrong; the hub's client hides what the hub answered behind advice."""
    answered = error
    while getattr(answered, "response", None) is None and answered.__cause__ is not None:
        answered = answered.__cause__
    if getattr(answered, "response", None) is None:
        answered = error
    return re.split(r"(?<=\.)\s|\n", str(answered).strip() or type(answered).__name__)[0][:200]


def _under_our_names(tensors: Mapping[str, Tensor], model: nn.Module, where: object) -> dict[str, Tensor]:
    """Rename the published layouts and those of ``ctxvision train``; anything else stays as it is."""
    own = model.state_dict()
    if _all_inside("model.", tensors) and not _any_inside("model.", own):
        tensors = {name.removeprefix("model."): value for name, value in tensors.items()}
    if is_paddleclas(tensors) or (_any_inside("backbone.", tensors) and not _any_inside("backbone.", own)):
        config: Any = getattr(model, "pretrained_cfg", None)
        try:
            tensors = from_published(tensors, (config or {}).get("architecture") or type(model).__name__)
        except CheckpointError as error:
            raise CheckpointError(where, str(error)) from error
    return {name: value for name, value in tensors.items() if name in own or not name.endswith(".filt")}


def _all_inside(prefix: str, names: Iterable[str]) -> bool:
    return all(name.startswith(prefix) for name in names)


def _any_inside(prefix: str, names: Iterable[str]) -> bool:
    return any(name.startswith(prefix) for name in names)
