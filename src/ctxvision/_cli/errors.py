"""Mistakes that end a command with one line."""

from ctxvision._extras import explain_import


class UserError(Exception):
    """What the user can put right.

    Attributes:
        exit_code: The exit code of the command, 2 for a wrong command line, else 1.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = exit_code


def explain_error(error: Exception) -> str:
    """Say in one line what went wrong, and for our own bugs how to see where."""
    message = " ".join(str(error).split())
    if type(error).__module__.startswith("ctxvision."):
        return message
    if isinstance(error, ImportError) and (wanted := explain_import(error)):
        return f"this command {wanted}" if wanted.startswith("needs") else wanted
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return "out of memory; lower --micro_batch (train), --batch_size or --image_size"
    if isinstance(error, OSError) and error.strerror:
        return f"{error.filename}: {error.strerror.lower()}" if error.filename else error.strerror.lower()
    return f"unexpected {type(error).__name__}: {message} (CTXVISION_DEBUG=1 shows where)"
