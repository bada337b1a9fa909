"""What the commands say: results and tables on stdout, all else on stderr, a mistake as one line."""

import contextlib
import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

from ctxvision._extras import explain_import
from ctxvision.files import WriteError, write_whole
from ctxvision.foreign import csv_text, finite_values, json_text, visible
from ctxvision.wording import did_you_mean, option

# extras of the commands; those not named need "train"
_EXTRAS = {"explain": "explain", "export": "export", "serve": "serve", "convert": "weights"}
_TASK_EXTRAS = ("detect", "segment", "video")


class UserError(Exception):
    """What the user can put right.

    Attributes:
        exit_code: The exit code of the command, 2 for a wrong command line, else 1.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = exit_code


def explain_error(error: Exception, words: Sequence[str] = ()) -> str:
    """Say in one line what went wrong, and for our own bugs how to see where.

    Args:
        error: What ended the command.
        words: The command line, for the extras that its command and task need.
    """
    message = " ".join(str(error).split())
    if type(error).__module__.startswith("ctxvision."):
        return message
    if isinstance(error, ImportError) and (wanted := explain_import(error, _extras(words))):
        return f"this command {wanted}" if wanted.startswith("needs") else wanted
    no_memory = "can't allocate memory" in message or "not enough memory" in message  # torch's, on CPUs
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError) or no_memory:
        return "out of memory; lower --micro-batch (train), --batch-size or --image-size"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}" if error.filename else error.strerror.lower()
    return f"unexpected {type(error).__name__}: {message} (CTXVISION_DEBUG=1 shows where)"


def _extras(words: Sequence[str]) -> list[str]:
    """Name the extras that a command line needs."""
    if not words:
        return []
    options = [part for word in words[1:] for part in word.split("=", 1)]
    tasks = [value for option, value in pairwise(options) if option == "--task" and value in _TASK_EXTRAS]
    return [_EXTRAS.get(words[0], "train"), *tasks[-1:]]


def unknown_words(strange: Sequence[str], options: Iterable[str], prog: str) -> str:
    """Say that a command has no use for words of its command line.

    Args:
        strange: Words that were left over.
        options: Options that there are, with their dashes.
        prog: Name of the command, with that of the program.
    """
    name = strange[0].partition("=")[0]
    hint = did_you_mean(name, map(option, options)) if name.startswith("--") else ""
    what = (
        f"there is no option {name}{hint}" if name.startswith("-") else f"too many words, from {strange[0]!r} on"
    )
    return f"{what}; `{prog} --help` lists the options"


def say_loading() -> None:
    """Say on a terminal that an answer takes a while, where torch is not imported yet."""
    if "torch" not in sys.modules and sys.stderr.isatty():
        note("loading PyTorch …")


def note(message: str) -> None:
    """Say something that the user should know, in one line on stderr; if nobody reads it, it is lost."""
    # one write, so that the lines of several processes do not mix
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"ctxvision: {visible(message)}\n")
        sys.stderr.flush()


def say(line: object) -> None:
    """Write one line of a result to stdout."""
    sys.stdout.write(f"{visible(line)}\n")
    sys.stdout.flush()


def say_all(text: str) -> None:
    """Write lines to stdout; a terminal gets nothing that would steer it, a file or a pipe gets every byte."""
    sys.stdout.write(visible(text, lines=True) if sys.stdout.isatty() else text)


def debugging() -> bool:
    """Tell whether CTXVISION_DEBUG asks for tracebacks and warnings."""
    return os.environ.get("CTXVISION_DEBUG", "") not in ("", "0")


def quieten() -> None:
    """Show this library's warnings as lines of the command; silence the advice of Lightning and torch."""
    log = logging.getLogger("ctxvision")
    log.handlers = [_LineHandler()]
    log.setLevel(logging.INFO)
    log.propagate = False
    if not debugging():
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
        for module in ("lightning", "torch", "timm", "torchmetrics"):
            warnings.filterwarnings("ignore", module=rf"{module}(\..*)?")
        warnings.filterwarnings("ignore", message=r"Glyph \d+")  # the library says it once, in its own words


class _LineHandler(logging.Handler):
    """Results (INFO) go to stdout, what the user should know besides (WARNING and above) to stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        (note if record.levelno >= logging.WARNING else say)(record.getMessage())


class Keeping:
    """The steps of a command after its work is done: one that fails is a line on stderr and stops no other.

    Attributes:
        exit_code: Exit code of the command, 1 once something that the user asked for could not be made, else 0.
    """

    def __init__(self) -> None:
        self.exit_code = 0

    @contextmanager
    def step(self, what: str, *, asked: bool = True) -> Iterator[None]:
        """Make one thing.

        Args:
            what: Name of the thing, as the line calls it.
            asked: Whether the user has asked for it; what is only a decoration does not change the exit code.
        """
        try:
            yield
        except Exception as error:
            if debugging():
                traceback.print_exc()
            reason = explain_error(error)
            # what can be put right says itself what it is about
            line = reason if isinstance(error, UserError | WriteError) else f"{what} could not be made: {reason}"
            note(f"error: {line}" if asked else line)
            if asked:
                self.exit_code = 1

    def write(self, path: str | None, make: Callable[[], str | bytes]) -> None:
        """Make the contents of a file and write it, if the user asked for the file by a path."""
        if path:
            with self.step(path):
                write_whole(path, make())
                note(f"written to {path}")


def write_rows(rows: Sequence[Mapping[str, Any]], heads: Mapping[str, str], style: str) -> str:
    """Format rows.

    Args:
        rows: Values by column, for each row.
        heads: Words of the table for each column, in order; CSV and JSON have their own names.
        style: Format of the text, ``"table"``, ``"csv"`` or ``"json"``.
    """
    if style == "json":
        return json_text(finite_values(rows), indent=2) + "\n"
    if style == "csv":
        return csv_text([list(heads), *([row[column] for column in heads] for row in rows)])
    cells = [["–" if row[column] is None else visible(row[column]) for column in heads] for row in rows]
    widths = [max(map(len, column)) for column in zip(heads.values(), *cells, strict=True)]
    is_number = [any(isinstance(row[column], int | float) for row in rows) for column in heads]
    lines = [
        "  ".join(
            cell.rjust(width) if number else cell.ljust(width)
            for cell, width, number in zip(line, widths, is_number, strict=True)
        )
        for line in (list(heads.values()), *cells)
    ]
    return "".join(f"{line.rstrip()}\n" for line in lines)


def as_json(numbers: Mapping[str, Any]) -> str:
    """Write one line for each entry, and of lists one for each element: a matrix stays a matrix."""

    def written(value: object) -> str:
        return json_text(value, allow_nan=False)

    def entry(name: str, value: object) -> str:
        if isinstance(value, list) and any(isinstance(element, list | dict) for element in value):
            value_text = "[\n  " + ",\n  ".join(map(written, value)) + "\n ]"
        else:
            value_text = written(value)
        return f" {written(name)}: {value_text}"

    return "{\n" + ",\n".join(entry(name, value) for name, value in numbers.items()) + "\n}\n"
