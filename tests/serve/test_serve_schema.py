"""The server keeps to its own OpenAPI, whatever is sent."""

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from _serving import app_of, ask, encoded, pixels
from ctxvision.serve import Access, open_networks
from ctxvision.serve.network import ExampleImage

pytestmark = pytest.mark.slow

TOKEN = "0123456789abcdef"
# what conforms to the schema is an image; random bytes have tests of their own
schemathesis.openapi.format(
    "binary", st.sampled_from([encoded(pixels(seed), kind) for seed, kind in enumerate(("PNG", "JPEG"))])
)


@pytest.fixture(scope="module")
def app(checkpoints):
    networks = open_networks([f"first={checkpoints[0]}", f"second={checkpoints[1]}"])
    access = Access(TOKEN, frozenset({"testserver", "localhost"}))
    made = app_of(*networks, access=access, examples=[ExampleImage("one", encoded())])
    yield made
    made.state.service.close()


@pytest.fixture(scope="module")
def api(app):
    return api_of(app)


@pytest.fixture(scope="module")
def open_api(checkpoints):
    """Without a token, so that what is refused is refused for what it says."""
    made = app_of(*open_networks([str(checkpoints[1])]), access=Access(None, frozenset({"testserver"})))
    yield api_of(made)
    made.state.service.close()


def api_of(app):
    async def never_ending(scope, receive, send):
        """Let no lifespan end the threads: schemathesis begins one for each request."""
        if scope["type"] == "http":
            return await app(scope, receive, send)
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return None

    return schemathesis.openapi.from_asgi("/openapi.json", never_ending)


ROUTES = [
    ("POST", "/predict"),
    ("POST", "/explain"),
    ("GET", "/models"),
    ("GET", "/examples"),
    ("GET", "/examples/{number}"),
    ("GET", "/healthz"),
    ("GET", "/metrics"),
]
RIGHT, WRONG = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE


@pytest.mark.parametrize(
    ("method", "path", "mode", "examples"),
    [(*route, RIGHT, 12) for route in ROUTES]
    + [("POST", "/predict", WRONG, 25), ("POST", "/explain", WRONG, 15), ("GET", "/examples/{number}", WRONG, 15)],
)
def test_answers_are_those_of_the_schema(api, open_api, method, path, mode, examples):
    """Status, headers and body of every answer are declared; right requests are taken, wrong ones refused."""

    @settings(max_examples=examples, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    @given(case=(api if mode is RIGHT else open_api)[path][method].as_strategy(generation_mode=mode))
    def call(case):
        headers = {"Authorization": f"Bearer {TOKEN}"} if mode is RIGHT else {}
        statuses.add(case.call_and_validate(headers=headers, timeout=60).status_code)

    statuses = set()
    call()
    # of the numbers of examples, most are of none
    expected = {RIGHT: {200, 404} if "{" in path else {200}, WRONG: {400, 404, 405, 415, 422}}[mode]
    assert statuses
    assert statuses <= expected | ({404} if method == "POST" else set())


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS"])
@pytest.mark.parametrize("path", ["/predict", "/models"])
def test_other_methods(app, method, path):
    answer = ask(app, method, path, headers={"authorization": f"Bearer {TOKEN}"})
    assert (answer.status_code, answer.json()["error"]) == (405, "method")
    assert answer.headers["allow"] == ("POST" if path == "/predict" else "GET")


def test_every_route_of_the_api_is_described(app):
    paths = ask(app, "GET", "/openapi.json").json()["paths"]
    assert set(paths) == {
        "/predict",
        "/explain",
        "/models",
        "/examples",
        "/examples/{number}",
        "/healthz",
        "/metrics",
    }
    assert "security" not in paths["/healthz"]["get"]
    assert paths["/predict"]["post"]["security"] == [{"token": []}]
    for methods in paths.values():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/Problem")
