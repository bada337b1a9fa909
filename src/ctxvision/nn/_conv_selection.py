"""Which spatial convolutions of a network a caller means: its stem, its stages, names, patterns, predicates."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

AnyConv = nn.modules.conv._ConvNd
Predicate = Callable[[str, nn.Conv2d], bool]
Where = int | str | Sequence[int | str] | Predicate | None

_IMAGE_CHANNELS = 4  # grey, RGB, RGBA: a first convolution that reads more stands inside a network


@dataclass(frozen=True)
class NamedConv:
    """A spatial convolution, and all names under which the network holds it."""

    names: tuple[str, ...]
    conv: AnyConv


@dataclass(frozen=True)
class ConvSelection:
    """The places that are meant, and those that were left out with the reason."""

    chosen: list[NamedConv]
    left: list[tuple[NamedConv, str]]
    entries: list[tuple[str, list[NamedConv]]]
    """What was asked for, one by one, and the places that each means."""
    exact: set[str]
    """Names of single convolutions that were asked for by name: they must be replaceable."""


def select(model: nn.Module, where: Where, own_layers: tuple[type[nn.Module], ...]) -> ConvSelection:
    """Return the spatial convolutions that ``where`` means; those inside ``own_layers`` are not looked at.

    Raises:
        ValueError: If an entry of ``where`` means none.
        TypeError: If ``where`` is of no kind that is understood.
    """
    places = list(_spatial_convs(model, own_layers))
    if where is None:
        stem = _stem(model, places)
        left = [(place, "it belongs to the stem; name it in where to replace it") for place in places
                if set(place.names) & stem]  # fmt: skip
        chosen = [place for place in places if not set(place.names) & stem]
        return ConvSelection(chosen, left, [("the network outside its stem", chosen)], set())
    if callable(where):
        chosen = [place for place in places if isinstance(place.conv, nn.Conv2d)
                  and any(where(name, place.conv) for name in place.names)]  # fmt: skip
        return ConvSelection(chosen, [], [("the predicate", chosen)], set())
    entries, exact = [], set[str]()
    for item in [where] if isinstance(where, int | str) else list(where):
        if isinstance(item, bool) or not isinstance(item, int | str):
            raise TypeError(
                "replace_convs: where takes stage numbers, module names, patterns or a predicate "
                f"(name, conv) -> bool, got {item!r}"
            )
        if isinstance(item, int):
            within, stem = _stage(model, item), _stem(model, places)
            found = [place for place in places if set(place.names) & within - stem]
        else:
            found = [place for place in places if any(_is_meant(name, item) for name in place.names)]
            exact |= {item} if any(item in place.names for place in found) else set()
        if not found:
            raise ValueError(f"replace_convs: {_nothing(model, item, places)}")
        entries.append((f"where={item!r}", found))
    if not entries:
        raise ValueError("replace_convs: where is empty, nothing is asked for")
    chosen = [place for place in places if any(place in found for _, found in entries)]
    return ConvSelection(chosen, [], entries, exact)


def _spatial_convs(model: nn.Module, own_layers: tuple[type[nn.Module], ...]) -> Iterator[NamedConv]:
    names: dict[int, list[str]] = {}
    convs: dict[int, AnyConv] = {}
    ours: list[str] = []
    for name, module in model.named_modules(remove_duplicate=False):
        if isinstance(module, own_layers):
            ours.append(f"{name}." if name else "")
        elif isinstance(module, AnyConv) and max(module.kernel_size) > 1 and not name.startswith(tuple(ours)):
            names.setdefault(id(module), []).append(name)
            convs[id(module)] = module
    for key, conv in convs.items():
        yield NamedConv(tuple(names[key]), conv)


def _is_meant(name: str, pattern: str) -> bool:
    return fnmatchcase(name, pattern) or name.startswith(f"{pattern}.") or fnmatchcase(name, f"{pattern}.*")


def _nothing(model: nn.Module, item: int | str, places: list[NamedConv]) -> str:
    kind = type(model).__name__
    named = dict(model.named_modules()).get(item) if isinstance(item, str) else None
    if isinstance(named, AnyConv):
        return f"{item} has a kernel of one pixel or stands inside a layer of ours: not a spatial convolution"
    some = ", ".join(place.names[0] for place in places[:3]) or "none"
    return f"where={item!r} matches no spatial convolution of {kind}; it has {some}{', …' * (len(places) > 3)}"


def _stem(model: nn.Module, places: list[NamedConv]) -> set[str]:
    """Return the names of the stem's convolutions.

    timm says which layers those are. Elsewhere it is the part that holds the first convolution, provided that
    this reads an image: one descends from the whole network as long as one child has most of the convolutions.
    """
    names = [name for place in places for name in place.names]
    patterns = _timm_stem_patterns(model)
    if patterns:
        return {name for name in names if any(re.match(pattern, name) for pattern in patterns)}
    if not places or places[0].conv.in_channels > _IMAGE_CHANNELS:
        return set()
    first, part, inside = places[0].names[0], "", names
    for end in [match.start() for match in re.finditer(r"\.|$", first)]:
        part = first[:end]
        deeper = [name for name in inside if name == part or name.startswith(f"{part}.")]
        if 2 * len(deeper) <= len(inside):
            return set(deeper)
        inside = deeper
    return {first}


def _timm_stem_patterns(model: nn.Module) -> list[str]:
    matcher = getattr(model, "group_matcher", None)
    groups = matcher() if callable(matcher) else None
    stem = groups.get("stem") if isinstance(groups, Mapping) else None
    listed = [stem] if isinstance(stem, str) else list(stem or [])
    return [entry if isinstance(entry, str) else entry[0] for entry in listed]


def _stage(model: nn.Module, number: int) -> set[str]:
    """Return the names of all modules of a stage; stage 1 is the first whose stride is at least 4.

    timm lists the modules that end its feature levels: what is registered between two ends is a stage.
    torchvision's networks have stages only where modules are named so.
    """
    order = [name for name, _ in model.named_modules(remove_duplicate=False)]
    matches = [match for name in order if (match := re.fullmatch(r"(?:.*\.)?(?:layer|stage|block)(\d)", name))]
    named = {int(match[1]): match[0] for match in reversed(matches)}  # of nested ones, the outermost
    levels = _timm_levels(model)
    if levels:
        ends = [-1, *(_last_inside(order, name) for name, _ in levels)]
        numbered = [i for i, (_, stride) in enumerate(levels) if stride >= 4]
        if 1 <= number <= len(numbered):
            start, end = ends[numbered[number - 1]], ends[numbered[number - 1] + 1]
            if start is not None and end is not None:
                return set(order[start + 1 : end + 1])
    elif number in named:
        return {name for name in order if name.startswith(f"{named[number]}.")}
    known = [*range(1, len([1 for _, stride in levels if stride >= 4]) + 1)] or sorted(named)
    advice = f"it has the stages {', '.join(map(str, known))}" if known and number not in known else "name modules"
    raise ValueError(f"replace_convs: {type(model).__name__} does not say what stage {number} is; {advice}")


def _timm_levels(model: nn.Module) -> list[tuple[str, int]]:
    """Return the modules that end timm's feature levels, and their strides."""
    info: Any = getattr(model, "feature_info", None)
    entries = getattr(info, "info", info)
    if not isinstance(entries, Sequence):
        return []
    return [(str(entry["module"]), int(entry["reduction"])) for entry in entries]


def _last_inside(order: list[str], module: str) -> int | None:
    """Return the position of the last module inside another; timm flattens names of feature extractors."""
    for path in (module, module.replace(".", "_")):
        inside = [i for i, name in enumerate(order) if name == path or name.startswith(f"{path}.")]
        if inside:
            return inside[-1]
    return None
