"""Full queues, deadlines, clients that go, errors inside, the end: every request gets an answer."""

import asyncio
import logging
import time

import pytest
import torch

from _serving import NAMES, Blocked, app_of, ask, client_of, encoded, plain_network

IMAGE = {"image": encoded()}


def waiting(app):
    (batcher,) = app.state.service._batchers.values()
    return batcher.depth


async def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it never happened"
        await asyncio.sleep(0.005)


@pytest.fixture
def blocked():
    compute = Blocked()
    yield compute
    compute.free.set()


def test_a_full_queue_answers_429_at_once(blocked):
    app = app_of(plain_network(blocked), batch=1, queue=2)

    async def scene():
        async with client_of(app) as client:
            taken = [asyncio.create_task(client.post("/predict", files=IMAGE))]
            await until(blocked.begun.is_set)
            taken += [asyncio.create_task(client.post("/predict", files=IMAGE)) for _ in range(2)]
            await until(lambda: waiting(app) == 2)
            refused = await client.post("/predict", files=IMAGE)
            also = await client.post("/predict", files=[("image", encoded()), ("image", encoded())])
            blocked.free.set()
            return refused, also, await asyncio.gather(*taken)

    refused, also, answers = asyncio.run(scene())
    assert refused.status_code == also.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.json()["error"] == "queue_full"
    assert [answer.status_code for answer in answers] == [200, 200, 200]
    metrics = ask(app, "GET", "/metrics").text
    assert 'ctxvision_rejected_total{reason="queue_full"} 2.0' in metrics
    app.state.service.close()


def test_a_request_of_more_images_than_the_queue_holds_is_refused_for_good(blocked):
    app = app_of(plain_network(blocked), queue=2)
    answer = ask(app, "POST", "/predict", files=[("image", encoded())] * 3)
    assert (answer.status_code, answer.json()["error"]) == (422, "too_many_images")
    app.state.service.close(0)


def test_the_deadline_ends_a_request_and_frees_its_place(blocked):
    app = app_of(plain_network(blocked), batch=1, queue=1, timeout=0.3)

    async def scene():
        async with client_of(app) as client:
            first = asyncio.create_task(client.post("/predict", files=IMAGE))
            await until(blocked.begun.is_set)
            late = [await client.post("/predict", files=IMAGE) for _ in range(2)]
            return [await first, *late]

    for answer in asyncio.run(scene()):
        assert answer.status_code == 503
        assert answer.json()["error"] == "deadline"
        assert "retry-after" in answer.headers
    blocked.free.set()
    assert ask(app, "POST", "/predict", files=IMAGE).status_code == 200
    assert blocked.batches == [1, 1], "what nobody waits for any more was computed"
    app.state.service.close()


def test_a_client_that_goes_frees_its_place(blocked):
    app = app_of(plain_network(blocked), batch=1, queue=1)
    body, kind = form(encoded())

    async def scene():
        async with client_of(app) as client:
            first = asyncio.create_task(client.post("/predict", files=IMAGE))
            await until(blocked.begun.is_set)
            gone, sent = asyncio.Event(), []
            incoming = asyncio.Queue()
            incoming.put_nowait({"type": "http.request", "body": body, "more_body": False})

            async def receive():
                if not incoming.empty():
                    return incoming.get_nowait()
                await gone.wait()
                return {"type": "http.disconnect"}

            async def send(message):
                sent.append(message)

            leaving = asyncio.create_task(app(scope(kind), receive, send))
            await until(lambda: waiting(app) == 1)
            assert (await client.post("/predict", files=IMAGE)).status_code == 429
            gone.set()
            await asyncio.wait_for(leaving, 60)
            assert sent == []
            third = asyncio.create_task(client.post("/predict", files=IMAGE))
            await until(lambda: waiting(app) == 1)
            blocked.free.set()
            return [await first, await third]

    assert [answer.status_code for answer in asyncio.run(scene())] == [200, 200]
    assert blocked.batches == [1, 1]
    assert app.state.service.in_flight == 0
    assert 'status="499"' in ask(app, "GET", "/metrics").text
    app.state.service.close()


def form(data):
    boundary = "line"
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
    return head.encode() + data + f"\r\n--{boundary}--\r\n".encode(), f"multipart/form-data; boundary={boundary}"


def scope(kind, path="/predict"):
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "headers": [(b"host", b"localhost"), (b"content-type", kind.encode())],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }


def test_a_body_that_never_ends_is_given_up(blocked):
    app = app_of(timeout=0.2)
    body, kind = form(encoded())

    async def scene():
        sent = []
        pieces = [{"type": "http.request", "body": body[:20], "more_body": True}]

        async def receive():
            if pieces:
                return pieces.pop()
            await asyncio.sleep(60)

        async def send(message):
            sent.append(message)

        await asyncio.wait_for(app(scope(kind), receive, send), 60)
        return sent[0]["status"]

    assert asyncio.run(scene()) == 408
    assert app.state.service._bytes == 0
    app.state.service.close()


def test_bodies_that_arrive_together_are_bounded():
    app = app_of(max_bytes=1000, timeout=5)
    body, kind = form(bytes(900))

    async def scene():
        more, statuses = asyncio.Event(), []

        async def one(number):
            pieces = [{"type": "http.request", "body": part, "more_body": bool(part)} for part in (b"", body)]

            async def receive():
                if len(pieces) < 2:
                    await more.wait()
                if not pieces:
                    await asyncio.sleep(60)
                return pieces.pop()

            async def send(message):
                if message["type"] == "http.response.start":
                    statuses.append(message["status"])

            await app(scope(kind), receive, send)

        tasks = [asyncio.create_task(one(number)) for number in range(12)]
        await until(lambda: len(statuses) == 12 - 8000 // len(body))
        held = app.state.service._bytes
        more.set()
        await asyncio.gather(*tasks)
        return held, statuses

    held, statuses = asyncio.run(scene())
    assert held <= 8000
    assert sorted(set(statuses)) == [415, 429], "zeros are no image"
    assert app.state.service._bytes == 0
    app.state.service.close()


def test_an_error_inside_is_a_line_for_the_client_and_a_traceback_for_the_log(caplog):
    def fail(images):
        raise RuntimeError("the secret is in /home/someone/private.py")

    app = app_of(plain_network(fail))
    with caplog.at_level(logging.ERROR, "ctxvision.serve"):
        answer = ask(app, "POST", "/predict", files=IMAGE)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "/" not in answer.json()["message"]
    assert answer.json()["request_id"] == answer.headers["x-request-id"]
    assert answer.headers["x-request-id"] in caplog.text
    assert "the secret is in" in caplog.text
    app.state.service.close()


def test_one_broken_output_does_not_harm_its_batch():
    def half(images):
        logits = torch.zeros(len(images), len(NAMES))
        logits[images.mean((1, 2, 3)) > 1] = torch.nan
        return logits

    from PIL import Image

    app = app_of(plain_network(half), max_wait_ms=100)
    white, black = (encoded(Image.new("RGB", (32, 32), color)) for color in ("white", "black"))

    async def scene():
        async with client_of(app) as client:
            posts = [client.post("/predict", files={"image": data}) for data in (white, black)]
            return [answer.status_code for answer in await asyncio.gather(*posts)]

    assert asyncio.run(scene()) == [500, 200]
    app.state.service.close()


def test_a_server_that_stops_finishes_and_refuses_what_is_new(blocked):
    app = app_of(plain_network(blocked), batch=1)

    async def scene():
        async with client_of(app) as client:
            taken = [asyncio.create_task(client.post("/predict", files=IMAGE))]
            await until(blocked.begun.is_set)
            taken.append(asyncio.create_task(client.post("/predict", files=IMAGE)))
            await until(lambda: waiting(app) == 1)
            app.state.service.stopping = True
            new = [await client.post("/predict", files=IMAGE), await client.get("/healthz")]
            blocked.free.set()
            return new, await asyncio.gather(*taken)

    new, answers = asyncio.run(scene())
    assert [answer.status_code for answer in answers] == [200, 200]
    for answer in new:
        assert (answer.status_code, answer.json()["error"]) == (503, "stopping")
        assert answer.headers["connection"] == "close"
        assert "retry-after" in answer.headers
    app.state.service.close()
