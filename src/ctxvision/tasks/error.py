"""The error of tasks, and the refusal of arguments that a task gives itself."""

from collections.abc import Mapping
from typing import Any

# whatever others make of arguments that they were not written for
NOT_TAKEN = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


class TaskError(ValueError):
    """A task cannot be built or continued; the message is one line with the reason."""


def require_own(what: str, args: Mapping[str, Any], taken: Mapping[str, str]) -> None:
    """Refuse what a task gives itself: passed on, it would collide, or silently lose.

    Args:
        what: The purpose of the arguments, which messages name.
        args: The arguments as the user gave them.
        taken: The advice for each argument that a task gives itself, by its name.

    Raises:
        TaskError: One of those is among the arguments, or a name is not a text.
    """
    for name in args:
        if not isinstance(name, str):
            raise TaskError(f"{what}: {name!r} is not the name of an argument")
        if name in taken:
            raise TaskError(f"{what} cannot set {name}: {taken[name]}")
