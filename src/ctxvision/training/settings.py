"""The options of a run: defaults, changed by a recipe, by the run that is resumed, and by the user."""

import dataclasses
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctxvision.files import keep_aside, write_whole
from ctxvision.runs import RunFolder
from ctxvision.tasks.registry import COMMAND_WORDS, TASKS

from .error import OptionError, TrainingError
from .options import TrainOptions, options_class

log = logging.getLogger(__name__)

_NO_TRACKIO = (
    "--logger trackio: runs are no longer written to trackio; take tensorboard, which keeps them on this machine, "
    "or wandb (with WANDB_MODE=offline on this machine too)"
)


def complete(given: Mapping[str, Any], kind: type[TrainOptions]) -> TrainOptions:
    """Return the checked options of a run, with nothing left open.

    Args:
        given: Options by name, as the user and a resumed run have set them; they change what a recipe sets.
        kind: Options class of the task, see `options_class_of`.

    Raises:
        OptionError: An option is unknown, missing or has a value that it cannot have, or the recipe is unknown or
            does not fit.
    """
    from ctxvision.recipes import RecipeError, load_recipe

    settings, requires = dict(given), {}
    if (name := given.get("recipe")) and (model := given.get("model")):
        try:
            recipe = load_recipe(str(name))
            if recipe.task != COMMAND_WORDS[kind.task]:
                raise OptionError(f"recipe {name} is for --task {recipe.task}, not {COMMAND_WORDS[kind.task]}")
            settings = {**recipe.settings_for(model), **given}
        except RecipeError as error:
            raise OptionError(str(error)) from error
        requires = dict.fromkeys(recipe.requires, name)
    options = _typed(kind, settings | {"task": kind.task})
    for option, recipe_name in requires.items():
        if getattr(options, option) is None:
            shows = f"`ctxvision recipes {recipe_name}` shows it"
            raise OptionError(f"recipe {recipe_name} needs --{option}; {shows}")
    return options.completed(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1)


def options_class_of(given: Mapping[str, Any]) -> type[TrainOptions]:
    """Return the options class of a run's task: the task that is given, else the recipe's, else classification.

    Args:
        given: Options by name, among them perhaps ``task`` and ``recipe``.

    Raises:
        OptionError: There is no such task.
    """
    from ctxvision.recipes import RecipeError, load_recipe

    word = given.get("task")
    if not word and given.get("recipe"):
        try:
            word = load_recipe(str(given["recipe"])).task
        except RecipeError:  # `complete` reports it
            word = None
    try:
        return options_class(word or "classification")
    except ValueError as error:
        known = ", ".join(COMMAND_WORDS.values())
        raise OptionError(f"--task {word}: there is no such task; there are {known}") from error


def read_config(path: str) -> dict[str, Any]:
    """Read the options in a YAML file; no code in it is run.

    Args:
        path: Path of the file.

    Raises:
        OptionError: The file cannot be read, or holds no options.
    """
    from ctxvision.data.files import in_words
    from ctxvision.tasks.settings_file import SettingsFileError, read_settings_file

    try:
        return read_settings_file(path)
    except (OSError, SettingsFileError) as error:
        raise OptionError(f"--config {path}: {in_words(error)}") from error


def resumed_options(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of the run that ``given["resume"]`` continues; there are none where no run is resumed.

    A ``config.yaml`` that is damaged is mended from ``environment.json``, which has noted the options too.

    Args:
        given: Options by name, of which ``resume``, ``out`` and ``model`` count.

    Raises:
        OptionError: ``resume`` and ``out`` name different folders, or no folder.
        TrainingError: There is no run to resume, or its options are lost and ``given`` names none.
    """
    resume, out = given.get("resume"), given.get("out")
    if not resume:
        return {}
    if resume == "last" and out is None:
        raise OptionError("--resume needs a run folder: --resume RUNDIR, or --out RUNDIR --resume")
    run = RunFolder(str(out)) if resume == "last" else RunFolder.around(resume)
    if out is not None and Path(out).resolve() != run.path.resolve():
        raise OptionError(f"--resume continues in {run.path}, --out names {out}; leave one of them out")
    settings = _mended(run, given)
    if isinstance(trackers := settings.get("logger"), list) and "trackio" in trackers:
        log.warning(_NO_TRACKIO)
        settings["logger"] = [name for name in trackers if name != "trackio"]
    return settings


def _mended(run: RunFolder, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a run; what is missing in its ``config.yaml`` comes from the last start of the run."""
    import yaml

    config, noted = run.settings_file, run.noted_settings()
    settings, damage = run.load_settings()
    missing = [name for name in noted or () if name not in settings]
    if not damage and not missing:
        return settings
    if noted is not None:
        damage = damage or f"lacks {missing[0]}"
        log.warning(f"{config}: {damage}; the settings are taken from {run.starts_file.name}{keep_aside(config)}")
        write_whole(config, yaml.safe_dump(noted, sort_keys=False, allow_unicode=True))
        return dict(noted)
    if not run.has_checkpoints():
        raise TrainingError(f"{run.path}: no run to resume there (its config.yaml {damage})")
    if not given.get("model"):
        raise TrainingError(
            f"{config}: {damage}; to continue from the checkpoint, name the settings again: MODEL DATA and options"
        )
    log.warning(f"{config}: {damage}; the settings are those of this command{keep_aside(config)}")
    return {}


def _typed(kind: type[TrainOptions], settings: Mapping[str, Any]) -> TrainOptions:
    """Return options whose values have the types that the class declares, as YAML and people write them.

    Raises:
        OptionError: An option is unknown, or its value is of another type.
    """
    from jsonargparse import ArgumentError, ArgumentParser

    known = {field.name for field in dataclasses.fields(kind)}
    for name in settings:
        if name not in known:
            word = COMMAND_WORDS[str(settings["task"])]
            raise OptionError(
                f"--task {word} has no option {name}; `ctxvision train --task {word} --help` lists them"
            )
    parser = ArgumentParser(exit_on_error=False, default_env=False)
    parser.add_class_arguments(kind)
    try:
        return kind(**parser.parse_object(dict(settings)).as_dict())
    except ArgumentError as error:
        raise OptionError(explain_type(str(error))) from error


def explain_type(message: str) -> str:
    """Shorten jsonargparse's account of an option whose value is of the wrong type.

    Args:
        message: Message of jsonargparse; where it is about something else it comes back as it is.
    """
    fields = (field for task in TASKS for field in dataclasses.fields(options_class(task)))
    types = {field.name: str(field.type) for field in fields}
    found = re.search(r'Parser key "(\w+)":.*(?:Given|Got) value: (.*)', message, re.DOTALL)
    if not found or found[1] not in types:
        return message
    if found[1] == "logger" and "trackio" in found[2]:
        return _NO_TRACKIO
    expected = re.sub(r"<class '(\w+)'>|typing\.| \| None", r"\1", types[found[1]])
    return f"--{found[1]}: {found[2]} is not {expected}"
