"""Where the weights of a warm start come from: a network, a state dict, a file, timm's pretrained weights."""

import contextlib
import difflib
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import huggingface_hub
import timm
from huggingface_hub import constants
from torch import Tensor, nn

from .error import CheckpointError, name_some
from .published import from_published
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
    if isinstance(source, str) and _names_a_network(source):
        plain = _pretrained(source, getattr(model, "in_chans", 3))
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


def _names_a_network(source: str) -> bool:
    """Whether a string is a name in timm's registry or on a hub; files win, and whatever looks like one is one."""
    if source.startswith(_HUB_PREFIXES):
        return True
    if Path(source).is_file() or source.endswith(_FILE_SUFFIXES) or len(Path(source).parts) != 1:
        return False
    if timm.is_model(source):
        return True
    if Path(source).is_dir():
        return False
    near = difflib.get_close_matches(source.split(".")[0], timm.list_models(), n=1)
    raise CheckpointError(
        source, "neither a file nor a network of timm" + (f"; did you mean {near[0]}?" if near else "")
    )


def _pretrained(name: str, in_chans: int) -> nn.Module:
    architecture, _, tag = name.partition(".")
    tags = [] if name.startswith(_HUB_PREFIXES) else timm.list_pretrained(f"{architecture}.*")
    if not tags and not name.startswith(_HUB_PREFIXES):
        raise CheckpointError(name, "timm has no pretrained weights for it; give a file")
    if tag and tags and name not in tags:
        raise CheckpointError(name, f"timm has no such weights; it has {name_some(tags)}")
    host = urlsplit(constants.ENDPOINT).netloc
    reachable = True
    try:
        reachable = constants.HF_HUB_OFFLINE or _reachable()
        with contextlib.nullcontext() if reachable else _cache_only():
            model: nn.Module = timm.create_model(name, pretrained=True, in_chans=in_chans)
    except (ImportError, NameError, AttributeError, MemoryError):  # of versions that do not fit, or of ours
        raise
    except Exception as error:  # the hub's client, its transport and timm each raise errors of their own
        reason = (
            f"{host} cannot be reached, and they are not in the cache"
            if not reachable
            else re.split(r"(?<=\.)\s|\n", str(error).strip() or type(error).__name__)[0][:200]
        )
        raise CheckpointError(
            name, f"timm cannot get its pretrained weights ({reason}); check the connection, or give a file"
        ) from error
    return model


def _reachable() -> bool:
    """Ask the endpoint of the hub once, by its client, with its proxy and time-out: it asks for a minute."""
    session = huggingface_hub.get_session()
    library = sys.modules[type(session).__module__.partition(".")[0]]  # requests, httpx or its successor
    try:
        session.head(constants.ENDPOINT, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (OSError, library.HTTPError):
        return False
    return True  # whatever it answered


@contextlib.contextmanager
def _cache_only() -> Iterator[None]:
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _under_our_names(tensors: Mapping[str, Tensor], model: nn.Module, where: object) -> dict[str, Tensor]:
    """Rename the published layouts and those of ``ctxvision train``; anything else stays as it is."""
    own = model.state_dict()
    if _all_inside("model.", tensors) and not _any_inside("model.", own):
        tensors = {name.removeprefix("model."): value for name, value in tensors.items()}
    if _any_inside("backbone.", tensors) and not _any_inside("backbone.", own):
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
