"""The application: routes, their OpenAPI, and the page."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from importlib.resources import files
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Path, Query
from fastapi.exceptions import RequestValidationError
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ctxvision._version import __version__
from ctxvision.foreign import json_text
from ctxvision.pages.reading import PAGES, as_html

from .guard import Guard
from .network import ExampleImage, ServedNetwork
from .schemas import Examples, ExplanationAnswer, Health, Models, Predictions, problems
from .service import Service
from .settings import Access, Limits, Refusal
from .upload import KINDS

_FILES = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/docs": ("docs.html", "text/html; charset=utf-8"),
    "/static/style.css": ("style.css", "text/css; charset=utf-8"),
    "/static/icon.svg": ("icon.svg", "image/svg+xml"),
    **{
        f"/static/{name}.js": (f"{name}.js", "text/javascript; charset=utf-8")
        for name in ("app", "docs", "facts", "panel", "scene", "taps", "theme", "tools")
    },
}
_READING = b"<!-- how to read this page -->"
_OPEN = frozenset({*_FILES, "/openapi.json", "/healthz"})
_ALWAYS = (400, 403, 421, 431, 500, 503)  # what the guard may answer to anything
_POST = (408, 413, 415, 422, 429)

TopK = Annotated[int, Query(ge=1, le=1000, description="classes of the ranking")]


def create_app(
    networks: Sequence[ServedNetwork],
    *,
    limits: Limits | None = None,
    access: Access | None = None,
    examples: Sequence[ExampleImage] = (),
) -> FastAPI:
    """Build the application; its `Service` is ``app.state.service``, whose threads have started.

    Args:
        networks: Networks to serve, at least one.
        limits: Limits on what a request may take.
        access: Rules that say who may ask; by default everybody who knows the server by a name of this machine.
        examples: Images that the page offers to try.

    Examples:
        >>> import torch
        >>> from ctxvision.data import DataSpec
        >>> from ctxvision.serve import ServedNetwork, create_app
        >>> spec = DataSpec(("cat", "dog"), (3, 32, 32), (0.5,) * 3, (0.5,) * 3)
        >>> app = create_app([ServedNetwork("mean", "mean", spec, lambda images: images.mean((2, 3))[:, :2])])
        >>> app.state.service.close()
    """
    limits, access = limits or Limits(), access or Access()
    service = Service(networks, limits, examples)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.get_running_loop().run_in_executor(None, service.close)

    app = FastAPI(
        title="ctxvision",
        version=__version__,
        description="Classifies images with context-aware networks and shows what they looked at.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        separate_input_output_schemas=False,
    )
    app.state.service = service
    app.add_middleware(Guard, service=service, access=access, open_paths=_OPEN, timeout=limits.timeout)
    _add_handlers(app, service)
    _add_api(app, service, access.token is not None)
    _add_page(app)
    if access.token is not None:
        _declare_token(app)
    return app


def _add_handlers(app: FastAPI, service: Service) -> None:
    """Let the guard write every refusal, those of the routing and of the parameters too."""

    async def not_found(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if error.status_code == 405:
            message = "not a method of this route"
            raise Refusal(405, "method", message, {k: v for k, v in (error.headers or {}).items() if k == "Allow"})
        raise Refusal(404, "no_such_route", "there is no such route; /docs lists them")

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        # our own names alone: values are not repeated
        where = ", ".join(sorted({str(part["loc"][-1]) for part in error.errors()}))
        raise Refusal(422, "parameters", f"wrong or missing: {where}; /docs says what is allowed")

    app.add_exception_handler(HTTPException, not_found)
    app.add_exception_handler(RequestValidationError, invalid)


def _add_api(app: FastAPI, service: Service, secured: bool) -> None:
    names = list(service.networks)
    Model = Annotated[str | None, Query(description="by default the first", json_schema_extra={"enum": names})]
    ClassName = Annotated[
        str | None, Query(alias="class", description="class to explain and to follow; by default the answer")
    ]
    closed = (401,) if secured else ()
    get = problems(*_ALWAYS, *closed)
    post = problems(*_ALWAYS, *closed, 404, *_POST)

    @app.post(
        "/predict",
        summary="The most probable classes of images",
        response_model=Predictions,
        responses=post,
        openapi_extra=_form(service.limits.images_per_request),
        dependencies=[Depends(_only("model", "top_k"))],
    )
    async def predict(request: Request, model: Model = None, top_k: TopK = 5) -> Response:
        return _Json(await service.predict(request, model, top_k))

    @app.post(
        "/explain",
        summary="What a network looked at: funnel, Grad-CAM, sampling offsets, kernels",
        response_model=ExplanationAnswer,
        responses=post | problems(409),
        openapi_extra=_form(1),
        dependencies=[Depends(_only("model", "class", "top_k"))],
    )
    async def explain(
        request: Request, model: Model = None, class_name: ClassName = None, top_k: TopK = 5
    ) -> Response:
        return Response(await service.explain(request, model, class_name, top_k), media_type="application/json")

    @app.get("/models", summary="The networks and their classes", response_model=Models, responses=get)
    async def models() -> Response:
        return _Json({"models": [network.describe() for network in service.networks.values()]})

    @app.get("/examples", summary="Images to try", response_model=Examples, responses=get)
    async def examples() -> Response:
        found = [{"url": f"/examples/{n}", "name": image.name} for n, image in enumerate(service.examples)]
        return _Json({"examples": found})

    @app.get(
        "/examples/{number}",
        summary="An image to try",
        response_class=Response,
        responses=get | problems(404, 422) | {200: {"description": "An image", "content": {"image/png": {}}}},
    )
    async def example(number: Annotated[int, Path(ge=0, le=10_000)]) -> Response:
        if number >= len(service.examples):
            raise Refusal(404, "no_such_example", "there is no such example; GET /examples lists them")
        return Response(service.examples[number].data, media_type="image/png")

    @app.get("/healthz", summary="Whether requests are taken", response_model=Health, responses=problems(*_ALWAYS))
    async def healthz() -> Response:
        return _Json({"status": "ok", "version": __version__})

    @app.get(
        "/metrics",
        summary="Counts, for Prometheus",
        response_class=Response,
        responses=get | {200: {"description": "Prometheus' text format", "content": {"text/plain": {}}}},
    )
    async def metrics() -> Response:
        return Response(
            generate_latest(service.metrics.registry), headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4}
        )


class _Json(JSONResponse):
    def render(self, content: Any) -> bytes:
        """Write JSON, in which names of classes may hold anything."""
        return json_text(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _only(*names: str) -> Callable[[Request], Awaitable[None]]:
    """Refuse parameters of other names: they may be misspelt."""

    async def check(request: Request) -> None:
        if set(request.query_params) - set(names):
            raise Refusal(422, "parameters", f"there are no other parameters than {', '.join(names)}")

    return check


def _form(most: int) -> dict[str, Any]:
    """Describe the form that a request carries; the routes read it themselves, with limits."""
    image = {"type": "string", "format": "binary", "description": KINDS}
    several = {"type": "array", "items": image, "minItems": 1, "maxItems": most}
    schema = {
        "type": "object",
        "properties": {"image": several if most > 1 else image},
        "required": ["image"],
        "additionalProperties": False,
    }
    return {"requestBody": {"required": True, "content": {"multipart/form-data": {"schema": schema}}}}


def _add_page(app: FastAPI) -> None:
    folder = files("ctxvision.serve") / "static"
    for path, (name, media_type) in _FILES.items():
        data = (folder / name).read_bytes().replace(_READING, as_html(PAGES["server"]).encode())

        async def route(request: Request, data: bytes = data, media_type: str = media_type) -> Response:
            return Response(data, headers={"Content-Type": media_type})

        app.add_route(path, route, methods=["GET"], include_in_schema=False)


def _declare_token(app: FastAPI) -> None:
    """Say in OpenAPI which routes need the token."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        schema = plain()
        components = schema.setdefault("components", {})
        components["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        for path, methods in schema["paths"].items():
            if path not in _OPEN:
                for operation in methods.values():
                    operation["security"] = [{"token": []}]
        return schema

    app.openapi = openapi  # type: ignore[method-assign]
