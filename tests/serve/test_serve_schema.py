"""The server keeps to its own OpenAPI, whatever is sent."""

import pytest
import schemathesis
from _serving import app_of, ask, encoded, pixels
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from ctxvision.serve import Access, open_networks
from ctxvision.serve.examples import ExampleImage

TOKEN = "0123456789abcdef"
# what conforms to the schema is an image; random bytes have tests of their own
schemathesis.openapi.format("binary", st.sampled_from([encoded(pixels(seed), kind) for seed, kind in enumerate(("PNG", "JPEG"))]))


@pytest.fixture(scope="module")
def app(checkpoints):
    networks = open_networks([f"first={checkpoints[0]}", f"second={checkpoints[1]}"])
    access = Access(TOKEN, frozenset({"testserver", "localhost"}))
    made = app_of(*networks, access=access, examples=[ExampleImage("one", encoded())])
    yield made
    made.state.service.close()


@pytest.fixture(scope="module")
def api(app):
    return schemathesis.openapi.from_asgi("/openapi.json", app)


schema = schemathesis.pytest.from_fixture("api")


@schema.parametrize()
@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_answers_are_those_of_the_schema(case):
    case.call_and_validate(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=20)


def test_every_route_of_the_api_is_described(app):
    paths = ask(app, "GET", "/openapi.json").json()["paths"]
    assert set(paths) == {"/predict", "/explain", "/models", "/examples", "/examples/{number}", "/healthz", "/metrics"}
    assert "security" not in paths["/healthz"]["get"]
    assert paths["/predict"]["post"]["security"] == [{"token": []}]
    for methods in paths.values():
        for operation in methods.values():
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert answer["content"]["application/json"]["schema"]["$ref"].endswith("/Problem")
