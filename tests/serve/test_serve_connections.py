"""Connections that hold a place: half a head, answers that nobody reads."""

import asyncio
import contextlib
import gc
import socket

import pytest
import uvicorn

from _serving import app_of
from ctxvision.serve import server as serving

HEALTH = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    for name in ("_HEAD_SECONDS", "_IDLE_SECONDS", "_FLUSH_SECONDS"):
        monkeypatch.setattr(serving, name, 0.2)


def serving_to(scene, **limits):
    """Run a client's coroutine beside the server; it gets the port and what says how many are connected."""
    app = app_of(**limits)

    async def both():
        bound = serving.bind("127.0.0.1", 0)
        settings = {"log_config": None, "access_log": False, "ws": "none", "timeout_keep_alive": 60}
        server = uvicorn.Server(uvicorn.Config(app, http=serving.Protocol, loop="asyncio", **settings))
        task = asyncio.create_task(server.serve([bound]))
        while not server.started:
            await asyncio.sleep(0.01)
        try:
            await asyncio.wait_for(scene(bound.getsockname()[1], lambda: len(server.server_state.connections)), 60)
        finally:
            server.should_exit = True
            await task
            bound.close()

    asyncio.run(both())
    app.state.service.close()


@pytest.mark.parametrize("requests", [0, 1, 2])
def test_half_a_head_does_not_keep_a_place(requests):
    async def scene(port, connected):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(requests):
            writer.write(HEALTH)
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
        writer.write(b"GET /heal")
        assert await reader.read() == b""
        assert connected() == 0
        writer.close()

    serving_to(scene)


def test_half_a_head_behind_a_whole_request_in_one_piece():
    async def scene(port, connected):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(HEALTH + HEALTH + b"GET /heal")
        assert (await reader.read()).count(b"200 OK") == 2
        writer.close()

    serving_to(scene)


def test_a_request_after_a_pause_is_answered(monkeypatch):
    monkeypatch.setattr(serving, "_IDLE_SECONDS", 5)

    async def scene(port, connected):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(3):
            writer.write(HEALTH)
            assert (await reader.readuntil(b"}")).startswith(b"HTTP/1.1 200")
            await asyncio.sleep(0.5)  # longer than a head may take
        writer.close()

    serving_to(scene)


def test_answers_that_nobody_reads_end_the_connection(caplog):
    async def scene(port, connected):
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
        client.connect(("127.0.0.1", port))
        client.setblocking(False)
        loop = asyncio.get_running_loop()
        request = b"GET /static/style.css HTTP/1.1\r\nHost: localhost\r\n\r\n"
        with contextlib.suppress(asyncio.TimeoutError, ConnectionError):
            await asyncio.wait_for(loop.sock_sendall(client, 20_000 * request), 1)
        while connected():
            await asyncio.sleep(0.05)
        client.close()

    serving_to(scene, timeout=2)
    assert "Traceback" not in caplog.text


def test_what_was_loaded_is_not_looked_through_while_answering(monkeypatch):
    seen = []
    monkeypatch.setattr(serving.Server, "run", lambda self, sockets: seen.append(gc.get_freeze_count()))
    monkeypatch.setattr(serving.Image, "MAX_IMAGE_PIXELS", serving.Image.MAX_IMAGE_PIXELS)
    app, before = app_of(), gc.get_freeze_count()
    with serving.bind("127.0.0.1", 0) as bound:
        serving.serve(app, bound, lambda: None)
    app.state.service.close()
    assert seen[0] > before + 100_000
    assert gc.get_freeze_count() == 0
