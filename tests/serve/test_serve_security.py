"""What strangers may try: each attempt ends in a clear 4xx, and nothing of it comes back."""

import re
import struct
import zlib

import httpx
import pytest
from PIL import Image

from _serving import app_of, ask, encoded, exchange, pixels, plain_network
from ctxvision.serve import Access, Limits, ServeError, access_for

TOKEN = "0123456789abcdef"


@pytest.fixture(scope="module")
def app():
    made = app_of(max_bytes=20_000, max_pixels=10_000)
    yield made
    made.state.service.close()


@pytest.fixture(scope="module")
def locked():
    made = app_of(access=Access(TOKEN))
    yield made
    made.state.service.close()


def refused(answer, status, code):
    assert answer.status_code == status, answer.text
    found = answer.json()
    assert set(found) == {"error", "message", "request_id"}
    assert found["error"] == code
    assert not re.search(r"Traceback|File \"|\.py|/tmp|/usr|/root|<_io", found["message"])
    return found["message"]


def send(app, data, path="/predict", **options):
    return ask(app, "POST", path, files={"image": ("name.png", data, "image/png")}, **options)


def png_claiming(width, height):
    """A PNG whose header claims a size that its few bytes do not hold."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(bytes(1000)))
        + chunk(b"IEND", b"")
    )


# images


@pytest.mark.parametrize("size", [(30_000, 30_000), (101, 100), (2**31 - 1, 2**31 - 1)])
def test_too_many_pixels_are_refused_by_the_header(app, size, monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("it was decoded"))
    refused(send(app, png_claiming(*size)), 413, "too_many_pixels")


def test_a_bomb_of_zeros_is_never_blown_up(app):
    bomb = encoded(Image.new("1", (12_000, 12_000)), "PNG")
    assert len(bomb) < 20_000
    refused(send(app, bomb), 413, "too_many_pixels")


def test_a_gif_with_a_large_canvas_and_a_small_frame(app):
    data = bytearray(encoded(pixels(), "GIF"))
    data[6:10] = struct.pack("<HH", 60_000, 60_000)
    refused(send(app, bytes(data)), 413, "too_many_pixels")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_truncated_files(app, kind, share):
    data = encoded(kind=kind)
    answer = send(app, data[: int(len(data) * share)])
    assert answer.status_code in (415, 422)
    refused(answer, answer.status_code, answer.json()["error"])


@pytest.mark.parametrize(
    "data",
    [
        b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 1 1\n",
        b"\x80\x04cos\nsystem\n(S'true'\ntR.",
        b"PK\x03\x04" + bytes(100),
        b"P6 1 1 255\n\0\0\0",
        b"II*\0" + bytes(100),
        bytes(100),
        b"x",
    ],
    ids=["svg", "eps", "pickle", "zip", "pnm", "tiff", "zeros", "letter"],
)
def test_what_is_no_image_of_the_kinds_taken(app, data):
    refused(send(app, data), 415, "not_an_image")


def test_a_polyglot_is_what_the_decoder_says_and_is_not_sent_back(app):
    script = b"<script>alert(1)</script>"
    (row,) = send(app, encoded() + script).json()["predictions"]
    assert row
    answer = send(app, encoded() + script, "/predict")
    assert script not in answer.content
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["x-content-type-options"] == "nosniff"
    refused(send(app, script + encoded()), 415, "not_an_image")


def test_sides_that_would_be_resized_to_gigabytes(app):
    refused(send(app, encoded(Image.new("L", (9_000, 1)))), 422, "bad_image")


def test_names_and_types_of_files_are_neither_believed_nor_repeated(app):
    name = "../../etc/passwd<img src=x>.exe"
    answer = ask(app, "POST", "/predict", files={"image": (name, encoded(), "text/html")})
    assert answer.status_code == 200
    assert "passwd" not in answer.text
    assert "passwd" not in ask(app, "POST", "/predict", files={"image": (name, b"x", "text/html")}).text


# forms


def form(*parts, end=b"--line--\r\n"):
    return b"".join(b"--line\r\n" + part + b"\r\n" for part in parts) + end


IMAGE = b'Content-Disposition: form-data; name="image"; filename="a"\r\n\r\n'


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"", 400, "malformed"),
        (b"no form at all", 400, "malformed"),
        (form(IMAGE + b"data", end=b""), 400, "malformed"),
        (form(IMAGE + b"data", end=b"--li"), 400, "malformed"),
        (b"--line\r\nno colon here\r\n\r\nx\r\n--line--\r\n", 400, "malformed"),
        (form(b"X: " + b"y" * 5000 + b"\r\n" + IMAGE + b"data"), 400, "malformed"),
        (form(b"".join(b"X%d: y\r\n" % n for n in range(100)) + IMAGE + b"data"), 400, "malformed"),
        (form(b"Content-Disposition: form-data\r\n\r\ndata"), 422, "unknown_part"),
        (form(b'Content-Disposition: form-data; name="other"\r\n\r\ndata'), 422, "unknown_part"),
        (form(b'Content-Disposition: attachment; name="image"\r\n\r\ndata'), 422, "unknown_part"),
        (form(b"Content-Type: text/plain\r\n\r\ndata"), 422, "unknown_part"),
        (form(IMAGE), 422, "no_image"),
        (form(*[IMAGE + b"x"] * 17), 422, "too_many_images"),
    ],
)
def test_malformed_forms(app, body, status, code):
    headers = {"content-type": "multipart/form-data; boundary=line"}
    answer = ask(app, "POST", "/predict", content=body, headers=headers)
    refused(answer, status, code)


@pytest.mark.parametrize(
    ("kind", "status", "code"),
    [
        ("application/json", 415, "not_a_form"),
        ("application/x-python-pickle", 415, "not_a_form"),
        ("image/png", 415, "not_a_form"),
        ("multipart/mixed; boundary=line", 415, "not_a_form"),
        ("multipart/form-data", 400, "malformed"),
        ("multipart/form-data; boundary=" + "a" * 300, 400, "malformed"),
        ('multipart/form-data; boundary=""', 400, "malformed"),
    ],
)
def test_wrong_types_of_body(app, kind, status, code):
    answer = ask(app, "POST", "/predict", content=form(IMAGE + encoded()), headers={"content-type": kind})
    refused(answer, status, code)


def test_explain_takes_one_image(app):
    made = app_of(plain_network())
    files = [("image", encoded())] * 2
    assert ask(made, "POST", "/explain", files=files).status_code == 409  # it has no checkpoint
    made.state.service.close()


# sizes


def test_a_body_that_says_it_is_too_long_is_not_read(app):
    headers = {"content-type": "multipart/form-data; boundary=line", "content-length": "20001"}
    answer = ask(app, "POST", "/predict", content=iter_of(b"x"), headers=headers)
    assert refused(answer, 413, "too_large") == "the request has more than 20000 bytes"


def iter_of(*pieces):
    async def pieces_of():
        for piece in pieces:
            yield piece

    return pieces_of()


def test_a_body_without_length_is_cut_at_the_limit(app):
    taken = []

    async def endless():
        while True:
            taken.append(1)
            assert len(taken) < 100
            yield bytes(1000)

    headers = {"content-type": "multipart/form-data; boundary=line"}
    refused(ask(app, "POST", "/predict", content=endless(), headers=headers), 413, "too_large")
    assert len(taken) == 21


# who may ask


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil", ""]
)
def test_other_host_names_are_refused_against_rebinding(app, host):
    refused(ask(app, "GET", "/models", headers={"host": host}), 421, "wrong_host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000"])
def test_names_of_this_machine(app, host):
    assert ask(app, "GET", "/models", headers={"host": host}).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "https://localhost:9999", "http://localhost@evil.example"]
)
@pytest.mark.parametrize("method", ["POST", "GET"])
def test_pages_of_other_sites_are_refused(app, origin, method):
    answer = ask(app, method, "/predict", files={"image": encoded()}, headers={"origin": origin})
    refused(answer, 403, "other_origin")
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_own_page_is_not(app):
    for headers in ({"origin": "http://localhost"}, {"sec-fetch-site": "same-origin"}, {"sec-fetch-site": "none"}):
        assert send(app, encoded(), headers=headers).status_code == 200


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_forms_of_other_sites_without_origin(app, site):
    refused(send(app, encoded(), headers={"sec-fetch-site": site}), 403, "other_origin")


@pytest.mark.parametrize(
    "given",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        f"Basic {TOKEN}",
        f"Bearer {TOKEN}x",
        f"Bearer {TOKEN[:-1]}",
        TOKEN,
        "Bearer é",
    ],
)
def test_no_token_no_answer(locked, given):
    headers = {} if given is None else {"authorization": given.encode()}
    for method, path in (("POST", "/predict"), ("POST", "/explain"), ("GET", "/models"), ("GET", "/metrics")):
        answer = ask(locked, method, path, headers=headers)
        refused(answer, 401, "no_token")
        assert answer.headers["www-authenticate"] == "Bearer"


def test_with_the_token(locked):
    headers = {"authorization": f"Bearer {TOKEN}"}
    assert send(locked, encoded(), headers=headers).status_code == 200
    assert ask(locked, "GET", "/examples", headers=headers).status_code == 200


def test_what_needs_no_token_holds_nothing_secret(locked):
    for path in ("/", "/docs", "/openapi.json", "/healthz", "/static/app.js"):
        answer = ask(locked, "GET", path)
        assert answer.status_code == 200
        assert TOKEN not in answer.text
    assert ask(locked, "GET", "/static/../app.py").status_code in (401, 404)


def test_who_may_bind_to_what():
    assert access_for("127.0.0.1", None, (), False).hosts == {"127.0.0.1", "localhost", "[::1]"}
    assert access_for("::1", None, (), False).token is None
    assert access_for("0.0.0.0", TOKEN, (), False) == Access(TOKEN, None)
    assert access_for("0.0.0.0", None, (), True) == Access(None, None)
    assert access_for("0.0.0.0", TOKEN, ("Vision.example",), False).hosts == {"vision.example", "0.0.0.0"}
    for host in ("0.0.0.0", "::", "192.168.1.2", "vision.example", ""):
        with pytest.raises(ServeError, match="other machines could use this server"):
            access_for(host, None, (), False)
    for token in ("short", "with spaces in between", "ümlaut-ümlaut-ümlaut"):
        with pytest.raises(ServeError, match="at least 16 characters"):
            Access(token)


@pytest.mark.parametrize("limit", ["max_bytes", "max_pixels", "batch", "queue", "timeout"])
def test_limits_that_let_nothing_pass(limit):
    with pytest.raises(ServeError, match=limit):
        Limits(**{limit: 0})


# answers


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/"), ("GET", "/docs"), ("GET", "/openapi.json"), ("GET", "/models"), ("GET", "/nothing"),
     ("DELETE", "/predict"), ("POST", "/predict"), ("GET", "/static/app.js")],
)  # fmt: skip
def test_strict_headers_on_every_answer(app, method, path):
    headers = ask(app, method, path).headers
    policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert "unsafe" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cache-control"] == "no-store"
    assert "server" not in headers


def test_pages_hold_no_inline_code_and_no_outside_resources(app):
    for path in ("/", "/docs"):
        text = ask(app, "GET", path).text
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son\w+=|https?://", text)
        for target in re.findall(r'(?:src|href)="(/[^"#]*)"', text):
            assert ask(app, "GET", target).status_code == 200


def test_values_of_parameters_are_not_repeated(app):
    message = refused(send(app, encoded(), "/predict?top_k=<b>x</b>"), 422, "parameters")
    assert "<b>" not in message
    assert "top_k" in message
    assert "top" not in refused(send(app, encoded(), "/predict?topk=3"), 422, "parameters").replace("top_k", "")
    assert "%3C" not in refused(send(app, encoded(), "/predict?model=%3Cb%3E"), 404, "no_such_model")
    assert "<b>" not in ask(app, "GET", "/<b>").text


# on the wire


def test_a_head_that_is_too_long(app):
    refused(ask(app, "GET", "/models", headers={"x": "y" * 20_000}), 431, "head_too_large")


@pytest.mark.process
@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 2_000_000,
        b"\x16\x03\x01\x02\x00\x01" + bytes(100) + b"\r\n\r\n",
    ],
    ids=["endless", "tls"],
)
def test_what_is_no_http_is_refused_in_json(server, data):
    head, _, body = exchange(server, data).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"nosniff" in head
    assert httpx.Response(400, content=body).json()["error"] == "malformed"


@pytest.mark.process
def test_chunks_without_end_are_refused_on_the_wire(server):
    head = (
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n"
        b"Content-Type: multipart/form-data; boundary=line\r\n\r\n"
    )
    piece = b"8000\r\n" + bytes(0x8000) + b"\r\n"
    answer = exchange(server, head, *[piece] * 10)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"too_large" in answer


@pytest.mark.process
def test_conflicting_lengths_are_refused(server):
    head = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nabcdef"
    assert exchange(server, head).startswith(b"HTTP/1.1 400 ")
