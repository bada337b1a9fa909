"""The words of ``ctxvision train``, before jsonargparse sees them."""

import argparse
import dataclasses
import re
from typing import Any

from ctxvision.tasks.registry import TASKS
from ctxvision.training.error import OptionError
from ctxvision.training.options import options_class
from ctxvision.training.settings import SettingsFileError, fitted_to, read_settings_file

from .messages import note
from .options import OLD_DEVICE
from .train_parser import SEE_HELP


def as_options(words: list[str]) -> list[str]:
    """Write every word as an option that jsonargparse understands.

    Dashes in names are underscores, as fields have them. Leading words are --model and --data; ``--set
    NAME=VALUE`` is ``--NAME=VALUE``; ``--logger wandb csv`` and ``--logger wandb,csv`` are
    ``--logger=[wandb,csv]``; a switch that stands alone gets its value.
    """
    words, places = [*words], ["--model", "--data"]
    options: list[str] = []
    while words and places and not words[0].startswith("-"):
        options += [places.pop(0), words.pop(0)]
    fields = [field for task in TASKS for field in dataclasses.fields(options_class(task))]
    switches = {f"--{field.name}": "true" for field in fields if field.type is bool} | {"--resume": "last"}
    while words:
        name, equals, value = words.pop(0).partition("=")
        name = _with_underscores(name)
        if name == "--set":
            pair = value if equals else words.pop(0) if words else ""
            name, equals, value = f"--{pair}".partition("=")
            name = _with_underscores(name)
            if name == "--" or not equals:
                raise OptionError(
                    f"--set needs NAME=VALUE, got {pair!r}; `ctxvision train --help` lists the names"
                )
        if name == "--accelerator":
            note(OLD_DEVICE)
            name = "--device"
        if name == "--logger":
            while words and not words[0].startswith("-"):
                value += f",{words.pop(0)}"
            value = value.strip(",")
            equals, value = "=", value if value.startswith("[") or value == "null" else f"[{value}]"
        elif not equals and name in switches and (not words or words[0].startswith("-")):
            equals, value = "=", switches[name]
        options.append(f"{name}{equals}{value}")
    return options


def first_look(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Take out the options that say which others there are, and the files of ``--config``, which lie below them.

    Returns:
        The options by name, and the other words.
    """
    parser = argparse.ArgumentParser(
        prog="ctxvision train", add_help=False, allow_abbrev=False, exit_on_error=False
    )
    parser.add_argument("--config", action="append", default=[])
    for name in ("model", "task", "recipe", "resume", "out"):
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS)
    try:
        found, others = parser.parse_known_args(words)
    except argparse.ArgumentError as error:
        raise OptionError(f"{error}; {SEE_HELP}") from error
    named = {name: None if value in ("null", "None") else value for name, value in vars(found).items()}
    options: dict[str, Any] = {}
    for path in named.pop("config") or ():
        try:
            options |= read_settings_file(path)
        except (OSError, SettingsFileError) as error:
            from ctxvision.data.files import in_words

            raise OptionError(f"--config {path}: {in_words(error)}") from error
    model = named.get("model")
    if model and options.get("model") not in (None, model):  # the plain network beside one that has a run
        from timm import is_model

        if is_model(model):
            options, left_out = fitted_to(model, options)
            if left_out:
                note(f"--config: {model} is trained without {', '.join(left_out)}, which it does not take")
    return options | named, others


def _with_underscores(word: str) -> str:
    return "--" + word[2:].replace("-", "_") if re.match(r"--\w", word) else word
