"""``evaluate``, ``predict`` and ``report`` for what is not classification: a module for each kind of task."""

import importlib
import io
import os
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from ctxvision._cli.errors import UserError
from ctxvision.files import write_whole

if TYPE_CHECKING:
    from PIL import Image

    from ctxvision.data.files import Listing
    from ctxvision.runs import Run

_STEM_BYTES = 200  # with a number and an ending a name must not have more than 255
BROKEN = "the output of the network for it is NaN or infinite"
TASKS = {"classify": "classification", "detect": "detection", "segment": "segmentation", "video": "video"}


@dataclass(frozen=True)
class Scored:
    """What `Kind.score` finds.

    Attributes:
        numbers: for a JSON file.
        page: makes the HTML.
        lines: for the terminal, the most important last.
        bad: how many samples could not be used.
        results: in the field's own format, where there is one (COCO).
    """

    numbers: dict[str, Any]
    page: Callable[[], str]
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
        pictures: write files on request, each to a path, by what its name ends with.
        error: why there is none, or empty.
    """

    entry: dict[str, Any] = field(default_factory=dict)
    line: str = ""
    rows: list[dict[str, Any]] = field(default_factory=list)
    pictures: dict[str, Callable[[Path], None]] = field(default_factory=dict)
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


def save_pictures(
    folder: Path, path: str, pictures: Mapping[str, Callable[[Path], None]], taken: set[str]
) -> list[str]:
    """Write the pictures of one answer, whole, under the name of its file.

    Args:
        folder: exists.
        path: of the file that the answer is about.
        pictures: of an `Answer`.
        taken: names that other files of this call have; one is added.

    Returns:
        The paths.

    Raises:
        WriteError: they cannot be written there.
    """
    stem, number = Path(path).stem, 1
    while len(os.fsencode(stem)) > _STEM_BYTES:
        stem = stem[:-1]
    while (name := stem if number == 1 else f"{stem}-{number}") in taken:
        number += 1
    taken.add(name)
    written = []
    for ending, write in pictures.items():
        target = folder / f"{name}{ending}"
        write(target)
        written.append(str(target))
    return written


def as_png(draw: Callable[[], "Image.Image"]) -> Callable[[Path], None]:
    """Return what draws a picture and writes it to a path."""

    def write(path: Path) -> None:
        file = io.BytesIO()
        draw().save(file, "PNG")
        write_whole(path, file.getvalue())

    return write
