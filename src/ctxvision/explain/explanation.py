"""The parts of an explanation: arrays for each image, figures drawn of them, plain numbers for a file."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image
from torch import Tensor

from ctxvision._version import __version__
from ctxvision.foreign import json_text
from ctxvision.inference import Predictor
from ctxvision.inference.answer import ranking
from ctxvision.inference.predictor import Given, Source, read_picture
from ctxvision.plots.picture import Picture
from ctxvision.runs import RunError

from .cams import BoxCam, FrameCams, GradCam, PixelCam
from .classes import Funnel
from .kernels import Kernels
from .offsets import ContextualOffsets

if TYPE_CHECKING:
    from ctxvision.tasks import Task


SCHEMA_VERSION = 1
_TOP = 5

Drawing = Callable[[], Picture]
"""Draws a figure when it is called."""


@dataclass(frozen=True)
class ExplainedNetwork:
    """A trained network that is explained.

    Attributes:
        predictor: The network with its layers, on the device to use; it is not an exported one.
        name: The path of the network's checkpoint; empty for a network in memory.
        layer: The name of the layer for Grad-CAM; ``None`` leaves the choice to the kind of task.
        label: The name of the network in figures.
    """

    predictor: Predictor
    name: str = ""
    layer: str | None = None
    label: str = ""

    @property
    def task(self) -> "Task":
        """The task that was trained, with its network."""
        assert self.predictor.module is not None  # `explain` takes no other
        return self.predictor.module

    @property
    def class_names(self) -> list[str]:
        """Names of the classes, in the order of the network's outputs."""
        return list(self.predictor.class_names)


@dataclass(frozen=True)
class Request:
    """The request of a user: the networks to explain, and what to explain in every image.

    Attributes:
        network: The network that is explained.
        against: A second network of the same task and classes, to compare with; ``None`` if there is none.
        class_name: The name of the class to explain; ``None`` explains what the network answers or finds.
        truth: The name of the true class of all images, for a classifier; ``None`` takes the name of an image's
            folder if there is such a class.
        threshold: The lowest score, from 0 to 1, of the boxes of a detector that are explained.
    """

    network: ExplainedNetwork
    against: ExplainedNetwork | None = None
    class_name: str | None = None
    truth: str | None = None
    threshold: float = 0.5

    @property
    def networks(self) -> list[ExplainedNetwork]:
        """The network and, if there is one, the network to compare with."""
        return [self.network] if self.against is None else [self.network, self.against]


@dataclass(frozen=True)
class Preview:
    """A small picture of an image with what a network found on it.

    Attributes:
        uri: The picture as a data URI.
        alt: A text that describes the picture for readers who do not see it.
        caption: The words above the picture; empty if there are none.
        pixelated: Whether the image has so few pixels that it is best enlarged without smoothing.
    """

    uri: str
    alt: str
    caption: str = ""
    pixelated: bool = False


@dataclass(frozen=True)
class Row:
    """A row of a table of the results of a network.

    Attributes:
        name: The name of a class, with further words where the name alone is ambiguous.
        share: The probability, the score or the share of the pixels, from 0 to 1.
        color: The colour of the class in the pictures, ``#rrggbb``; empty if it has none.
    """

    name: str
    share: float
    color: str = ""


@dataclass(frozen=True)
class Table:
    """The results of one network on an image.

    Attributes:
        heading: The heading of the table, which names the rows.
        rows: The rows, the most important first.
    """

    heading: str
    rows: list[Row]


@dataclass
class ImageExplanation:
    """The explanation of one image or video: arrays first; figures are drawn when they are first asked for.

    Attributes:
        file: The name of the image or video.
        cams: The Grad-CAM of the class, of each box (``None`` where the box is not found again), of the pixels of
            each class, or of the class in each frame of a clip.
        against_cams: The Grad-CAM of the same classes, boxes, pixels or frames in the second network.
        funnel: The classes that each step considered; ``None`` for all but contextual classifiers.
        offsets: The offsets of contextual convolutions, which tell where they read the image, layer by layer.
        kernels: The kernels that involution and CoT layers generated, layer by layer.
        entry: The entry of the image in ``explain.json``, as plain values.
        previews: Small pictures of the image, or of what was found on it.
        tables: The results of each network, as tables.
        notes: Sentences about what could not be explained.
        drawings: Functions that draw the figures, which are not drawn yet.
    """

    file: str
    cams: "Sequence[GradCam | BoxCam | PixelCam | FrameCams | None]" = ()
    against_cams: "Sequence[GradCam | BoxCam | PixelCam | FrameCams | None]" = ()
    funnel: Funnel | None = None
    offsets: list[ContextualOffsets] = field(default_factory=list)
    kernels: list[Kernels] = field(default_factory=list)
    entry: dict[str, Any] = field(default_factory=dict)
    previews: list[Preview] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    drawings: list[Drawing] = field(default_factory=list)

    @cached_property
    def figures(self) -> list[Picture]:
        """The figures, in the order of the page."""
        return [draw() for draw in self.drawings]

    @property
    def numbers(self) -> dict[str, Any]:
        """The plain values that ``explain.json`` holds of the image."""
        names = [picture.file for picture in self.figures]
        return {"file": self.file, **self.entry, "notes": self.notes, "figures": names}


@dataclass
class Section:
    """The explanation of the classes as a whole, or of a data set, beyond single images.

    Attributes:
        numbers: The plain values that ``explain.json`` holds of the section.
        drawings: Functions that draw the figures, which are not drawn yet.
    """

    numbers: dict[str, Any]
    drawings: list[Drawing]

    @cached_property
    def figures(self) -> list[Picture]:
        """The figures, in the order of the page."""
        return [draw() for draw in self.drawings]


@dataclass
class Explanation:
    """The result of `explain`.

    Attributes:
        request: The request that was answered.
        images: One explanation for each image that could be read.
        sections: The explanations beyond single images, by their names in ``explain.json``; ``None`` where there
            is nothing to explain.
        bad_images: The ``path`` of each file that could not be read, and the ``reason``.
    """

    request: Request
    images: list[ImageExplanation]
    sections: dict[str, Section | None] = field(default_factory=dict)
    bad_images: list[dict[str, str]] = field(default_factory=list)

    @property
    def figures(self) -> list[Picture]:
        """All figures, in the order of the page."""
        parts: list[ImageExplanation | Section] = [*self.images, *filter(None, self.sections.values())]
        return [figure for part in parts for figure in part.figures]

    @property
    def numbers(self) -> dict[str, Any]:
        """The plain values that ``explain.json`` holds."""
        network, against = self.request.network, self.request.against
        spec = network.task.data_spec
        return {
            "schema_version": SCHEMA_VERSION,
            "ctxvision": __version__,
            "task": network.task.kind,
            "checkpoint": network.name,
            "model": network.predictor.model_name,
            "parameters": sum(p.numel() for p in network.task.model.parameters()),
            "class_names": network.class_names,
            **({"input_size": list(spec["input_size"])} if network.task.kind == "classification" else {}),
            "against": against and {"checkpoint": against.name, "model": against.predictor.model_name},
            "labels": [one.label for one in self.request.networks],
            "has_funnel": any(image.funnel is not None for image in self.images),
            "images": [image.numbers for image in self.images],
            **{name: section and section.numbers for name, section in self.sections.items()},
            "figures": [
                {"file": f"figures/{figure.file}", "title": figure.title, "alt": figure.alt}
                for figure in self.figures
            ],
            "bad_images": self.bad_images,
        }

    def files(self) -> dict[str, bytes]:
        """Return the contents of ``explain.json`` and of every figure, by the name of the file."""
        files = {f"figures/{figure.file}": figure.data for figure in self.figures}
        files["explain.json"] = (json_text(self.numbers, indent=1, allow_nan=False) + "\n").encode()
        return files


class TaskExplainer(ABC):
    """Explains images one by one; each kind of task has its own, ``Explainer`` in its module of this package.

    Args:
        request: The request, whose networks are of this kind of task.
    """

    def __init__(self, request: Request) -> None:
        self.request = request

    @abstractmethod
    def look(self, source: Given, file: str, name: str) -> ImageExplanation:
        """Explain one image.

        Args:
            source: The image or video, as a predictor takes it.
            file: The name of the image in the explanation.
            name: The beginning of the names of its figures.

        Returns:
            The explanation of the image.

        Raises:
            BadImageError: The image cannot be read.
            RunError: An output of a network is NaN or infinite.
            LayerError: The layer that was asked for cannot be used.
        """

    def pictures(self, source: Given) -> list[Image.Image]:
        """Read an image once for each network, in the mode that the network takes."""
        specs: list[Any] = [network.predictor.data_spec for network in self.request.networks]
        return [read_picture(cast(Source, source), spec.color_mode) for spec in specs]


def require_finite(outputs: Mapping[str, Tensor] | Tensor, file: str) -> None:
    """Raise an error if an output of a network for an image is not a finite number.

    Args:
        outputs: The output of a network, of any shape, or several outputs by name.
        file: The name of the image, for the message.

    Raises:
        RunError: An output is NaN or infinite.
    """
    tensors = outputs.values() if isinstance(outputs, Mapping) else [outputs]
    if not all(bool(tensor.isfinite().all()) for tensor in tensors):
        raise RunError(f"{file}: the output of the network is NaN or infinite; its weights are broken")


def ranked(chances: np.ndarray, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the five most probable classes of probabilities (num_classes,), in the form of ``explain.json``."""
    return [one.to_dict() for one in ranking(chances, names, _TOP)]
