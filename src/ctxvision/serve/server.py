"""The process: a socket, uvicorn with stricter manners, signals."""

import asyncio
import gc
import logging
import secrets
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from PIL import Image
from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

from .guard import HEAD_BYTES, HEADERS, problem
from .service import Service
from .settings import ServeError

_HEAD_SECONDS = 10.0
_IDLE_SECONDS = 15  # longer than clients usually keep theirs
_FLUSH_SECONDS = 10.0  # to take the rest of an answer once the connection is being closed
_CONNECTIONS = 512


class Protocol(H11Protocol):
    """HTTP/1.1 whose refusals are JSON too.

    Connections end that send no request, never end one, or do not take their answers.
    """

    _head: asyncio.TimerHandle | None = None
    _full: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the head of a request."""
        super().connection_made(transport)
        if len(self.connections) > _CONNECTIONS:
            self._refuse(503, b"Service Unavailable", "busy", "too many connections")
            return
        self._wait_for_head(_HEAD_SECONDS)

    def _wait_for_head(self, seconds: float) -> None:
        if self._head:
            self._head.cancel()
        self._head = self.loop.call_later(seconds, self._close_if_silent, self.cycle)

    def _close_if_silent(self, last: RequestResponseCycle | None) -> None:
        if self.cycle is last and (last is None or last.response_complete):
            self._close()

    def _close(self) -> None:
        """Close, and do not wait for ever until the client has read what is left."""
        if not self.transport.is_closing():
            self.transport.close()
        self.loop.call_later(_FLUSH_SECONDS, self.transport.abort)

    def pause_writing(self) -> None:
        """Begin to wait for a client that does not read."""
        super().pause_writing()
        assert isinstance(self.config.app, FastAPI)
        service: Service = self.config.app.state.service
        self._full = self.loop.call_later(service.limits.timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """Go on when it has read."""
        super().resume_writing()
        if self._full:
            self._full.cancel()

    def timeout_keep_alive_handler(self) -> None:
        """Close a connection without requests."""
        super().timeout_keep_alive_handler()
        if self.transport.is_closing():
            self._close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        for timer in (self._head, self._full):
            if timer:
                timer.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Wait for the next request; a client that is still sending the last one has a moment to end it."""
        super().on_response_complete()
        if self.transport.is_closing():
            self._close()
            return
        # some of the next head may be here, after which uvicorn would wait for the rest without end
        self._wait_for_head(_IDLE_SECONDS + _HEAD_SECONDS)
        if self.conn.their_state is h11.SEND_BODY and not self.transport.is_closing():
            self.loop.call_later(_HEAD_SECONDS, self._close_if_sending, self.cycle)

    def _close_if_sending(self, cycle: object) -> None:
        if self.cycle is cycle and self.conn.their_state is h11.SEND_BODY:
            self._close()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP request, or one with a head that is too long."""
        what = f"not an HTTP request, or its head has more than {HEAD_BYTES} bytes"
        self._refuse(400, b"Bad Request", "malformed", what)

    def _refuse(self, status: int, reason: bytes, code: str, message: str) -> None:
        request_id = secrets.token_hex(8)
        body = problem(code, message, request_id)
        fields = {
            **HEADERS,
            "X-Request-Id": request_id,
            "Content-Type": "application/json",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        lines = [b"HTTP/1.1 %d %s" % (status, reason), *(f"{k}: {v}".encode() for k, v in fields.items())]
        self.transport.write(b"\r\n".join(lines) + b"\r\n\r\n" + body)
        self._close()


class Server(uvicorn.Server):
    """Ends at SIGTERM, SIGINT or SIGHUP when all that is being answered has been; new requests get 503 until then.

    Args:
        config: Configuration of uvicorn.
        service: Service behind the application, which is closed at the end.
        ready: Function that is called once connections are accepted.

    Attributes:
        stopped_by: Number of the first signal that came; ``None`` before.
    """

    def __init__(self, config: uvicorn.Config, service: Service, ready: Callable[[], object]) -> None:
        super().__init__(config)
        self.stopped_by: int | None = None
        self._service = service
        self._ready = ready
        self._give_up = 0.0

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        if not self.should_exit:
            self._ready()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals; unlike uvicorn's, the process does not die of them afterwards."""
        names = ("SIGINT", "SIGTERM", "SIGHUP")
        numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
        # one that is ignored stays so, as under nohup
        signals = [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]
        before = {number: signal.signal(number, self.handle_exit) for number in signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to stop; at the second signal, at once, unless it is a SIGHUP, which comes more than once."""
        if self.stopped_by is not None:
            if sig == getattr(signal, "SIGHUP", None):
                return
            self.should_exit = self.force_exit = True
            return
        self.stopped_by = sig
        self._service.stopping = True
        self._give_up = time.monotonic() + self._service.limits.timeout + 1

    async def on_tick(self, counter: int) -> bool:
        """Leave when nothing is being answered any more."""
        if self.stopped_by is not None and (not self._service.in_flight or time.monotonic() > self._give_up):
            self.should_exit = True
        return await super().on_tick(counter)


def bind(host: str, port: int) -> socket.socket:
    """Bind to an address before anything else is done.

    Raises:
        ServeError: The address is taken, or not of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except BaseException:
            bound.close()
            raise
    except (OSError, OverflowError, UnicodeError) as error:
        why = (getattr(error, "strerror", None) or str(error)).lower()
        raise ServeError(
            f"cannot listen on {host} port {port} ({why}); choose another --port or --host"
        ) from error
    return bound


def url_of(bound: socket.socket) -> str:
    """Return where a browser finds the server."""
    host, port = bound.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def serve(app: FastAPI, bound: socket.socket, ready: Callable[[], object]) -> int | None:
    """Answer requests until a signal comes; returns its number.

    Args:
        app: Application from `create_app`.
        bound: Socket from `bind`; it is closed at the end.
        ready: Function that is called once connections are accepted.
    """
    service: Service = app.state.service
    # the header's size is looked at first; this is the second lock
    Image.MAX_IMAGE_PIXELS = service.limits.max_pixels
    logging.getLogger("uvicorn").setLevel(logging.CRITICAL)
    settings: dict[str, Any] = {"log_config": None, "access_log": False, "server_header": False, "ws": "none"}
    config = uvicorn.Config(
        app,
        http=Protocol,
        loop="asyncio",
        lifespan="on",
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=HEAD_BYTES,
        **settings,
    )
    server = Server(config, service, ready)
    # what was loaded stays: looked through again and again, it would hold up all answers for a quarter of a second
    gc.collect()
    gc.freeze()
    try:
        server.run([bound])
    finally:
        gc.unfreeze()
    return server.stopped_by
