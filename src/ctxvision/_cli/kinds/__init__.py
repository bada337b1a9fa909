"""``evaluate`` and ``report`` for what is not classification: a module for each kind of task."""

import importlib
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

from ctxvision._cli.errors import UserError

if TYPE_CHECKING:
    from ctxvision.data.files import Listing
    from ctxvision.explain import Run

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


class Kind(Protocol):
    """A module of this package."""

    def score(self, task: Any, run: "Run", data: str, split: str | None, images: int, args: Namespace) -> Scored:
        """Run a trained network over a data set."""

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
