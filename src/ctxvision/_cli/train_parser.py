"""jsonargparse's parser for ``ctxvision train``: its help and its errors in the words of this library."""

import dataclasses
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ctxvision.tasks.registry import COMMAND_WORDS, TASKS
from ctxvision.training.error import OptionError
from ctxvision.training.options import TrainOptions, options_class
from ctxvision.training.settings import explain_type
from ctxvision.wording import option

from .messages import unknown_words

_ABOUT: dict[str, Any] = {
    "prog": "ctxvision train",
    "usage": "ctxvision train MODEL [DATA] [options]",
    "description": "Train a network on images, or on the embedded handwritten digits, DATA = digits. "
    "`--set NAME=VALUE` is another way to write `--NAME VALUE`.",
    "epilog": "Ctrl-C leaves a checkpoint to continue from: ctxvision train --resume RUNDIR.",
}
SEE_HELP = "`ctxvision train --help` lists the options"


@contextmanager
def types_explained(kind: type[TrainOptions]) -> Iterator[None]:
    """Turn what jsonargparse says about a command line into one line of ours inside this block.

    Args:
        kind: The options of the task.
    """
    from jsonargparse import ArgumentError

    try:
        yield
    except ArgumentError as error:
        raise OptionError(_explained(str(error), kind)) from error


def _explained(message: str, kind: type[TrainOptions]) -> str:
    if found := re.match("unrecognized arguments: (.*)", message, re.IGNORECASE):
        strange = [re.sub("^--[^=]*", lambda match: option(match[0]), word) for word in found[1].split()]
        name = strange[0].partition("=")[0]
        if owners := [COMMAND_WORDS[task] for task in TASKS if name in _options_of(options_class(task))]:
            return f"{name} is an option of --task {' and '.join(owners)}; {SEE_HELP}"
        return unknown_words(strange, [*_options_of(kind), "config", "set", "print_config"], "ctxvision train")
    return f"{explain_type(message)}; {SEE_HELP}"


def _options_of(kind: type[TrainOptions]) -> list[str]:
    return [option(field.name) for field in dataclasses.fields(kind)]


def _by_default(words: re.Match[str]) -> str:
    first, *others = words.groups()  # spaces, one of which may end a line
    return f"By{first}default{next((space for space in others if len(space) > 1), ' ')}"


def make_parser() -> Any:
    """Return jsonargparse's parser, whose help shows dashes, and what is used where an option is not given."""
    from jsonargparse import ArgumentParser

    class Parser(ArgumentParser):  # type: ignore[misc,unused-ignore]
        def format_help(self, *formatter: Any) -> str:  # jsonargparse hands one on since 4.49
            text = str(super().format_help(*formatter))
            text = re.sub(r"--[a-z]+(_[a-z]+)+", lambda match: option(match[0]), text)
            text = re.sub(r"If(\s+)it(\s+)is(\s+)null,(\s+)", _by_default, text)
            text = re.sub(r",\s+default:\s+null", "", text)
            return re.sub(r"\s+\|\s+null(?=[,)])", "", text)

    return Parser(**_ABOUT, exit_on_error=False, default_env=False, allow_abbrev=False)
