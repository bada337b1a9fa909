"""The error of tasks, and the refusal of arguments that a task gives itself or that nothing takes."""

import inspect
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Any

from ctxvision.wording import did_you_mean

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


def explain_argument(
    what: str, args: Mapping[str, Any], error: Exception, build: Callable[..., Any], taken: Mapping[str, str]
) -> None:
    """If an error is about an argument that nothing takes, name it, the one that is most like it, and all.

    Args:
        what: The purpose of the arguments, which messages name.
        args: The arguments as the user gave them.
        error: What came of them.
        build: The function or the class that they are for.
        taken: The advice for each argument that a task gives itself; those are not named.

    Raises:
        TaskError: An argument is unknown.
    """
    strange = [name for name in args if isinstance(error, TypeError) and f"'{name}'" in str(error)]
    if said := no_argument(strange, build, taken):
        raise TaskError(f"{what}: {said}") from error


def no_argument(names: Iterable[str], build: Callable[..., Any], taken: Container[str] = ()) -> str:
    """Name the first argument that a function or class does not take, the one most like it, and all; or empty.

    Args:
        names: The names of the arguments as the user gave them.
        build: The function or the class.
        taken: The arguments that are given by others, which are not named.
    """
    known, hands_on = _arguments(build)
    known = [name for name in known if name not in taken]
    for name in names:
        if name not in known:
            others = ", among others," if hands_on else ""
            return f"no argument {name!r}{did_you_mean(name, known)}; there are{others} {', '.join(known)}"
    return ""


def _arguments(build: Callable[..., Any]) -> tuple[list[str], bool]:
    """List the arguments of a function or a class, and tell whether it hands on others, which cannot be listed.

    A class says in ``more_arguments`` which it hands on; else they are looked for in its bases.
    """
    names: list[str] = []
    more = getattr(build, "more_arguments", ())
    for part in build.__mro__[:-1] if isinstance(build, type) else (build,):
        if isinstance(part, type) and "__init__" not in vars(part):
            continue
        parameters = inspect.signature(part).parameters.values()
        names += [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
        if more or not any(p.kind is p.VAR_KEYWORD for p in parameters):
            return list(dict.fromkeys([*names, *more])), False
    return list(dict.fromkeys(names)), True
