"""Callbacks and loggers of others, named by class path and arguments as Lightning's command line does."""

import inspect
import pydoc
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from ctxvision.tasks.error import no_argument

from .error import OptionError

Part = TypeVar("Part")
_ABOUT_TYPES = ("Parser key", "Does not validate", "Subtypes", "Errors:", "Given value", "Got value")


def build(kind: type[Part], entries: Sequence[Any], option: str, folder: Path | None = None) -> list[Part]:
    """Build objects of classes that are named by their import path.

    Args:
        kind: Class that all of them extend, such as Lightning's ``Callback``.
        entries: For each object the import path of its class, or ``{"class_path": PATH, "init_args": {…}}``.
        option: Option that names them, for messages.
        folder: Folder for what they write: the argument ``save_dir`` of those that take one and are not told.

    Raises:
        OptionError: There is no such class, it is of another kind, or it does not take its arguments.
    """
    if not entries:
        return []
    for entry in entries:
        if not isinstance(entry, str | dict):
            name = f"{type(entry).__module__}.{type(entry).__qualname__}"
            raise OptionError(
                f"{option}: an object of {name} cannot be written into the run folder, from which a run is "
                f"resumed; name its class: {{'class_path': '{name}', 'init_args': {{…}}}}"
            )
    from jsonargparse import ArgumentError, ArgumentParser

    parser = ArgumentParser(exit_on_error=False, default_env=False)
    parser.add_argument("--parts", type=list[kind])  # type: ignore[valid-type]
    whole = [entry if isinstance(entry, dict) else {"class_path": entry} for entry in entries]
    try:
        given = [_with_folder(entry, folder) for entry in whole]
        parsed = parser.parse_object({"parts": given})
        built = getattr(parser, "instantiate", None) or parser.instantiate_classes  # its name before 4.49
        found: list[Part] = built(parsed).parts
    except (ArgumentError, TypeError, ValueError) as error:
        raise OptionError(f"{option}: {_explained(whole) or _reason(str(error))}") from error
    return found


def _explained(entries: Sequence[dict[str, Any]]) -> str:
    """Say which class path has no dot, or which argument a class does not take; empty if that is not it."""
    for entry in entries:
        path = str(entry.get("class_path"))
        if "." not in path:
            return f"{path} is no import path of a class such as lightning.pytorch.callbacks.EarlyStopping"
        try:
            found = pydoc.locate(path)
            said = no_argument(entry.get("init_args") or {}, found) if callable(found) else ""
        except (pydoc.ErrorDuringImport, TypeError, ValueError):
            said = ""
        if said and "among others" not in said:
            return f"{path}: {said}"
    return ""


def _with_folder(entry: dict[str, Any], folder: Path | None) -> dict[str, Any]:
    """Add ``save_dir`` to the arguments of a class that takes it; whether there is the class is seen later."""
    arguments = entry.get("init_args") or {}
    if folder is None or arguments.get("save_dir") is not None:
        return entry
    try:
        takes = inspect.signature(pydoc.locate(str(entry.get("class_path")))).parameters  # type: ignore[arg-type]
    except (pydoc.ErrorDuringImport, TypeError, ValueError):
        return entry
    return {**entry, "init_args": {**arguments, "save_dir": str(folder)}} if "save_dir" in takes else entry


def _reason(message: str) -> str:
    """Return the lines of jsonargparse's account that say what is wrong."""
    lines = [line.strip().removeprefix("- ") for line in message.splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(_ABOUT_TYPES)) or " ".join(lines)
