"""Options that several commands share, and the kinds of value that options take."""

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from typing import Any

from ctxvision.wording import option

from .messages import UserError


def whole(least: int) -> Callable[[str], int]:
    """Return the type of options that take whole numbers from ``least`` on."""

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise ArgumentTypeError(f"must be a whole number of at least {least}, got {text!r}")
        return value

    return parse


def share(text: str) -> float:
    """Take a number from 0 to 1; this is the type of an option."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise ArgumentTypeError(f"must be a number from 0 to 1, got {text!r}")
    return value


OLD_DEVICE = "--accelerator is deprecated and ends with version 0.4; write --device"

_SHARED: dict[str, dict[str, Any]] = {
    "task": {
        "choices": ("classify", "detect", "segment", "video"),  # of the registry, which takes long to import
        "help": "task that the network must have; networks of another task are refused",
    },
    "format": {
        "choices": ("table", "csv", "json"),
        "default": "table",
        "help": "format of the output; default: %(default)s",
    },
    "batch_size": {
        "type": whole(1),
        "metavar": "N",
        "help": "number of images computed at a time; default: by task, 128 for classification",
    },
    "clips": {
        "type": whole(1),
        "default": 1,
        "metavar": "N",
        "help": "number of clips, spread over a video, that are averaged; papers test 10; default: %(default)s",
    },
    "crops": {
        "type": int,
        "choices": (1, 3),
        "default": 1,
        "metavar": "N",
        "help": "number of crops of a clip that are averaged, 1 or 3; papers test 3; default: %(default)s",
    },
    "interpolation": {
        "choices": ("nearest", "bilinear", "bicubic", "lanczos"),
        "help": "filter that resizes images; default: the one that the network was trained with",
    },
    "workers": {
        "type": whole(0),
        "metavar": "N",
        "help": "number of processes that decode images; default: as many as processors, at most 8",
    },
    "device": {
        "default": "auto",
        "help": "device to compute on: cpu, cuda, cuda:1, mps, or auto for CUDA where there is any; default: "
        "%(default)s; .onnx and .pt2 files are computed on the CPU",
    },
    "optimize": {
        "choices": ("auto", "none", "fuse", "compile"),
        "default": "auto",
        "help": "how to make a network of torch faster: fuse folds BatchNorm into other layers, compile also "
        "translates it, which takes minutes, none changes nothing; default: auto, what pays",
    },
    "trust": {
        "action": "store_true",
        "help": "only for model files of people that you trust: run the code inside .pt2 files, such as those of "
        "`export --aot`, and lift the limits on what the settings in a file may ask for",
    },
    "quiet": {"action": "store_true", "help": "show no progress"},
    "strict": {"action": "store_true", "help": "stop at the first image that cannot be read"},
}


def add_shared(parser: ArgumentParser, *names: str) -> None:
    """Declare options that several commands have, by their names without dashes."""
    for name in names:
        parser.add_argument(option(name), **_SHARED[name])


def require_task(asked: str | None, source: str, task: str) -> None:
    """Compare ``--task`` with the task of a network.

    Args:
        asked: The word of the option, or ``None``.
        source: The name or path of the network, as the user gave it.
        task: The name of the network's task.

    Raises:
        UserError: The two differ.
    """
    from ctxvision.tasks.registry import COMMAND_WORDS, task_named

    if asked and task_named(asked) != task:
        raise UserError(f"{source}: its task is {COMMAND_WORDS[task]}, not {asked}; leave out --task", 2)
