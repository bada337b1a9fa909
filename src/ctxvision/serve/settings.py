"""What a server allows: who may ask, how much, and for how long; and what it says where it refuses."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass


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


_MIN_TOKEN = 16
_LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


@dataclass(frozen=True)
class Limits:
    """How much a server takes.

    Attributes:
        max_bytes: Largest body of a request in bytes, the headers of its parts included.
        max_pixels: Largest width times height of an image, before it is decoded.
        max_images: Largest number of images in one request.
        batch: Number of images that the network reads at a time.
        queue: Number of images that may wait for a network; of more, a request is refused.
        max_wait_ms: Time in milliseconds that the first image of a batch waits for others.
        timeout: Time in seconds from the head of a request to its answer.
        decoders: Number of threads that read requests and decode images.

    Raises:
        ServeError: A limit lets nothing pass.
    """

    max_bytes: int = 10 * 2**20
    max_pixels: int = 25_000_000
    max_images: int = 16
    batch: int = 16
    queue: int = 64
    max_wait_ms: float = 5.0
    timeout: float = 30.0
    decoders: int = 2

    def __post_init__(self) -> None:
        for name in ("max_bytes", "max_pixels", "max_images", "batch", "queue", "decoders"):
            if getattr(self, name) < 1:
                raise ServeError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.max_wait_ms <= 10_000:
            raise ServeError(f"max_wait_ms must lie between 0 and 10000, got {self.max_wait_ms:g}")
        if not 0 < self.timeout <= 3600:
            raise ServeError(f"timeout must lie between 0 and 3600 seconds, got {self.timeout:g}")

    @property
    def images_per_request(self) -> int:
        """What both a request and the queue can hold."""
        return min(self.max_images, self.queue)


@dataclass(frozen=True)
class Access:
    """Who may ask.

    Attributes:
        token: Secret that requests must carry as ``Authorization: Bearer …``; ``None`` lets everybody in.
        hosts: Names, in lower case and without port, that a ``Host`` header may have; ``None`` allows all.

    Raises:
        ServeError: A token is too short, or cannot be in a header.
    """

    token: str | None = None
    hosts: frozenset[str] | None = frozenset(_LOOPBACK_NAMES)

    def __post_init__(self) -> None:
        if self.token is not None and not re.fullmatch(rf"[!-~]{{{_MIN_TOKEN},}}", self.token):
            raise ServeError(f"the token must have at least {_MIN_TOKEN} characters, ASCII without spaces")


def is_loopback(host: str) -> bool:
    """Tell whether only this machine can reach an address to bind to."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def access_for(host: str, token: str | None, allowed_hosts: tuple[str, ...], anyone: bool) -> Access:
    """Decide who may ask a server that binds to ``host``.

    Args:
        host: Name or address to bind to.
        token: Secret that requests must carry, see `Access`.
        allowed_hosts: More names that browsers may know the server by.
        anyone: Whether the network may ask without a token.

    Raises:
        ServeError: Others can reach the server, and nothing keeps them out; or a token is not good enough.
    """
    here = is_loopback(host)
    if not here and token is None and not anyone:
        raise ServeError(
            f"--host {host}: other machines could use this server; give it a --token (or CTXVISION_TOKEN), or say "
            "--without-token"
        )
    names = {name.lower() for name in allowed_hosts}
    if not here and not names:
        return Access(token, None)
    own = f"[{host}]" if ":" in host else host
    return Access(token, frozenset({*names, own.lower(), *(_LOOPBACK_NAMES if here else ())}))
