"""What can go wrong: before a server starts, and with a single request."""

from collections.abc import Mapping


class ServeError(ValueError):
    """A server cannot start like this; the message is one line that names value and fix."""


class Refusal(Exception):
    """A request is not answered with what it asked for.

    Attributes:
        status: HTTP status code of the answer.
        code: Word by which programs know the reason.
        message: Line for people; nothing of what the client sent is in it.
        headers: Further headers of the answer.
    """

    def __init__(self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


def busy(code: str, message: str, seconds: int = 1) -> Refusal:
    """Refuse for now: 429, and when to try again."""
    return Refusal(429, code, message, {"Retry-After": str(seconds)})


def too_late(seconds: float) -> Refusal:
    """Refuse because the deadline has passed."""
    return Refusal(503, "deadline", f"not answered within {seconds:g} seconds", {"Retry-After": "5"})
