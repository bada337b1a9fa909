"""The hub of Hugging Face, or the mirror that HF_ENDPOINT names, asked once: its clients would try for minutes."""

import contextlib
import sys
import urllib.request
from collections.abc import Iterator
from http import HTTPStatus
from urllib.parse import quote, urlsplit

import huggingface_hub
from huggingface_hub import constants

_TRY_LATER = (HTTPStatus.PROXY_AUTHENTICATION_REQUIRED, HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


def why_not_asked(path: str) -> str:
    """Say why the hub cannot be asked now.

    Args:
        path: The path of a file on the hub, which need not be there: a mirror may serve nothing but files.

    Returns:
        The reason, in words; empty if the hub answers.
    """
    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE is set"
    host = urlsplit(constants.ENDPOINT)
    if host.scheme not in ("http", "https") or not host.netloc:
        return f"HF_ENDPOINT is {constants.ENDPOINT!r}, no address such as https://huggingface.co"
    token = huggingface_hub.get_token() or ""
    if not (token.isascii() and token.isprintable()):
        return "HF_TOKEN holds characters that no token has"
    try:
        session = huggingface_hub.get_session()
    except (ImportError, ValueError) as error:  # of the kind of proxy that the environment names
        return f"the proxy that the environment names cannot be used: {str(error).split('. ')[0]}"
    library = sys.modules[type(session).__module__.partition(".")[0]]  # requests, httpx or its successor
    try:
        answer = session.head(f"{constants.ENDPOINT}/{quote(path)}", timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (OSError, ValueError, library.HTTPError):
        return f"{host.netloc.rpartition('@')[2]} cannot be reached{_proxy(host.scheme, host.hostname or '')}"
    status = answer.status_code
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _TRY_LATER:
        return f"{host.netloc.rpartition('@')[2]} answers {status} {answer.reason_phrase}".rstrip()
    return ""


def _proxy(scheme: str, host: str) -> str:
    """Name the proxy on the way, without the password in its address."""
    proxies = urllib.request.getproxies()
    proxy = proxies.get(scheme) or proxies.get("all")
    if not proxy or urllib.request.proxy_bypass(host):
        return ""
    return f" through the proxy {proxy.rpartition('@')[2]}"


@contextlib.contextmanager
def cache_only() -> Iterator[None]:
    """Let the clients of the hub look into their cache alone."""
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
