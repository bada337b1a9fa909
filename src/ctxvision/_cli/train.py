"""The command line of ``ctxvision train``: jsonargparse, with MODEL and DATA as plain words in front."""

import dataclasses
import os
import re
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxvision.files import keep_aside, write_whole
from ctxvision.runs import RunFolder
from ctxvision.training.options import config_class, task_names
from ctxvision.training.options.base import TrainConfig

from .chosen_task import chosen_task, require_task_of_recipe
from .errors import UserError
from .messages import note, quieten

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser


def run(words: list[str]) -> int:
    """Parse the words after ``train``, train, and return the exit code.

    Raises:
        UserError: a wrong command line.
    """
    words = _with_resumed_config(_config_first(_as_options(words)))
    parser = _parser(chosen_task(words, _value))
    printing = [word for word in words if word.split("=")[0] == "--print_config"]
    if printing and "--help" not in words:
        # what is printed is whole: defaults that depend on recipe, model and data become the parser's
        settings = _settings(parser, [word for word in words if word not in printing])
        if settings["model"]:
            parser.set_defaults(dataclasses.asdict(_completed(settings)))
        _parse(parser, words)
    config = _completed(_settings(parser, words))

    from ctxvision.training.run import train

    quieten()

    return train(config)


def _parser(task: str = "classify") -> "ArgumentParser":
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
    parser.add_argument("--config", action="config", help="YAML file with any of these settings.")
    parser.add_class_arguments(config_class(task))
    return parser


def _settings(parser: "ArgumentParser", words: list[str]) -> dict[str, Any]:
    """Return the settings: defaults, changed by the recipe, by the config file, by the other words."""
    settings = _parse(parser, words)
    if not settings["recipe"] or not settings["model"]:
        return settings
    from ctxvision.recipes import RecipeError, load_recipe

    try:
        recipe = load_recipe(settings["recipe"])
        require_task_of_recipe(recipe, settings["task"])
        parser.set_defaults(recipe.settings_for(settings["model"]))
    except RecipeError as error:
        raise UserError(str(error), 2) from error
    settings = _parse(parser, words)
    missing = [name for name in recipe.requires if settings[name] is None]
    if missing:
        raise UserError(
            f"recipe {recipe.name} needs --{missing[0]}; `ctxvision recipes {recipe.name}` shows it", 2
        )
    return settings


def _parse(parser: "ArgumentParser", words: list[str]) -> dict[str, Any]:
    from jsonargparse import ArgumentError

    try:
        settings = parser.parse_args(words).as_dict()
    except ArgumentError as error:
        raise UserError(f"{_explain(str(error))}; `ctxvision train --help` lists the options", 2) from error
    settings.pop("config", None)
    return settings


def _completed(settings: dict[str, Any]) -> TrainConfig:
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return config_class(settings["task"])(**settings).completed(processors)


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
    return {f"--{field.name}": "true" for field in _fields() if field.type is bool} | {"--resume": "last"}


def _fields() -> list[dataclasses.Field[Any]]:
    """List the settings of all tasks."""
    return [field for task in task_names() for field in dataclasses.fields(config_class(task))]


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
            raise UserError(f"--set needs NAME=VALUE, got {pair!r}; `ctxvision train --help` lists the names", 2)
        replaced.append(f"--{pair}")
    return replaced


def _with_logger_list(words: list[str]) -> list[str]:
    """Replace ``--logger wandb trackio`` and ``--logger wandb,trackio`` by ``--logger=[wandb, trackio]``."""
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
        run = RunFolder(folder)
    else:
        run = RunFolder.around(value)
    out = _value(words, "--out")
    if out is not None and Path(out).resolve() != run.path.resolve():
        raise UserError(f"--resume continues in {run.path}, --out names {out}; leave one of them out", 2)
    return ["--config", str(config), *words] if (config := _settings_of(run, words)) else words


def _settings_of(run: RunFolder, words: list[str]) -> Path | None:
    """Return the file with the settings of a run, mended where it is damaged and the run has noted them elsewhere.

    Returns:
        ``None`` if they are lost and the words name them again.
    """
    import yaml

    config, noted = run.settings_file, run.noted_settings()
    settings, damage = run.load_settings()
    missing = [name for name in noted or () if name not in settings]
    if not damage and not missing:
        return config
    if noted is not None:
        damage = damage or f"lacks {missing[0]}"
        note(f"{config}: {damage}; the settings are taken from {run.starts_file.name}{keep_aside(config)}")
        write_whole(config, yaml.safe_dump(noted, sort_keys=False, allow_unicode=True))
        return config
    if not run.has_checkpoints():
        raise UserError(f"{run.path}: no run to resume there (its config.yaml {damage})")
    if _value(words, "--model") is None:
        raise UserError(
            f"{config}: {damage}; to continue from the checkpoint, name the settings again: MODEL DATA and options"
        )
    note(f"{config}: {damage}; the settings are those of this command{keep_aside(config)}")
    return None


def _value(words: list[str], option: str) -> str | None:
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        if word == option:
            return following
        if word.startswith(f"{option}="):
            return word.split("=", 1)[1]
    return None


def _explain(message: str) -> str:
    """Shorten jsonargparse's account of a value of the wrong type."""
    types = {field.name: str(field.type) for field in _fields()}
    found = re.search(r'Parser key "(\w+)":.*Given value: (.*)', message, re.DOTALL)
    if not found or found[1] not in types:
        return message
    expected = re.sub(r"<class '(\w+)'>|typing\.| \| None", r"\1", types[found[1]])
    return f"--{found[1]}: {found[2]} is not {expected}"
