"""The command ``ctxvision``."""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from ._cli import (
    benchmark,
    compare,
    config_file,
    convert,
    convert_labels,
    evaluate,
    explain,
    export,
    models,
    predict,
    publish,
    recipes,
    report,
    serve,
)
from ._cli.messages import UserError, debugging, explain_error, note, say_loading, unknown_words
from ._cli.streams import lasting
from ._version import __version__
from .files import reason
from .wording import did_you_mean, option

_COMMANDS = {
    "evaluate": (evaluate, "measure the accuracy of a checkpoint on a data set"),
    "predict": (predict, "answer about images and videos: classes, objects or classes of pixels"),
    "report": (report, "write a page about a training run: curves, mistakes, the classes that each stage kept"),
    "compare": (compare, "put training runs side by side: settings that differ, best metric, parameters, time"),
    "explain": (explain, "show what a trained network looked at: Grad-CAM, classes kept, offsets, kernels"),
    "models": (models, "list the networks: size, cost, accuracy in the papers"),
    "recipes": (recipes, "list the settings that the papers' results were trained with"),
    "export": (export, "write a checkpoint as an ONNX or .pt2 file, checked against torch"),
    "serve": (serve, "serve trained classifiers by a page and an HTTP API"),
    "publish": (publish, "write a checkpoint as a folder for timm and the Hugging Face Hub, with a model card"),
    "benchmark": (benchmark, "measure images per second, latency and memory of networks, in the same run"),
    "convert": (convert, "convert published checkpoints to safetensors"),
    "convert-labels": (
        convert_labels,
        "write YOLO's or Pascal VOC's labels in COCO's format, for detectors",
    ),
}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        message = re.sub(r"argument (\S+): ignored explicit argument", r"\1 takes no value, got", message)
        message = message.replace("invalid float value:", "must be a number, got")
        message = re.sub(r"(\S+): invalid choice: '?(.*?)'? \(choose from (.*)\)$", _no_choice, message)
        message = message.removeprefix("argument ")
        raise UserError(f"{message}; `{self.prog} --help` lists the options", 2)


def _no_choice(found: re.Match[str]) -> str:
    """Say what there is to choose from, in the words of ``ctxvision train``."""
    name, word, choices = found[1], found[2], found[3].replace("'", "")
    return f"{name}: there is no {word!r}{did_you_mean(word, choices.split(', '))}; there are {choices}"


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.

    A mistake is reported in one line on stderr; CTXVISION_DEBUG=1 shows the traceback.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    with lasting() as streams:
        code = _run(words)
        lost = streams.lost()
        if lost is None or code or words[:1] == ["train"]:  # whose results are in its folder
            return code
        if not streams.is_gone(lost):
            note(f"error: the output cannot be written ({reason(lost)})")
        return 1


def _run(words: list[str]) -> int:
    try:
        return _dispatch(words)
    except KeyboardInterrupt:
        note("interrupted")
        return 130
    except Exception as error:
        if debugging():
            raise
        note(f"error: {explain_error(error, words)}")
        return int(getattr(error, "exit_code", 1)) if type(error).__module__.startswith("ctxvision.") else 1


def _dispatch(words: list[str]) -> int:
    command, words = (words[0], words[1:]) if words else ("--help", [])
    if command == "train":
        # jsonargparse, which only this command needs, has its own parser
        from ._cli import train

        return train.run(words)
    if command not in _COMMANDS:
        _overview(command)
    module, summary = _COMMANDS[command]
    description = f"{summary[0].upper()}{summary[1:]}."
    parser = _Parser(prog=f"ctxvision {command}", description=description, allow_abbrev=False)
    module.add_arguments(parser)
    config_file.add_argument(parser)
    words, options = _with_dashes(words), parser._option_string_actions
    named = [word for word in words[: words.index("--") if "--" in words else None] if word.startswith("--")]
    if strange := [word for word in named if word.partition("=")[0] not in options]:  # before what is missing
        raise UserError(unknown_words(strange, options, parser.prog), 2)
    args, strange = parser.parse_known_args(config_file.expand(parser, words))
    if strange:
        raise UserError(unknown_words(strange, options, parser.prog), 2)
    if command not in ("models", "recipes"):
        say_loading()
    code: int = module.run(args)
    return code


def _overview(word: str) -> None:
    """Print the commands or the version and end, or refuse a word that is no command."""
    if not word.startswith("-"):
        near = did_you_mean(word, ["train", *_COMMANDS])
        raise UserError(f"there is no command {word!r}{near}; `ctxvision --help` lists the commands", 2)
    parser = _Parser(
        prog="ctxvision",
        usage="ctxvision COMMAND [options]",
        allow_abbrev=False,
        description="Context-aware vision networks: train, evaluate, predict.",
        epilog="`ctxvision COMMAND --help` lists the options of a command.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    commands.add_parser("train", help="train a network on images, videos or embedded data")
    for name, (_, summary) in _COMMANDS.items():
        commands.add_parser(name, help=summary)
    if word not in parser._option_string_actions:
        raise UserError(unknown_words([word], parser._option_string_actions, parser.prog), 2)
    parser.parse_args([word])


def _with_dashes(words: list[str]) -> list[str]:
    """Accept underscores in the names of options, before a bare ``--``."""
    end = words.index("--") if "--" in words else len(words)
    return [re.sub(r"^--\w[\w-]*", lambda match: option(match[0]), word) for word in words[:end]] + words[end:]
