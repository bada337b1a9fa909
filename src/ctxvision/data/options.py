"""What follows a ``#`` in DATA, and the columns that it may name."""

import os
from collections.abc import Mapping, Sequence
from typing import TypeVar

from ctxvision.wording import did_you_mean

from .error import DataError

Value = TypeVar("Value", bound=str)


def split_options(data: str) -> tuple[str, dict[str, str]]:
    """Split ``WHERE#name=value,name=value``; a file or folder that has a ``#`` in its name is left alone.

    Raises:
        DataError: What follows the ``#`` is not ``name=value``.

    Examples:
        >>> split_options("hf:cifar100#label=coarse_label,image=img")
        ('hf:cifar100', {'label': 'coarse_label', 'image': 'img'})
    """
    where, mark, rest = data.rpartition("#")
    if not mark or os.path.exists(data):
        return data, {}
    pairs = [pair.partition("=") for pair in rest.split(",")]
    wrong = [name + sign + value for name, sign, value in pairs if not (name and value)]
    if wrong:
        raise DataError(f"{data}: expected NAME=VALUE after '#', got {wrong[0]!r}")
    return where, {name.strip(): value.strip() for name, _, value in pairs}


def check_options(where: str, options: Mapping[str, str] | None, known: Sequence[str]) -> dict[str, str]:
    """Return the options; raise `DataError` for one that this source does not have."""
    unknown = [name for name in options or () if name not in known]
    if unknown:
        has = f"it has {', '.join(known)}" if known else "it has none"
        raise DataError(f"{where}: no option {unknown[0]!r} after '#'{did_you_mean(unknown[0], known)}; {has}")
    return dict(options or {})


def choose_value(where: str, options: Mapping[str, str], name: str, values: Sequence[Value]) -> Value:
    """Return the value of an option, the first by default; raise `DataError` for one that is none of these."""
    value = options.get(name, values[0])
    if value not in values:
        raise DataError(f"{where}: {name} must be {' or '.join(values)}, got {value!r}")
    return values[values.index(value)]


def choose_column(
    where: str,
    columns: Sequence[str],
    role: str,
    usual: Sequence[str],
    options: Mapping[str, str],
    *,
    needed: bool = True,
) -> str | None:
    """Find the column of a role: the one that was named, or the first with a usual name.

    Raises:
        DataError: There is no such column.
    """
    if role in options:
        if options[role] not in columns:
            raise DataError(f"{where}: no column {options[role]!r}; it has {', '.join(columns)}")
        return options[role]
    by_name = {name.lower(): name for name in reversed(columns)}
    found = next((by_name[name] for name in usual if name in by_name), None)
    if found is None and needed:
        raise DataError(
            f"{where}: no column called {' or '.join(usual[:2])} among {', '.join(columns) or 'none'}; "
            f"name the one that holds the {role} with #{role}=COLUMN"
        )
    return found
