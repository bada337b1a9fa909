"""The command line of ``ctxvision train``: jsonargparse, with MODEL and DATA as plain words in front."""

import argparse
import dataclasses
import logging
import os
import re
from typing import Any

from ctxvision.devices import resolved
from ctxvision.runs import Run
from ctxvision.tasks.registry import TASKS
from ctxvision.training.error import OptionError, TrainingStopped
from ctxvision.training.options import TrainOptions, options_class
from ctxvision.training.settings import SettingsFileError, basis_of, read_settings_file

from . import class_paths
from .messages import note, quieten, say_loading
from .options import OLD_DEVICE
from .train_parser import SEE_HELP, make_parser, types_explained


def run(words: list[str]) -> int:
    """Parse the words after ``train``, train, and return the exit code: 0, or 128 + the signal that came.

    Raises:
        OptionError: The command line is wrong.
        TrainingError: The training cannot begin, continue or end well.
    """
    quieten()
    options = options_of(words)

    from ctxvision.training.processes import rank
    from ctxvision.training.run import train_with

    quieten()  # again: Lightning sets its level when it is imported
    try:
        trained = train_with(options)
    except TrainingStopped as stopped:
        return 128 + stopped.signal_number
    if options.pictures and not rank():
        _write_report(trained, options)
    return 0


def _write_report(trained: Run, options: TrainOptions) -> None:
    """Write ``report.html`` into the run folder; what goes wrong is a line, for the training has succeeded."""
    from ctxvision.pages import write_report

    logging.getLogger("ctxvision.data").setLevel(logging.ERROR)  # the training has named the bad samples
    write_report(
        trained.path,
        trained.path / "report.html",
        required=False,
        device=resolved(options.device),
        trust=True,
        workers=options.workers,
    )
    logging.getLogger("ctxvision.data").setLevel(logging.NOTSET)


def options_of(words: list[str]) -> TrainOptions:
    """Return the options of a command line, complete; ``--help`` and ``--print-config`` end the program.

    Raises:
        OptionError: The command line is wrong.
    """
    parts, words = class_paths.take_out(_as_options(words))
    first, words = _first_look(words)
    first |= parts
    basis = basis_of(first)
    parser = make_parser()
    parser.add_argument("--config", action="config", help="YAML file with any of these options.")
    parser.add_class_arguments(basis.kind)
    if {"-h", "--help"} & {*words}:
        parser.set_defaults(basis.usual(first))
    printing = [word for word in words if word[2:].split("=")[0] == "print_config"]
    with types_explained():
        given = first | parser.parse_args([w for w in words if w not in printing], defaults=False).as_dict()
    if printing and not (whole := {**basis.resumed, **given}).get("model"):
        parser.set_defaults(whole)
        with types_explained():
            parser.parse_args(printing)
    if {**basis.resumed, **given}.get("model"):  # else that is said at once
        say_loading()
    options = basis.complete(given)
    if printing:
        options = _with_batch(options)
        # what is printed is whole: options that depend on recipe, model and data are the defaults now
        parser.set_defaults(dataclasses.asdict(options))
        with types_explained():
            parser.parse_args(printing)
    return options


def _with_batch(options: TrainOptions) -> TrainOptions:
    """Return the options with the batch that the data would get, if they are here and can be read."""
    if options.batch_size is not None or not os.path.exists(options.data):
        return options
    from ctxvision.data import DataError

    try:
        return options.with_batch_for(options.open_data(1).train_size)
    except (DataError, OptionError):
        return options


def _first_look(words: list[str]) -> tuple[dict[str, Any], list[str]]:
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
    return options | named, others


def _as_options(words: list[str]) -> list[str]:
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


def _with_underscores(word: str) -> str:
    return "--" + word[2:].replace("-", "_") if re.match(r"--\w", word) else word
