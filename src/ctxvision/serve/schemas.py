"""What the answers look like, for OpenAPI."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class Problem(_Answer):
    """Why a request was refused, or that it failed."""

    error: str = Field(description="a word for programs")
    message: str = Field(description="a line for people")
    request_id: str = Field(description="as in the header X-Request-Id and in the server's log")


class Ranked(_Answer):
    """A class and its probability."""

    class_name: str = Field(alias="class")
    probability: float = Field(ge=0, le=1.000001)


class Predictions(_Answer):
    """One ranking for each image, in their order, the most probable class first."""

    model: str
    predictions: list[list[Ranked]]


class ServedModel(_Answer):
    """A network."""

    name: str
    model: str = Field(description="registered name")
    class_names: list[str]
    input_size: list[int] = Field(description="channels, height, width")
    explains: bool = Field(description="whether /explain takes it; exported files are not explained")
    contextual: bool = Field(description="whether it has a class funnel")
    offsets: bool = Field(description="whether it has contextual convolutions")


class Models(_Answer):
    """The networks; requests that name none ask the first."""

    models: list[ServedModel]


class Health(_Answer):
    """Whether requests are taken."""

    status: Literal["ok"]
    version: str


class Example(_Answer):
    """An image to try."""

    url: str
    name: str


class Examples(_Answer):
    """Images to try."""

    examples: list[Example]


class StageClass(_Answer):
    """A class at a step of the funnel."""

    class_name: str = Field(alias="class")
    score: float = Field(description="cosine similarity")
    kept: bool


class StageStep(_Answer):
    """A step of the funnel: all classes that were scored, best first."""

    name: str
    rank: int | None = Field(description="place of the class that is followed, from 1; null if it was dropped")
    classes: list[StageClass]


class FunnelAnswer(_Answer):
    """Which classes each stage kept."""

    followed: str
    stages: list[StageStep]


class CamAnswer(_Answer):
    """Grad-CAM: what speaks for a class."""

    class_name: str = Field(alias="class")
    probability: float
    layer: str
    size: list[int] = Field(description="positions of the layer, height and width")
    scored_by: str | None = Field(description="of contextual networks, the step that scored the class last")
    map: list[list[float]] = Field(description="at the layer, positive where the features speak for the class")
    picture: str = Field(
        description="the map, scaled to the view and to its highest value, as the data URI of a PNG"
    )


class OffsetLayer(_Answer):
    """Where the taps of a contextual convolution read, in pixels of the view."""

    stage: int
    layer: str
    kernel: list[int]
    size: list[int] = Field(description="output positions, height and width")
    rows: list[list[float]] = Field(
        description="(kernel height, positions): tap (i, j) of a plain convolution reads at y = rows[i][r] for "
        "the output position (r, c)"
    )
    columns: list[list[float]] = Field(description="(kernel width, positions): and at x = columns[j][c]")
    scale: float = Field(description="pixels of a unit of moves")
    moves: str = Field(
        description="base64 of little-endian int16 (kernel height × width, height, width, 2): how far each tap is "
        "from its plain place, (y, x), in units of scale"
    )
    mean_distance: float = Field(description="of the taps from their plain places, pixels")
    largest_distance: float
    kernel_change: float | None = Field(description="norm of the weight offsets over the norm of the kernel")


class KernelLayer(_Answer):
    """The kernels of an involution layer, or the attention of a CoT layer, at every place of this image."""

    stage: int
    layer: str
    kind: Literal["attention", "involution"]
    kernel: list[int]
    size: list[int] = Field(description="places, height and width")
    rows: list[list[float]] = Field(
        description="(kernel height, places): tap (i, j) of the place (r, c) reads at y = rows[i][r], pixels "
        "of the view"
    )
    columns: list[list[float]] = Field(description="(kernel width, places): and at x = columns[j][c]")
    groups: list[int] = Field(description="the groups of channels whose kernels are here, from 1")
    of_groups: int = Field(description="groups of the layer")
    scale: float = Field(description="the weight of a unit of weights")
    weights: str = Field(
        description="base64 of int8 (groups, kernel height × width, height, width): the weights of the taps, in "
        "units of scale"
    )
    static: list[list[float]] | None = Field(
        description="of attention: strength of the static context at every place"
    )
    dynamic: list[list[float]] | None = Field(description="of attention: strength of the dynamic context")
    dynamic_share: float | None = Field(
        description="of attention: the weight of the dynamic context in the fusion, mean over the channels; null "
        "where the two are not weighed"
    )


class ExplanationAnswer(_Answer):
    """What the network looked at."""

    model: str
    view: str = Field(description="what the network saw, as a data URI; heat map and offsets refer to it")
    view_size: list[int] = Field(description="height and width of what the network saw, pixels")
    scaled_to: list[int] = Field(
        description="height and width that the image was scaled to cover, pixels; the view is cut from its middle"
    )
    predictions: list[Ranked]
    grad_cam: CamAnswer | None = Field(description="null for networks without maps")
    funnel: FunnelAnswer | None = Field(description="null for networks that weigh all classes at once")
    offsets: list[OffsetLayer] = Field(description="the last contextual convolution of each stage")
    kernels: list[KernelLayer] = Field(description="the last involution or CoT layer of each stage")


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Declare answers that are a `Problem`."""
    return {status: {"model": Problem, "description": _MEANINGS[status]} for status in statuses}


_MEANINGS = {
    400: "Malformed request",
    401: "No token, or a wrong one",
    403: "From another site",
    404: "There is no such thing",
    405: "Not a method of this route",
    408: "The request did not arrive in time",
    409: "An exported network, which cannot be explained",
    413: "Too many bytes or pixels",
    415: "Not a form, or not an image",
    421: "Host header of another server",
    422: "Wrong parameters, a damaged image, or too many images",
    429: "The queue is full; try again after Retry-After seconds",
    431: "The head of the request is too long",
    500: "The server failed; its log says why",
    503: "Stopping, or the deadline has passed",
}
