"""What `ctxvision explain` says about detectors, segmentation networks and video networks."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ctxvision._version import __version__
from ctxvision.tasks import Task

from .explanation import SCHEMA_VERSION
from .explanation_classes import network_labels
from .pictures import Picture


@dataclass(frozen=True)
class Shot:
    """A small picture at the head of an image's part of the page.

    Attributes:
        uri: data URI.
        alt: what it shows, for readers who do not see it.
        caption: below it.
    """

    uri: str
    alt: str
    caption: str = ""


@dataclass(frozen=True)
class Finding:
    """A row of the table of what was found.

    Attributes:
        name: of a class, and more.
        share: from 0 to 1.
        color: of it in the pictures, ``#rrggbb``; empty without.
    """

    name: str
    share: float
    color: str = ""


@dataclass
class Sample:
    """One image or video.

    Attributes:
        entry: plain Python values, for ``explain.json``.
        shots: what was found, drawn.
        findings: rows of a table.
        heading: of that table.
        notes: sentences on what could not be explained.
        pictures: the figures.
    """

    entry: dict[str, Any]
    heading: str
    shots: list[Shot] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pictures: list[Picture] = field(default_factory=list)


@dataclass(frozen=True)
class Network:
    """A trained network and how to look at it.

    Attributes:
        checkpoint: what the user calls it.
        task: on the device to use.
        layer: for Grad-CAM; ``None`` chooses.
    """

    checkpoint: str
    task: Any
    layer: str | None = None

    @property
    def names(self) -> list[str]:
        """Its classes."""
        return list(self.task.data_spec["class_names"])


@dataclass(frozen=True)
class PartsExplanation:
    """All that a page shows.

    Attributes:
        numbers: what ``explain.json`` holds.
        samples: in the order of the page.
    """

    numbers: dict[str, Any]
    samples: list[Sample]

    @property
    def pictures(self) -> list[Picture]:
        """All figures, in the order of the page."""
        return [picture for sample in self.samples for picture in sample.pictures]


def gather(network: Network, against: Network | None, samples: Sequence[Sample]) -> PartsExplanation:
    """Put the page's numbers together."""
    task: Task = network.task
    labels = network_labels(task, against and against.task)  # type: ignore[arg-type]
    made = [sample.pictures for sample in samples]
    numbers: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "ctxvision": __version__,
        "task": task.kind,
        "checkpoint": network.checkpoint,
        "model": task.hparams["model"],
        "parameters": sum(p.numel() for p in task.model.parameters()),
        "class_names": network.names,
        "against": against and {"checkpoint": against.checkpoint, "model": against.task.hparams["model"]},
        "labels": list(labels[: 2 if against else 1]),
        "has_funnel": False,
        "images": [
            sample.entry | {"notes": sample.notes, "figures": [picture.file for picture in sample.pictures]}
            for sample in samples
        ],
        "figures": [
            {"file": f"figures/{picture.file}", "title": picture.title, "alt": picture.alt}
            for pictures in made
            for picture in pictures
        ],
    }
    return PartsExplanation(numbers, list(samples))


def as_lists(raw: np.ndarray) -> list[list[float]]:
    """Turn a map (h, w) into what a JSON file holds."""
    return [[float(f"{value:.5g}") for value in row] for row in raw]
