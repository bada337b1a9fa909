"""Arguments that are passed on to others' constructors, beside those that a task gives itself."""

from collections.abc import Mapping
from typing import Any

from .error import TaskError


def require_own(what: str, args: Mapping[str, Any], taken: Mapping[str, str]) -> None:
    """Refuse what a task gives itself: passed on, it would collide, or silently lose.

    Args:
        what: the arguments are for.
        args: as the user gave them.
        taken: what to do instead, by the name of each argument that a task gives itself.

    Raises:
        TaskError: one of those is among them, or a name is none.
    """
    for name in args:
        if not isinstance(name, str):
            raise TaskError(f"{what}: {name!r} is not the name of an argument")
        if name in taken:
            raise TaskError(f"{what} cannot set {name}: {taken[name]}")
