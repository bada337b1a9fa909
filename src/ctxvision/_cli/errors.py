"""Mistakes that end a command with one line."""

from collections.abc import Sequence
from itertools import pairwise

from ctxvision._extras import explain_import

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
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return "out of memory; lower --micro_batch (train), --batch_size or --image_size"
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
