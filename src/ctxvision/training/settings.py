"""The options of a run: defaults, changed by a recipe, by the run that is resumed, and by the user."""

import dataclasses
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ctxvision.files import keep_aside, write_whole
from ctxvision.recipes import Recipe, RecipeError, load_recipe
from ctxvision.runs import RunFolder
from ctxvision.tasks.registry import COMMAND_WORDS, TASKS
from ctxvision.wording import did_you_mean, option

from .error import OptionError, TrainingError
from .options import TrainOptions, options_class
from .warm_up import with_warmup_within

log = logging.getLogger(__name__)

# Options that a resumed run may change; all others are part of what the run is. The checkpoint says which task it
# is of; settings of earlier versions have another word for it.
_MAY_CHANGE = {
    "data", "task", "out", "resume", "device", "epochs", "steps", "val_every", "strict", "workers", "prefetch",
    "precision", "channels_last", "compile", "skip_nan", "save_minutes", "logger", "callbacks", "early_stopping",
    "save_top_k", "pictures", "log_every", "quiet",
}  # fmt: skip
# options that are passed on to the constructor of the network, with the names that they have there
_NETWORK_OPTIONS = {"drop_path_rate": "drop_path_rate", "dropout": "drop_rate"}
TRACKERS = ("csv", "tensorboard", "wandb")
_NO_TRACKIO = (
    "--logger trackio: runs are no longer written to trackio; take tensorboard, which keeps them on this machine, "
    "or wandb (with WANDB_MODE=offline on this machine too)"
)


@dataclasses.dataclass(frozen=True)
class Basis:
    """What the options of a user are set on top of: a task's defaults, a recipe, a run that is resumed.

    Attributes:
        kind: Options class of the task.
        settings: Options by name as the recipe sets them for the network, changed by the run that is resumed.
        resumed: Options of the run that is resumed; empty where none is.
        requires: Options that the recipe leaves to the user.
        recipe: The recipe, where there is one.
    """

    kind: type[TrainOptions]
    settings: Mapping[str, Any]
    resumed: Mapping[str, Any]
    requires: tuple[str, ...] = ()
    recipe: Recipe | None = None

    def usual(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return what is used where an option is not given: the recipe's value or the task's, as far as known.

        Args:
            given: Options by name that the others depend on, such as ``data``.
        """
        recipe = load_recipe(str(given["recipe"])).settings if given.get("recipe") else {}
        known = {**recipe, **self.settings, **given}
        names = {field.name for field in dataclasses.fields(self.kind)} & known.keys() - {"task"}
        probe = self.kind(**{name: known[name] for name in names})
        return {**probe.defaults(processors()), **{name: known[name] for name in names}}

    def complete(self, given: Mapping[str, Any]) -> TrainOptions:
        """Return the checked options of a run, with nothing left open.

        Args:
            given: Options by name, as the user has set them; they change ``settings``.

        Raises:
            OptionError: An option is unknown, missing or has a value that it cannot have.
            TrainingError: A resumed run would become another one.
        """
        named = _named_now(given)
        replaced = self._replaced(named)
        below = {name: value for name, value in self._fitted(given).items() if name not in replaced}
        options = _typed(self.kind, {**below, **named, "task": self.kind.task})
        for name in self.requires:
            if getattr(options, name) is None:
                shows = f"`ctxvision recipes {options.recipe}` shows it"
                if name == "init_from":
                    from timm import is_model, is_model_pretrained

                if name == "init_from" and is_model(options.model or "") and is_model_pretrained(options.model):
                    shows += f", or --init-from {options.model} takes its published weights"
                raise OptionError(f"recipe {options.recipe} needs {option(name)}; {shows}")
        _require_trackers(options.logger)
        if not self.resumed:
            options = with_warmup_within(options, options.epochs, kept=given)
        options = options.completed(processors())
        for name, value in dataclasses.asdict(options).items():
            value = list(value) if isinstance(value, tuple) else value  # as YAML has it
            if name not in _MAY_CHANGE and name in self.resumed and self.resumed[name] != value:
                where = options.out if options.resume == "last" else options.resume
                raise TrainingError(
                    f"{where}: its {name} is {self.resumed[name]}, not {value}; a resumed run keeps its settings, "
                    f"leave out {option(name)} or begin a new run"
                )
        return options

    def _replaced(self, given: Mapping[str, Any]) -> set[str]:
        """Return the options of a recipe whose place others of the user take: --steps that of its epochs."""
        pairs = (("steps", "epochs"), ("epochs", "steps"))
        return set() if self.resumed else {other for one, other in pairs if given.get(one) and other not in given}

    def _fitted(self, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the settings without what a network of another kind does not take of the recipe; a note says so.

        A network that the recipe names is not asked; nor is a run that is resumed, which has been.
        """
        if self.recipe is None or self.resumed:
            return self.settings
        from timm import is_model

        model, recipe = str({**self.resumed, **given}.get("model") or ""), self.recipe
        if model in recipe.models or not is_model(model):
            return self.settings
        asked = {name: value for name, value in self.settings.items() if name not in given}
        settings, left_out = fitted_to(model, asked)
        without = f"without {', '.join(left_out)}, which it does not take" if left_out else ""
        if instead := recipe.model_instead_of(model):
            log.warning(
                f"recipe {recipe.name} is for {', '.join(recipe.models)}; {model} is trained with the settings "
                f"for {instead}{without and ', '}{without}; what it expects and costs is not said of {model}"
            )
        elif without:
            log.warning(f"recipe {recipe.name}: {model} is trained {without}")
        return settings


def fitted_to(model: str, settings: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """Return the settings of another network without what a network of timm's or ours does not take.

    Args:
        model: The registered name of the network.
        settings: Settings by name.

    Returns:
        The settings, and what was left out, in words.
    """
    from ctxvision.tasks.networks import takes_argument

    fitted, left_out = dict(settings), []
    for name, argument in _NETWORK_OPTIONS.items():
        value = fitted.get(name)
        if value and not takes_argument(model, argument, value):
            left_out.append(f"{name} {fitted.pop(name)}")
    if asked := fitted.get("model_args"):
        fitted["model_args"] = {name: value for name, value in asked.items() if takes_argument(model, name, value)}
        left_out += [f"{name} {value}" for name, value in asked.items() if name not in fitted["model_args"]]
    return fitted, left_out


def _require_trackers(names: list[Any] | None) -> None:
    for name in names or ():
        if isinstance(name, str) and "." not in name and name not in TRACKERS:
            known = f"--logger {name}: neither {', '.join(TRACKERS)} nor the path of a class"
            raise OptionError(_NO_TRACKIO if name == "trackio" else known + did_you_mean(name, TRACKERS))


def processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1


def basis_of(given: Mapping[str, Any]) -> Basis:
    """Find what lies below the options of a user.

    The task is the one that is given, else that of the resumed run or of the recipe, else classification.

    Args:
        given: Options by name, of which ``task``, ``recipe``, ``model``, ``resume`` and ``out`` count.

    Raises:
        OptionError: There is no such task, recipe or run folder, or the recipe is for another task.
        TrainingError: There is no run to resume, or its options are lost and ``given`` names none.
    """
    resumed = resumed_options(given)
    first: dict[str, Any] = {**resumed, **given}
    try:
        recipe = load_recipe(str(first["recipe"])) if first.get("recipe") else None
        settings = recipe.settings_for(first["model"]) if recipe and first.get("model") else {}
        word = first.get("task") or (recipe.task if recipe else "classification")
        kind = options_class(word)
    except RecipeError as error:
        raise OptionError(str(error)) from error
    except ValueError as error:
        known = ", ".join(COMMAND_WORDS.values())
        raise OptionError(f"--task {word}: there is no such task; there are {known}") from error
    if recipe and recipe.task != kind.task:
        names = [COMMAND_WORDS[task] for task in (recipe.task, kind.task)]
        raise OptionError(
            f"recipe {recipe.name} is for --task {names[0]}, not {names[1]}; `ctxvision recipes` lists them"
        )
    if resumed and "interpolation" not in resumed:  # runs of earlier versions had no choice
        resumed = {**resumed, "interpolation": "bicubic" if kind.task == "classification" else "bilinear"}
    if recipe and not recipe.models:
        settings.pop("batch_size", None)  # it was made for no number of images, and is the largest that is chosen
    return Basis(kind, settings | resumed, resumed, recipe.requires if recipe and settings else (), recipe)


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
    settings = _named_now(_mended(run, given))
    if moved := _data_of(run, settings):
        log.warning(f"{settings['data']} is not here; the run began with {moved}")
        settings["data"] = moved
    if isinstance(trackers := settings.get("logger"), list) and "trackio" in trackers:
        log.warning(_NO_TRACKIO)
        settings["logger"] = [name for name in trackers if name != "trackio"]
    return settings


def _data_of(run: RunFolder, settings: Mapping[str, Any]) -> str:
    """Return where data lie whose path was relative to the folder that the run was started in.

    Empty where they lie at their path as seen from here, or are not found either.
    """
    starts, _ = run.read_starts()
    folders = [start.get("folder") for start in starts if isinstance(start, dict)]
    data = str(settings.get("data") or "")
    path = data.partition("#")[0]
    if not path or os.path.exists(path):
        return ""
    found = [
        folder for folder in folders if isinstance(folder, str) and os.path.exists(os.path.join(folder, path))
    ]
    return os.path.join(found[0], data) if found else ""


def _named_now(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return options under the names of today; in 0.1 ``device`` was Lightning's ``accelerator``."""
    return {"device" if name == "accelerator" else name: value for name, value in settings.items()}


def _mended(run: RunFolder, given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of a run; what is missing in its ``config.yaml`` comes from the last start of the run."""
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


_IN_WORDS = {
    "float": "a number",
    "int": "a whole number",
    "bool": "true or false",
    "dict": "a mapping such as '{name: value}'",
    "list": "a list such as '[a, b]'",
}


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
    expected = re.sub(r"<class '(\w+)'>|typing\.| \| None", r"\1", types[found[1]])
    if expected.startswith("Literal["):
        choices = re.findall(r"[^\[\]', ]+", expected)[1:]
        near = did_you_mean(found[2], choices)
        return f"{option(found[1])}: there is no {found[2]!r}{near}; there are {', '.join(choices)}"
    words = next((words for kind, words in _IN_WORDS.items() if expected.startswith(kind)), expected)
    return f"{option(found[1])}: {found[2]} is not {words}"


_MOST_BYTES = 1_000_000
_MOST_VALUES = 100_000  # with every alias counted as what it stands for


class SettingsFileError(ValueError):
    """A file is no YAML that can be used; the message is one line without its path."""


def read_settings_file(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read names and values. No tag of Python's is followed.

    Args:
        path: The path of a file in YAML, up to 1 MB.

    Raises:
        OSError: The file cannot be opened, or is no regular file.
        SettingsFileError: The file is too large, not text, not YAML, holds no names, or its aliases stand for more
            than 100,000 values.
    """
    from ctxvision.data.files import in_words, read_regular

    try:
        text = read_regular(path, _MOST_BYTES).decode("utf-8-sig")
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is not None and _values(node, {}) > _MOST_VALUES:
            raise SettingsFileError(f"its aliases (*) stand for more than {_MOST_VALUES} values")
        content = loader.construct_document(node) if node is not None else {}
    except SettingsFileError:
        raise
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise SettingsFileError(f"not YAML ({' '.join(str(error.problem).split())}{where})") from error
    except (yaml.YAMLError, ValueError) as error:
        raise SettingsFileError(f"not YAML ({in_words(error)})") from error
    except RecursionError as error:
        raise SettingsFileError("not settings, but lists within lists") from error
    if not isinstance(content, dict):
        raise SettingsFileError(f"not settings: expected names and values, got a {type(content).__name__}")
    return content


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values below a node, each alias as what it stands for, without walking through it again.

    Raises:
        SettingsFileError: A value contains itself.
    """
    if id(node) not in known:
        known[id(node)] = 0  # while it is being counted
        inner = node.value if isinstance(node, yaml.CollectionNode) else ()
        pairs = (part for item in inner for part in (item if isinstance(item, tuple) else (item,)))
        known[id(node)] = 1 + sum(_values(part, known) for part in pairs)
    elif not known[id(node)]:
        raise SettingsFileError("a value of it contains itself (&, *)")
    return known[id(node)]
