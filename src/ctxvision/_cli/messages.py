"""What the commands say: results on stdout, all else on stderr; names of others are shown as `visible` does."""

import contextlib
import logging
import os
import sys
import warnings

from ctxvision.foreign import visible


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
