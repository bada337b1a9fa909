"""The command line of ``ctxvision train``: jsonargparse, with MODEL and DATA as plain words in front."""

import dataclasses
import os
import re
from itertools import zip_longest
from pathlib import Path

from ..errors import UserError

_SWITCHES = {"--strict": "true", "--resume": "last"}


def run(words: list[str]) -> int:
    """Parse the words after ``train``, train, and return the exit code.

    Raises:
        UserError: a wrong command line.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    from .config import TrainConfig

    parser = ArgumentParser(
        prog="ctxvision train",
        usage="ctxvision train MODEL [DATA] [options]",
        description="Train a network on a folder of images (train/ and val/, or one folder per class), "
        "or on the embedded handwritten digits, DATA = digits.",
        epilog="Ctrl-C leaves a checkpoint to continue from: ctxvision train --resume RUNDIR.",
        exit_on_error=False,
        default_env=False,
        allow_abbrev=False,
    )
    parser.add_argument("--config", action="config", help="YAML file with any of these settings.")
    parser.add_class_arguments(TrainConfig)
    words = _with_resumed_config(_config_first(_as_options(words)))
    try:
        namespace = parser.parse_args(words)
    except ArgumentError as error:
        raise UserError(f"{_explain(str(error))}; `ctxvision train --help` lists the options", 2) from error
    settings = namespace.as_dict()
    settings.pop("config", None)
    config = TrainConfig(**settings).completed(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    )

    from .run import train

    return train(config)


def _as_options(words: list[str]) -> list[str]:
    """Turn leading words into --model and --data, and bare switches into options with a value."""
    names = ["--model", "--data"]
    options: list[str] = []
    while words and names and not words[0].startswith("-"):
        options += [names.pop(0), words[0]]
        words = words[1:]
    for word, following in zip_longest(words, words[1:], fillvalue="--"):
        bare = word in _SWITCHES and following.startswith("-")
        options.append(f"{word}={_SWITCHES[word]}" if bare else word)
    return options


def _config_first(words: list[str]) -> list[str]:
    """Put --config in front, so that every other word changes what the file says, wherever it stands."""
    first: list[str] = []
    others: list[str] = []
    remaining = iter(words)
    for word in remaining:
        if word == "--config":
            first += [word, *([following] if (following := next(remaining, None)) is not None else [])]
        else:
            (first if word.startswith("--config=") else others).append(word)
    return first + others


def _with_resumed_config(words: list[str]) -> list[str]:
    """Put the settings of the run that is to be resumed in front, so that the other words change them."""
    value = _value(words, "--resume")
    if value is None or value in ("null", "None"):
        return words
    if value == "last":
        folder = _value(words, "--out")
        if folder is None:
            raise UserError("--resume needs a run folder: --resume RUNDIR, or --out RUNDIR --resume", 2)
        run_folder = Path(folder)
    else:
        path = Path(value)
        run_folder = path.parent.parent if path.is_file() else path
    out = _value(words, "--out")
    if out is not None and Path(out).resolve() != run_folder.resolve():
        raise UserError(f"--resume continues in {run_folder}, --out names {out}; leave one of them out", 2)
    config = run_folder / "config.yaml"
    if not config.is_file():
        raise UserError(f"{run_folder}: no run to resume there (it has no config.yaml)")
    return ["--config", str(config), *words]


def _value(words: list[str], option: str) -> str | None:
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        if word == option:
            return following
        if word.startswith(f"{option}="):
            return word.split("=", 1)[1]
    return None


def _explain(message: str) -> str:
    """Shorten jsonargparse's account of a value of the wrong type."""
    from .config import TrainConfig

    types = {field.name: str(field.type) for field in dataclasses.fields(TrainConfig)}
    found = re.search(r'Parser key "(\w+)":.*Given value: (.*)', message, re.DOTALL)
    if not found or found[1] not in types:
        return message
    expected = re.sub(r"<class '(\w+)'>|typing\.| \| None", r"\1", types[found[1]])
    return f"--{found[1]}: {found[2]} is not {expected}"
