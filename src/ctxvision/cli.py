"""The command ``ctxvision``."""

import argparse
import re
import sys
from collections.abc import Sequence
from typing import NoReturn

from ._cli import (
    benchmark,
    compare,
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
from ._cli.messages import UserError, debugging, explain_error, note
from ._cli.streams import lasting
from ._version import __version__
from .files import reason

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
        raise UserError(f"{message}; `{self.prog} --help` lists the options", 2)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code: 0, 1 failed, 2 wrong usage, 130 stopped by Ctrl-C.

    A mistake is reported in one line on stderr; CTXVISION_DEBUG=1 shows the traceback.
    """
    words = _with_underscores(sys.argv[1:] if argv is None else list(argv))
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
    if words[:1] == ["train"]:
        # jsonargparse, which only this command needs, has its own parser
        from ._cli import train

        return train.run(words[1:])
    parser = _Parser(
        prog="ctxvision",
        allow_abbrev=False,
        description="Context-aware vision networks: train, evaluate, predict.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    commands.add_parser("train", help="train a network on images, videos or embedded data", add_help=False)
    for name, (module, summary) in _COMMANDS.items():
        description = f"{summary[0].upper()}{summary[1:]}."
        module.add_arguments(commands.add_parser(name, help=summary, description=description, allow_abbrev=False))
    args = parser.parse_args(words)
    code: int = _COMMANDS[args.command][0].run(args)
    return code


def _with_underscores(words: list[str]) -> list[str]:
    """Accept --batch-size for --batch_size, before a bare ``--``."""
    end = words.index("--") if "--" in words else len(words)
    return [re.sub(r"^--\w[\w-]*", _underscored, word) for word in words[:end]] + words[end:]


def _underscored(match: re.Match[str]) -> str:
    return "--" + match[0][2:].replace("-", "_")
