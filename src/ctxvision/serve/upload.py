"""The body of a request: read with a limit, taken apart without trust, decoded to the input of a network."""

import asyncio
import io
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import cast

from PIL import Image, ImageFile
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import ClientDisconnect, Request
from torch import Tensor

from ctxvision.data import BadImageError, DataSpec, read_image
from ctxvision.data.images.reading import DECODER_ERRORS, open_picture

from .settings import Refusal, too_late

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


# what browsers show; every further decoder is one more that strangers can reach
FORMATS = tuple(name for name in ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP") if name in Image.OPEN)
KINDS = "JPEG, PNG, WebP, AVIF, GIF or BMP" if "AVIF" in FORMATS else "JPEG, PNG, WebP, GIF or BMP"
_MOST_SCANS = 100  # of a JPEG; encoders write about ten, and each costs as much as decoding the image once
_MARKER = re.compile(rb"\xff+([\x01-\xcf\xd8-\xfe])", re.DOTALL)  # all but stuffed bytes and restarts
_SCAN, _LAST = 0xDA, 0xD9


class _Watched(io.BytesIO):
    """Bytes that ask before each piece whether they are still wanted; Pillow reads pieces of 64 kB."""

    def __init__(self, data: bytes, watch: Callable[[], None]) -> None:
        super().__init__(data)
        self._watch = watch

    def read(self, size: int | None = -1, /) -> bytes:
        self._watch()
        return super().read(size)


def decode(data: bytes, spec: DataSpec, max_pixels: int, watch: Callable[[], None] = lambda: None) -> Tensor:
    """Decode an image as `ctxvision.data.read_image` does, and transform it as in evaluation.

    What the bytes are is what the decoder finds; names and types that the client gave do not count.

    Args:
        data: Bytes of a file in one of `FORMATS`.
        spec: Description of the images that the network takes.
        max_pixels: Largest width times height, by the file's header, before any pixel is decoded.
        watch: Function that is called now and then; it raises a `Refusal` to end the work.

    Returns:
        The normalised image, (C, H, W).

    Raises:
        Refusal: The status is 415 for a file that is not such an image, 413 for too many pixels, and 422 for a
            damaged image or one of an unusable kind; or it is what `watch` raises.
    """
    try:
        opened = open_picture(_Watched(data, watch), FORMATS)
    except Image.DecompressionBombError as error:
        raise _too_large(max_pixels) from error
    except DECODER_ERRORS as error:
        raise Refusal(415, "not_an_image", f"not an image; send {KINDS}") from error
    with opened:
        if opened.width * opened.height > max_pixels:
            raise _too_large(max_pixels)
        _require_cheap(cast(ImageFile.ImageFile, opened), data)
        try:
            return spec.eval_transform()(read_image(opened, spec.color_mode, "the image"))
        except BadImageError as error:
            # the decoder's own words may repeat what is in the file
            raise Refusal(
                422, "bad_image", "the image is damaged, cut off, far too narrow, or has no pixels of 8 or 16 bits"
            ) from error


def _require_cheap(image: ImageFile.ImageFile, data: bytes) -> None:
    """Refuse what decodes to no more pixels than others, but with far more time or memory.

    Raises:
        Refusal: The status is 415 for a run-length coded BMP, and 422 for a JPEG of too many scans.
    """
    # Pillow decodes them in Python, and their jumps may write hundreds of times the image's size
    if any(tile[0] == "bmp_rle" for tile in image.tile):
        raise Refusal(415, "run_length_bmp", "a run-length coded BMP; save it without compression, or as PNG")
    if image.format in ("JPEG", "MPO") and _scans(data) > _MOST_SCANS:
        raise Refusal(422, "too_many_scans", f"the JPEG has more than {_MOST_SCANS} scans; save it anew")


def _scans(data: bytes) -> int:
    """Count the scans of a JPEG until its end, or one more than are allowed."""
    place = count = 0
    while count <= _MOST_SCANS and (found := _MARKER.search(data, place)):
        kind, place = found[1][0], found.end()
        if kind == _LAST:
            break
        if kind not in (0x01, 0xD8):  # these have no length
            place += int.from_bytes(data[place : place + 2], "big")
        count += kind == _SCAN
    return count


def _too_large(max_pixels: int) -> Refusal:
    return Refusal(413, "too_many_pixels", f"the image has more than {max_pixels} pixels; scale it down")
