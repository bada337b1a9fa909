"""``evaluate``, ``predict`` and ``report`` for what is not classification: a module for each kind of task."""

import importlib
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ..errors import UserError
from ..files import write_whole

if TYPE_CHECKING:
    from PIL import Image

    from ctxvision.data.files import Listing
    from ctxvision.explain import Run

_STEM_BYTES = 200  # with a number and an ending a name must not have more than 255
TASKS = {"classify": "classification", "detect": "detection", "segment": "segmentation", "video": "video"}


@dataclass(frozen=True)
class Scored:
    """What `Kind.score` finds.

    Attributes:
        numbers: for a JSON file.
        page: HTML.
        lines: for the terminal, the most important last.
        bad: how many samples could not be used.
        results: in the field's own format, where there is one (COCO).
    """

    numbers: dict[str, Any]
    page: str
    lines: list[str]
    bad: int = 0
    results: list[dict[str, Any]] | None = None


@dataclass(frozen=True)
class Answer:
    """What a network says about one file.

    Attributes:
        entry: for the JSON file.
        line: for the terminal.
        rows: for the CSV file, by the names of its columns.
        pictures: files to write on request, by what their names end with.
        error: why there is none, or empty.
    """

    entry: dict[str, Any] = field(default_factory=dict)
    line: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    pictures: dict[str, Any] = field(default_factory=dict)
    error: str = ""


class Kind(Protocol):
    """A module of this package."""

    COLUMNS: tuple[str, ...]
    """Of the CSV file."""

    def score(self, task: Any, run: "Run", data: str, split: str | None, images: int, args: Namespace) -> Scored:
        """Run a trained network over a data set."""

    def answer(self, task: Any, paths: Sequence[str], args: Namespace) -> Iterator[tuple[str, Answer]]:
        """Run it over files, in their order."""

    def list_files(self, folder: str) -> "Listing":
        """Find the files below a folder that it takes."""


def kind_of(task: str) -> Kind:
    """Return the module for a kind of task, as checkpoints call it."""
    return cast(Kind, importlib.import_module(f"{__name__}.{task}"))


def add_task(parser: ArgumentParser) -> None:
    """Declare ``--task``."""
    parser.add_argument("--task", choices=tuple(TASKS), help="refuse checkpoints of another task")


def require_task(asked: str | None, checkpoint: str, kind: str) -> None:
    """Compare ``--task`` with the checkpoint.

    Raises:
        UserError: it is of another task.
    """
    if asked and TASKS[asked] != kind:
        named = next(name for name, value in TASKS.items() if value == kind)
        raise UserError(f"{checkpoint}: its task is {named}, not {asked}; leave out --task", 2)


def save_pictures(folder: Path, path: str, pictures: dict[str, Any], taken: set[str]) -> list[str]:
    """Write the pictures of one answer, whole, under the name of its file.

    Args:
        folder: exists.
        path: of the file that the answer is about.
        pictures: PIL images by ending, such as ``.png``; other values are functions that write to a path.
        taken: names that other files of this call have; one is added.

    Returns:
        The paths.

    Raises:
        UserError: they cannot be written there.
    """
    stem, number = Path(path).stem, 1
    while len(os.fsencode(stem)) > _STEM_BYTES:
        stem = stem[:-1]
    while (name := stem if number == 1 else f"{stem}-{number}") in taken:
        number += 1
    taken.add(name)
    written = []
    for ending, picture in pictures.items():
        target = folder / f"{name}{ending}"
        if callable(picture):
            picture(target)
        else:
            write_whole(target, _encoded(picture, target.suffix))
        written.append(str(target))
    return written


def _encoded(picture: "Image.Image", suffix: str) -> bytes:
    import io

    file = io.BytesIO()
    picture.save(file, {".jpg": "JPEG"}.get(suffix, suffix[1:].upper()))
    return file.getvalue()
