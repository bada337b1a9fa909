"""What a command has worked out is kept, whatever becomes of the files, pages and pictures made of it."""

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from ctxvision.files import WriteError

from .errors import UserError, explain_error
from .messages import debugging, note


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
