"""What the commands say beside their results, always on stderr."""

import logging
import os
import sys
import warnings


def note(message: str) -> None:
    """Say something that the user should know."""
    # one write, so that the lines of several processes do not mix
    sys.stderr.write(f"ctxvision: {message}\n")
    sys.stderr.flush()


def plural(count: int, noun: str) -> str:
    """Return ``1 image`` or ``2 images``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")


def debugging() -> bool:
    """Tell whether CTXVISION_DEBUG asks for tracebacks and warnings."""
    return os.environ.get("CTXVISION_DEBUG", "") not in ("", "0")


def quieten() -> None:
    """Show this library's warnings as lines of the command; silence the advice of Lightning and torch."""
    log = logging.getLogger("ctxvision")
    log.handlers = [_NoteHandler()]
    log.propagate = False
    if not debugging():
        logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
        logging.getLogger("lightning.fabric").setLevel(logging.ERROR)
        for module in ("lightning", "torch", "timm", "torchmetrics"):
            warnings.filterwarnings("ignore", module=rf"{module}(\..*)?")
        warnings.filterwarnings("ignore", message=r"Glyph \d+")  # the library says it once, in its own words


class _NoteHandler(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        note(record.getMessage())
