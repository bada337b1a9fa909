"""Whether the hub can be asked: each answer of the environment is one reason, and no password is in it."""

import http.server
import threading

import pytest
from huggingface_hub import constants

from ctxvision._hub import cache_only, why_not_asked


@pytest.fixture(autouse=True)
def _plain(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_ETAG_TIMEOUT", 1)


@pytest.fixture
def answering(monkeypatch):
    """Serve one status to whatever is asked; the paths that were."""
    asked = []

    class Answer(http.server.BaseHTTPRequestHandler):
        status = 404

        def do_HEAD(self):
            asked.append(self.path)
            self.send_response(self.status)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}/mirror")
        try:
            yield Answer, asked
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize("status", [200, 302, 401, 403, 404, 501, 503, 429, 407])
def test_a_hub_that_says_later_is_not_asked_again(answering, status):
    answer, asked = answering
    answer.status = status
    reason = why_not_asked("a b/x.json")
    assert asked == ["/mirror/a%20b/x.json"]
    if status in (200, 302, 401, 403, 404):
        assert reason == ""
    else:
        assert reason.startswith(f"{constants.ENDPOINT.split('/')[2]} answers {status} ")


@pytest.mark.parametrize("endpoint", ["", "127.0.0.1:80", "localhost:80", "ftp://x", "/mirror", "https://"])
def test_an_endpoint_that_is_no_address(monkeypatch, endpoint):
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    assert why_not_asked("x") == f"HF_ENDPOINT is {endpoint!r}, no address such as https://huggingface.co"


def test_offline(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert why_not_asked("x") == "127.0.0.1:9 cannot be reached"
    with cache_only():
        assert why_not_asked("x") == "HF_HUB_OFFLINE is set"
    assert not constants.HF_HUB_OFFLINE


def test_the_password_of_an_endpoint_is_not_said(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://me:secret@127.0.0.1:9")
    assert why_not_asked("x") == "127.0.0.1:9 cannot be reached"


@pytest.mark.parametrize("token", ["hf_ä", "hf_\x1b[31m"])
def test_a_token_that_is_none(monkeypatch, token):
    monkeypatch.setenv("HF_TOKEN", token)
    reason = why_not_asked("x")
    assert reason == "HF_TOKEN holds characters that no token has"


def test_a_proxy_is_named_without_its_password(monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HTTP_PROXY", "http://me:secret@127.0.0.1:7")
    assert why_not_asked("x") == "127.0.0.1:9 cannot be reached through the proxy 127.0.0.1:7"
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    assert why_not_asked("x") == "127.0.0.1:9 cannot be reached"


def test_a_proxy_of_a_kind_that_the_client_cannot_use(monkeypatch):
    def fail():
        raise ImportError("Using SOCKS proxy, but the 'socksio' package is not installed. Install it.")

    monkeypatch.setattr("huggingface_hub.get_session", fail)
    assert why_not_asked("x").endswith("Using SOCKS proxy, but the 'socksio' package is not installed")
