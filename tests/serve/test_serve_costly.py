"""Images that cost far more than their bytes and pixels say, and work that nobody waits for any more."""

import asyncio
import os
import struct
import threading
import time

import numpy as np
import pytest
import torch
from PIL import Image

from _serving import SPEC, app_of, ask, client_of, encoded, pixels
from ctxvision.data import BadImageError, read_image
from ctxvision.serve import service, upload
from ctxvision.serve.network import of_folder, open_networks
from ctxvision.serve.settings import Refusal


def bmp(width, codes):
    """A grey BMP one pixel high, run-length coded."""
    palette = b"".join(bytes((i, i, i, 0)) for i in range(256))
    start = 14 + 40 + len(palette)
    head = struct.pack("<IiiHHIIiiII", 40, width, 1, 1, 8, 1, len(codes), 2835, 2835, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(codes), 0, 0, start) + head + palette + codes


def with_scans(data, count):
    """Repeat the last scan of a progressive JPEG until it has so many."""
    last = data.rindex(b"\xff\xda")
    have = data.count(b"\xff\xda")
    return data[:last] + (count - have + 1) * data[last:-2] + data[-2:]


def photograph():
    return np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)


def send(app, data):
    return ask(app, "POST", "/predict", files={"image": data})


@pytest.fixture(scope="module")
def app():
    made = app_of()
    yield made
    made.state.service.close()


@pytest.mark.parametrize("codes", [b"\x00\x02\xff\xff\x00\x01", b"\x40\x07\x00\x01"])
def test_run_length_coded_bmps_are_refused_before_they_are_decoded(app, codes, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    answer = send(app, bmp(64, codes))
    assert (answer.status_code, answer.json()["error"]) == (415, "run_length_bmp")


def test_other_bmps_are_taken(app):
    for mode in ("RGB", "L", "P", "1"):
        assert send(app, encoded(pixels().convert(mode), "BMP")).status_code == 200


@pytest.mark.parametrize("subsampling", [0, 2])
def test_scans_are_counted_and_bounded(app, subsampling):
    image = Image.fromarray(photograph())
    plain = encoded(image, "JPEG", quality=95, subsampling=subsampling)
    progressive = encoded(image, "JPEG", quality=95, subsampling=subsampling, progressive=True)
    assert upload._scans(plain) == 1
    assert upload._scans(progressive) == progressive.count(b"\xff\xda") > 5
    assert upload._scans(plain + 500 * b"\xff\xda\x00\x02") == 1  # after the image's end
    inside = plain[:2] + b"\xff\xe5" + struct.pack(">H", 2 + 1200) + 300 * b"\xff\xda\x00\x02" + plain[2:]
    assert upload._scans(inside) == 1  # inside another segment
    assert send(app, inside).status_code == 200
    assert send(app, with_scans(progressive, 100)).status_code == 200
    answer = send(app, with_scans(progressive, 101))
    assert (answer.status_code, answer.json()["error"]) == (422, "too_many_scans")


def test_narrow_images_are_refused_before_they_are_decoded(monkeypatch, tmp_path):
    Image.new("L", (402, 2)).save(tmp_path / "narrow.png")
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("it was decoded"))
    with pytest.raises(BadImageError, match="402 × 2 are more unequal than 200 : 1"):
        read_image(tmp_path / "narrow.png")


@pytest.mark.parametrize("values", [[0, 128, 129, 32768, 65535]])
def test_16_bits_become_8_by_rounding(values, tmp_path):
    Image.fromarray(np.array([values], dtype=np.uint16)).save(tmp_path / "deep.png")
    expected = [round(value / 257) for value in values]
    assert np.asarray(read_image(tmp_path / "deep.png", "L")).tolist() == [expected]


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP"])
def test_decoding_ends_when_nobody_wants_it(kind):
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    calls = []

    def watch():
        calls.append(None)
        if len(calls) > 6:
            raise Refusal(503, "deadline", "too late")

    with pytest.raises(Refusal, match="too late"):
        upload.decode(encoded(Image.fromarray(noise), kind), SPEC, 10**6, watch)


class Slow:
    """Stands for a decoder that takes long, and looks now and then whether it should end."""

    def __init__(self):
        self.begun, self.free, self.ended = threading.Event(), threading.Event(), []

    def __call__(self, data, spec, max_pixels, watch):
        self.begun.set()
        while not self.free.wait(0.01):
            try:
                watch()
            except Refusal:
                self.ended.append(True)
                if len(self.ended) == 1:  # the first is stuck in one piece of its work
                    self.free.wait(30)
                raise
        return torch.zeros(spec.input_size)


def test_bytes_count_until_a_thread_has_let_go_of_them(monkeypatch):
    decoder = Slow()
    monkeypatch.setattr(service, "decode", decoder)
    app = app_of(timeout=2.0, decoders=1)
    held = app.state.service

    async def scene():
        async with client_of(app) as client:
            first = asyncio.create_task(client.post("/predict", files={"image": encoded()}))
            while not decoder.begun.is_set():
                await asyncio.sleep(0.01)
            one = held._bytes
            late = await client.post("/predict", files={"image": encoded()})
            assert late.status_code == (await first).status_code == 503
            await asyncio.sleep(0.05)
            # the queued one has left; the running one still has its bytes and its place
            assert (held._bytes, held._decoding) == (one, 1)
            assert one > 0
            decoder.free.set()
            end = time.monotonic() + 60
            while held._bytes or held._decoding:
                assert time.monotonic() < end
                await asyncio.sleep(0.01)
            assert (await client.post("/predict", files={"image": encoded()})).status_code == 200

    asyncio.run(scene())
    # what waits in the executor's queue holds no bodies
    assert not held._bytes
    held.close()


def test_paths_may_hold_equals_signs(checkpoints, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.mkdir("lr=0.1")
    os.link(checkpoints[1], "lr=0.1/epoch=3.ckpt")
    named, unnamed = open_networks(["a=lr=0.1/epoch=3.ckpt", "lr=0.1/epoch=3.ckpt"])
    assert (named.name, unnamed.name) == ("a", "test_resnet")


def test_examples_may_have_any_file_name(tmp_path):
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(path, "wb") as file:
        file.write(encoded())
    app = app_of(examples=of_folder(str(tmp_path)))
    assert ask(app, "GET", "/examples").json()["examples"][0]["name"] == "caf?"
    app.state.service.close()
