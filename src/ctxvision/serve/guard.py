"""What every request passes before a route sees it, and every answer after: checks, headers, counts."""

import asyncio
import hmac
import json
import logging
import random
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from .settings import Access, Refusal

if TYPE_CHECKING:
    from .service import Service

_LOG = logging.getLogger("ctxvision.serve")
HEAD_BYTES = 16 * 1024
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": _CSP,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
_IDS = random.Random()  # names of requests, no secrets; asking the system for each would give away Python's lock
_NO_ANSWER = 499  # the client has gone, or does not read


class _UnreadError(Exception):
    """The client does not take its answer."""


def problem(error: str, message: str, request_id: str) -> bytes:
    """Return the body of every answer that is not a success."""
    return json.dumps({"error": error, "message": message, "request_id": request_id}).encode()


class Guard:
    """ASGI middleware: who may ask, strict headers, one line of JSON for what fails, counts.

    Args:
        app: ASGI application behind the guard.
        service: Service that has the counts and the state of the server.
        access: Rules that say who may ask.
        open_paths: Paths that need no token.
        timeout: Time in seconds that a client may take to accept a piece of the answer.
    """

    def __init__(
        self, app: ASGIApp, service: "Service", access: Access, open_paths: frozenset[str], timeout: float
    ) -> None:
        self._app = app
        self._service = service
        self._access = access
        self._open = open_paths
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._answer(scope, receive, send)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        start, request_id, status = time.monotonic(), f"{_IDS.getrandbits(64):016x}", 0
        scope["ctxvision"] = {"request_id": request_id, "start": start}

        async def dressed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers.update({**HEADERS, "X-Request-Id": request_id})
                if status == 503 and self._service.stopping:
                    headers["Connection"] = "close"
            try:
                await asyncio.wait_for(send(message), self._timeout)
            except asyncio.TimeoutError:
                raise _UnreadError from None

        self._service.in_flight += 1
        try:
            self._check(scope)
            await self._app(scope, receive, dressed)
        except Refusal as refusal:
            with suppress(_UnreadError):
                status = await self.refuse(refusal, request_id, dressed)
        except _UnreadError:
            status = _NO_ANSWER  # the protocol ends the connection
        except Exception:
            _LOG.error("request %s failed\n%s", request_id, traceback.format_exc().rstrip())
            if status:
                raise  # half an answer is out: the connection must end
            await _send(dressed, 500, {}, problem("failed", "the server failed; its log says why", request_id))
        finally:
            self._service.in_flight -= 1
            method = scope["method"] if scope["method"] in _METHODS else "other"
            route = getattr(scope.get("route"), "path", "other")
            metrics = self._service.metrics
            metrics.requests.labels(route, method, str(status or _NO_ANSWER)).inc()
            metrics.latency.labels(route).observe(time.monotonic() - start)

    async def refuse(self, refusal: Refusal, request_id: str, send: Send) -> int:
        """Send a refusal, if there is still somebody to read it; returns the status."""
        self._service.metrics.rejected.labels(refusal.code).inc()
        if refusal.status != _NO_ANSWER:
            body = problem(refusal.code, refusal.message, request_id)
            await _send(send, refusal.status, refusal.headers, body)
        return refusal.status

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        if sum(len(name) + len(value) for name, value in headers.raw) > HEAD_BYTES:
            raise Refusal(431, "head_too_large", f"the head of the request has more than {HEAD_BYTES} bytes")
        host = headers.get("host", "")
        if self._access.hosts is not None and _name(host) not in self._access.hosts:
            raise Refusal(421, "wrong_host", "this server is not known by that name; --allow-host adds names")
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            raise Refusal(403, "other_origin", "pages of other sites may not use this server")
        if scope["method"] not in ("GET", "HEAD") and headers.get("sec-fetch-site", "none") not in (
            "none",
            "same-origin",
        ):
            raise Refusal(403, "other_origin", "pages of other sites may not use this server")
        if self._service.stopping:
            raise Refusal(503, "stopping", "the server is stopping", {"Retry-After": "5"})
        if self._access.token is not None and scope["path"] not in self._open:
            scheme, _, given = headers.get("authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode(), self._access.token.encode())
            if scheme.lower() != "bearer" or not right:
                raise Refusal(
                    401,
                    "no_token",
                    "send the server's token: Authorization: Bearer …",
                    {"WWW-Authenticate": "Bearer"},
                )


def _name(host: str) -> str:
    """Return the name in a Host header, in lower case."""
    if host.startswith("["):
        return f"{host.partition(']')[0]}]".lower()
    return host.partition(":")[0].lower()


async def _send(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    fields = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    raw = [(name.lower().encode(), value.encode()) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": body})
