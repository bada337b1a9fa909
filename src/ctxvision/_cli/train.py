"""The command line of ``ctxvision train``: jsonargparse, with MODEL and DATA as plain words in front."""

import argparse
import dataclasses
import logging
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from ctxvision.runs import Run
from ctxvision.tasks.registry import TASKS
from ctxvision.training.error import OptionError, TrainingStopped
from ctxvision.training.options import TrainOptions, options_class
from ctxvision.training.settings import complete, explain_type, options_class_of, read_config, resumed_options

from .messages import quieten

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser

_SEE_HELP = "`ctxvision train --help` lists the options"


def run(words: list[str]) -> int:
    """Parse the words after ``train``, train, and return the exit code: 0, or 128 + the signal that came.

    Raises:
        OptionError: a wrong command line.
        TrainingError: the training cannot begin, continue or end well.
    """
    quieten()
    options = options_of(words)

    from ctxvision.training.processes.group import rank
    from ctxvision.training.session import train_with

    try:
        trained = train_with(options)
    except TrainingStopped as stopped:
        return 128 + stopped.signal_number
    if options.pictures and not rank():
        _write_report(trained, options)
    return 0


def _write_report(trained: Run, options: TrainOptions) -> None:
    """Write ``report.html`` into the run folder; what goes wrong is a line, for the training has succeeded."""
    import torch

    from ctxvision.pages import write_report

    on_gpu = options.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    logging.getLogger("ctxvision.data").setLevel(logging.ERROR)  # the training has named the bad samples
    write_report(
        trained.path,
        trained.path / "report.html",
        required=False,
        device="cuda" if on_gpu else "cpu",
        trust=True,
        workers=options.workers,
    )
    logging.getLogger("ctxvision.data").setLevel(logging.NOTSET)


def options_of(words: list[str]) -> TrainOptions:
    """Return the options of a command line, complete; ``--help`` and ``--print_config`` end the program.

    Raises:
        OptionError: a wrong command line.
    """
    first, words = _first_look(_as_options(words))
    before = resumed_options(first)
    kind = options_class_of(before | first)
    parser = _parser(kind)
    printing = [word for word in words if word.split("=")[0] == "--print_config"]
    given = before | first | _parse(parser, [word for word in words if word not in printing])
    if printing and not given.get("model"):
        parser.set_defaults(given)
        _parse(parser, printing, defaults=True)
    options = complete(given, kind)
    if printing:  # what is printed is whole: options that depend on recipe, model and data are the defaults now
        parser.set_defaults(dataclasses.asdict(options))
        _parse(parser, printing, defaults=True)
    return options


def _parser(kind: type[TrainOptions]) -> "ArgumentParser":
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="ctxvision train",
        usage="ctxvision train MODEL [DATA] [options]",
        description="Train a network on images, or on the embedded handwritten digits, DATA = digits. "
        "`--set NAME=VALUE` is another way to write `--NAME VALUE`.",
        epilog="Ctrl-C leaves a checkpoint to continue from: ctxvision train --resume RUNDIR.",
        exit_on_error=False,
        default_env=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with any of these options.")
    parser.add_class_arguments(kind)
    return parser


def _first_look(words: list[str]) -> tuple[dict[str, Any], list[str]]:
    """Take out the options that say which others there are, and the files of ``--config``, which lie below them.

    Returns:
        Options by name, and the other words.
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
        raise OptionError(f"{error}; {_SEE_HELP}") from error
    named = {name: None if value in ("null", "None") else value for name, value in vars(found).items()}
    options: dict[str, Any] = {}
    for path in named.pop("config") or ():
        options |= read_config(path)
    return options | named, others


def _parse(parser: "ArgumentParser", words: list[str], defaults: bool = False) -> dict[str, Any]:
    """Return the options that words name, and the defaults of the others where asked for."""
    from jsonargparse import ArgumentError

    try:
        given: dict[str, Any] = parser.parse_args(words, defaults=defaults).as_dict()
    except ArgumentError as error:
        raise OptionError(f"{explain_type(str(error))}; {_SEE_HELP}") from error
    return given


def _as_options(words: list[str]) -> list[str]:
    """Turn leading words into --model and --data, bare switches into options with a value, and expand --set."""
    names = ["--model", "--data"]
    options: list[str] = []
    while words and names and not words[0].startswith("-"):
        options += [names.pop(0), words[0]]
        words = words[1:]
    words = _with_logger_list(_without_set(words))
    switches = _switches()
    for word, following in zip_longest(words, words[1:], fillvalue="--"):
        bare = word in switches and following.startswith("-")
        options.append(f"{word}={switches[word]}" if bare else word)
    return options


def _switches() -> dict[str, str]:
    """List the options that may stand alone, with what they then mean."""
    fields = [field for task in TASKS for field in dataclasses.fields(options_class(task))]
    return {f"--{field.name}": "true" for field in fields if field.type is bool} | {"--resume": "last"}


def _without_set(words: list[str]) -> list[str]:
    """Replace ``--set NAME=VALUE`` by ``--NAME=VALUE``."""
    replaced: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if word != "--set" and not word.startswith("--set="):
            replaced.append(word)
            continue
        pair = next(remaining, "") if word == "--set" else word.removeprefix("--set=")
        name, equals, _ = pair.partition("=")
        if not name or not equals:
            raise OptionError(f"--set needs NAME=VALUE, got {pair!r}; `ctxvision train --help` lists the names")
        replaced.append(f"--{pair}")
    return replaced


def _with_logger_list(words: list[str]) -> list[str]:
    """Replace ``--logger wandb csv`` and ``--logger wandb,csv`` by ``--logger=[wandb, csv]``."""
    replaced: list[str] = []
    while words:
        word, *words = words
        if word == "--logger" or word.startswith("--logger="):
            names = word.partition("=")[2]
            while words and not words[0].startswith("-"):
                names, words = f"{names},{words[0]}", words[1:]
            names = names.strip(",")
            is_list = names.startswith("[") or names == "null"
            word = f"--logger={names if is_list else f'[{names}]'}"
        replaced.append(word)
    return replaced
