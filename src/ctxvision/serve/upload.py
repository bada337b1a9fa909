"""The body of a request: read with a limit, taken apart without trusting it."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request

from .error import Refusal, too_late

_SLICE = 65536
_PART_HEAD = 2048  # bytes of the headers of a part
_FIELD = "image"


async def read_body(request: Request, limit: int, end: float, grown: Callable[[int], None]) -> bytes:
    """Read the body of a request; what is too long is refused before it has arrived.

    Args:
        request: nothing of it has been read yet.
        limit: largest body in bytes.
        end: deadline on the clock of ``time.monotonic``.
        grown: is told the length of every piece, and may raise.

    Raises:
        Refusal: 413 longer than the limit, 408 too slow, 499 the client has gone.
    """
    refusal = Refusal(413, "too_large", f"the request has more than {limit} bytes")
    length = request.headers.get("content-length", "")
    if length.isdecimal() and int(length) > limit:
        raise refusal
    body = bytearray()

    async def read() -> None:
        async for piece in request.stream():
            if len(body) + len(piece) > limit:
                raise refusal
            grown(len(piece))
            body.extend(piece)

    try:
        await asyncio.wait_for(read(), max(end - time.monotonic(), 0.001))
    except (TimeoutError, asyncio.TimeoutError) as error:
        raise Refusal(408, "too_slow", "the request did not arrive in time", {"Connection": "close"}) from error
    except ClientDisconnect as error:
        raise Refusal(499, "gone", "the client has gone") from error
    return bytes(body)


@dataclass
class _Parts:
    """Collects what the parser finds; every part must be an image file."""

    most: int
    files: list[bytearray] = field(default_factory=list)
    head: dict[bytes, bytes] = field(default_factory=dict)
    name: bytearray = field(default_factory=bytearray)
    value: bytearray = field(default_factory=bytearray)
    length: int = 0
    ended: bool = False

    def on_part_begin(self) -> None:
        if len(self.files) == self.most:
            raise Refusal(422, "too_many_images", f"a request may hold {self.most} images at most")
        self.head, self.length = {}, 0

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._measure(end - start)
        self.name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._measure(end - start)
        self.value += data[start:end]

    def on_header_end(self) -> None:
        self.head[bytes(self.name).lower()] = bytes(self.value)
        self.name, self.value = bytearray(), bytearray()

    def on_headers_finished(self) -> None:
        kind, options = parse_options_header(self.head.get(b"content-disposition"))
        if kind != b"form-data" or options.get(b"name") != _FIELD.encode():
            raise Refusal(422, "unknown_part", f"every part of the form must be a file called {_FIELD!r}")
        self.files.append(bytearray())

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.files[-1] += data[start:end]

    def on_end(self) -> None:
        self.ended = True

    def _measure(self, length: int) -> None:
        self.length += length
        if self.length > _PART_HEAD:
            raise Refusal(400, "malformed", f"the headers of a part have more than {_PART_HEAD} bytes")


def image_files(content_type: str, body: bytes, most: int, end: float, timeout: float) -> list[bytes]:
    """Take the files called ``image`` out of a multipart form.

    Args:
        content_type: Value of the request's Content-Type header.
        body: Complete body of the request.
        most: Largest number of files.
        end: Deadline in seconds on the clock of ``time.monotonic``.
        timeout: Time in seconds that the request had, for the message.

    Raises:
        Refusal: The status is 415 for another type, 400 for a form that is not well formed, 422 for too many
            files, none, an empty one or other parts, and 503 where it is too late.
    """
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        raise Refusal(415, "not_a_form", "send a form: Content-Type must be multipart/form-data")
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= 70:
        raise Refusal(400, "malformed", "the form has no boundary of 1 to 70 characters")
    parts = _Parts(most)
    names = ("part_begin", "header_field", "header_value", "header_end", "headers_finished", "part_data", "end")
    callbacks = {f"on_{name}": getattr(parts, f"on_{name}") for name in names}
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        for start in range(0, len(body), _SLICE):
            if time.monotonic() > end:
                raise too_late(timeout)
            parser.write(body[start : start + _SLICE])
        parser.finalize()
    except FormParserError as error:
        raise Refusal(400, "malformed", "the form is not well formed") from error
    if not parts.ended:
        raise Refusal(400, "malformed", "the form is cut off")
    if not parts.files or not all(parts.files):
        raise Refusal(422, "no_image", f"send at least one file called {_FIELD!r}, none of them empty")
    return [bytes(file) for file in parts.files]
