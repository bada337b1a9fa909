"""What the settings inside a model file may ask for, so that a small file cannot cost hours or all memory.

Every limit lies far above what networks are trained with. A file whose maker is trusted may ask for more.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from torch.utils._python_dispatch import TorchDispatchMode

from ctxvision.data import DataError, ImageSpec, spec_class

from .error import TaskError
from .registry import TASKS

TRUST = "if you trust whoever made the file, allow it with --trust (trust=True)"

_SIDE = 2048  # pixels of the input of a network
_DETECTOR_SIDE = 8192
_VALUES = 2**26  # of one input: channels × height × width × frames
_FRAMES = 1024
_CLASSES = 100_000
_NAME = 1000  # characters
_PROPOSALS, _DETECTIONS = 10_000, 1000
_OVERLAP = 16  # windows that begin within one window's length
_LEAST_CROP = 0.1
_NUMBER = 2**24  # any other setting
_ENTRIES = 2_000_000  # values of all settings together
_FREE_NUMBERS = {"split_seed", "category_ids", "train_counts", "seed"}

_FILTERS = ("nearest", "bilinear", "bicubic", "box", "hamming", "lanczos", "random")


def require_moderate(kind: str, data_spec: Any, settings: Mapping[str, Any], *, trust: bool = False) -> None:
    """Check the description of a network's images, and the other settings of its task.

    Args:
        kind: The name of the task.
        data_spec: The fields of the description of the task's data.
        settings: The arguments of the task or, for an exported network, its settings.
        trust: Whether to check the types alone.

    Raises:
        TaskError: A value is of another type, or beyond its limit; the message says which.
    """
    if not isinstance(data_spec, Mapping):
        raise TaskError("says nothing about its images (data_spec)")
    names = data_spec.get("class_names")
    if not _is_list(names, str):
        raise TaskError(f"class_names must be a list of texts, not {_shown(names)}")
    if _has_input_size(kind):
        size = data_spec.get("input_size")
        if not _is_list(size, int) or len(size) != 3 or size[0] not in (1, 3) or min(size) < 1:
            raise TaskError(f"input_size must be [1 or 3, height, width], not {_shown(size)}")
    for name in ("mean", "std"):
        if name in data_spec and not (
            _is_list(data_spec[name], int | float) and all(map(math.isfinite, data_spec[name]))
        ):
            raise TaskError(f"{name} must be a list of numbers, not {_shown(data_spec[name])}")
    if 0 in data_spec.get("std", ()):
        raise TaskError("std must not be 0")
    crop = data_spec.get("crop_pct", 1.0)
    if not isinstance(crop, int | float) or isinstance(crop, bool) or not 0 < crop < math.inf:
        raise TaskError(f"crop_pct must be a number above 0, not {_shown(crop)}")
    frames = data_spec.get("frames", 1)
    if not isinstance(frames, int) or isinstance(frames, bool) or frames < 1:
        raise TaskError(f"frames must be a whole number from 1 on, not {_shown(frames)}")
    interpolation = data_spec.get("interpolation", "bilinear")
    if interpolation not in _FILTERS:
        raise TaskError(f"interpolation must be one of {', '.join(_FILTERS)}, not {_shown(interpolation)}")
    if kind == "detection" and settings.get("interpolation", "bilinear") not in ("bilinear", "bicubic"):
        raise TaskError(f"interpolation must be bilinear or bicubic, not {_shown(settings['interpolation'])}")
    if not trust:
        _require_sizes(kind, data_spec, settings)
    if kind in TASKS and ("mean" in data_spec or "category_ids" in data_spec):  # a task itself needs neither
        _require_description(kind, data_spec)


def _has_input_size(kind: str) -> bool:
    return kind in TASKS and issubclass(spec_class(kind), ImageSpec)


def _require_description(kind: str, data_spec: Mapping[str, Any]) -> None:
    """Build the description, since its constructor has rules of its own."""
    try:
        spec_class(kind).from_dict(data_spec)
    except (DataError, TypeError, ValueError, IndexError, KeyError) as error:
        raise TaskError(" ".join(str(error).split())[:200]) from error


def _require_sizes(kind: str, data_spec: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    for what, found, limit in _counted(kind, data_spec, settings):
        if not found <= limit:
            raise TaskError(f"{what} is {_shown(found)}, more than the limit of {limit:,}; {TRUST}")
    if data_spec.get("crop_pct", 1.0) < _LEAST_CROP:
        raise TaskError(f"crop_pct is {data_spec['crop_pct']}, less than the limit of {_LEAST_CROP}; {TRUST}")
    window, stride = settings.get("window"), settings.get("window_stride", settings.get("stride"))
    if window is not None:
        pairs = (window, window if stride is None else stride)
        if not all(_is_list(pair, int) and len(pair) == 2 and min(pair) > 0 for pair in pairs):
            raise TaskError(f"window and window_stride must be two whole numbers, not {_shown(pairs)}")
        if any(_OVERLAP * step < side for side, step in zip(*pairs, strict=True)):
            raise TaskError(f"window_stride {_shown(stride)} is less than a {_OVERLAP}th of the window; {TRUST}")
    for entries, (name, value) in enumerate(_leaves(settings)):
        if entries > _ENTRIES:
            raise TaskError(f"its settings have more than {_ENTRIES:,} values; {TRUST}")
        number = isinstance(value, int | float) and not isinstance(value, bool) and name not in _FREE_NUMBERS
        if number and math.isfinite(value) and abs(value) > _NUMBER:
            raise TaskError(f"{name} is {_shown(value)}, beyond the limit of {_NUMBER:,}; {TRUST}")
        if isinstance(value, str) and len(value) > _NAME:
            raise TaskError(f"{name} has a text of {len(value):,} characters, limit {_NAME:,}; {TRUST}")


def _counted(
    kind: str, data_spec: Mapping[str, Any], settings: Mapping[str, Any]
) -> Iterator[tuple[str, Any, int]]:
    """Give name, value and limit of what costs memory for each image."""
    names = data_spec["class_names"]
    yield "the number of classes", len(names), _CLASSES
    yield "the longest name of a class", max(map(len, names), default=0), _NAME
    yield "frames", data_spec.get("frames", 1), _FRAMES
    if _has_input_size(kind):
        size = data_spec["input_size"]
        yield "the longest side of input_size", max(size[1:]), _SIDE
        yield "the number of values of an input", math.prod(size) * data_spec.get("frames", 1), _VALUES
    sides = {"window": _SIDE, "min_size": _DETECTOR_SIDE, "max_size": _DETECTOR_SIDE}
    more = {"test_proposals": _PROPOSALS, "train_proposals": _PROPOSALS, "detections": _DETECTIONS}
    for name, limit in (sides | more).items():
        found = settings.get(name)
        for value in found if isinstance(found, list | tuple) else [found]:
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
                raise TaskError(f"{name} must be a whole number, not {_shown(value)}")
            yield name, value or 0, limit
    for name in ("anchor_sizes", "aspect_ratios"):
        found = settings.get(name) or ()
        yield f"the number of {name}", len(found) if isinstance(found, list | tuple) else 0, 64


def _leaves(value: Any, name: str = "a setting", depth: int = 0) -> Iterator[tuple[str, Any]]:
    if depth > 20:
        raise TaskError(f"{name[:80]} is nested more than 20 deep; {TRUST}")
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield name, key
            yield from _leaves(one, str(key)[:80], depth + 1)
    elif isinstance(value, list | tuple | set | frozenset):
        yield name, None
        for one in value:
            yield from _leaves(one, name, depth + 1)
    else:
        yield name, value


def _is_list(value: Any, of: Any) -> TypeGuard[Sequence[Any]]:
    return (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and all(isinstance(one, of) and not isinstance(one, bool) for one in value)
    )


def _shown(value: Any) -> str:
    """Show a value, however large; whole numbers with separators."""
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}" if value.bit_length() < 200 else f"a number of {value.bit_length()} bits"
    if isinstance(value, str):
        return repr(value[:60])
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_shown, value[:6])) + (", …]" if len(value) > 6 else "]")
    return repr(value)[:60] if isinstance(value, float | bool | None.__class__) else type(value).__name__


class Budget(TorchDispatchMode):
    """Ends the building of a network that grows far beyond what its file can hold.

    Sizes of layers are arguments of thousands of networks, so they have no table of limits. But a network with
    trained weights has as many as its file.

    Args:
        size: The size of the file in bytes.
    """

    def __init__(self, size: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._bytes = 4 * size + 2**28
        self._calls = 100_000 + size // 8  # each tensor takes some, and more than 100 bytes of the file

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Count, and compute where there is enough left."""
        self._calls -= 1
        asked = _asked_for(func, args)
        self._bytes -= asked
        if self._bytes < 0 or self._calls < 0:
            raise TaskError(
                f"its settings describe a network that is far larger than the file with its weights; {TRUST}"
            )
        return func(*args, **(kwargs or {}))


def _asked_for(func: Any, args: tuple[Any, ...]) -> int:
    """Estimate the bytes of a new tensor from the arguments of the operator that makes it."""
    name = func._schema.name.removeprefix("aten::")
    if name in ("arange", "linspace", "logspace"):
        numbers = [abs(one) for one in args if isinstance(one, int | float)]
        return int(8 * max(numbers, default=0)) if name == "arange" else int(8 * (args[2] if len(args) > 2 else 0))
    if name.startswith(("new_", "repeat", "expand", "tile")):
        args = args[1:]
        if name.startswith("expand"):
            return 0
    elif not name.startswith(("empty", "zeros", "ones", "full", "rand", "eye", "tril_indices", "triu_indices")):
        return 0
    if args and isinstance(args[0], list | tuple):
        return 4 * math.prod(int(one) for one in args[0])
    return 4 * math.prod(int(one) for one in args if isinstance(one, int))
