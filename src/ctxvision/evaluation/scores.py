"""The findings of an evaluation: numbers for a file, lines for a person, examples for a page; its error."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ctxvision.foreign import finite_values
from ctxvision.runs import Run, RunError


class EvaluationError(RunError):
    """There is nothing to evaluate, or an output is not a number; the message is one line with the cause."""


@dataclass(frozen=True, repr=False)
class Scores:
    """The findings of the evaluation of a network on a data set.

    Attributes:
        task: The task of the network, one of `ctxvision.tasks.registry.TASKS`.
        numbers: The plain Python values that the JSON file of ``ctxvision evaluate`` holds.
        lines: The findings as text for a person: one line for each class, and last the most important number.
        results: The answers in a standard format that other programs can score: for a detector the entries of
            COCO's results file, for other networks ``None``.
    """

    task: str
    numbers: dict[str, Any]
    lines: tuple[str, ...]
    results: list[dict[str, Any]] | None = None

    @property
    def skipped(self) -> int:
        """The number of samples that could not be used and were left out."""
        return len(self.numbers["bad_images"])

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers for a JSON file; values that are not finite are ``None``."""
        values: dict[str, Any] = finite_values(self.numbers)
        return values

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.lines[-1]}>"


def share(value: float | None) -> str:
    """Write a share from 0 to 1 as a percentage with two digits; ``None`` is a dash.

    Examples:
        >>> share(0.5), share(None)
        ('50.00%', '–')
    """
    return "–" if value is None else f"{value:.2%}"


def spread_over(total: int, count: int) -> list[int]:
    """Choose positions that are spread evenly over a data set.

    Args:
        total: The number of samples.
        count: The number of samples to choose; if there are fewer, all are chosen.

    Returns:
        The positions, from 0.

    Examples:
        >>> spread_over(10, 3), spread_over(2, 3)
        ([0, 3, 6], [0, 1])
    """
    return [index * total // count for index in range(count)] if count < total else list(range(total))


def training_summary(run: Run, metric: str, settings: Sequence[str]) -> dict[str, Any] | None:
    """Return a summary of a training for readers; ``None`` if nothing of the training is left.

    Args:
        run: The run of the training.
        metric: The validation metric by which the best checkpoint was chosen, such as ``"top1"``.
        settings: The names of the settings to list; settings that are off or 0 are left out.
    """
    if not run.epochs:
        return None
    value = f"val_{metric}"
    pairs = zip(run.epochs, run.rows, strict=True)
    curve: list[dict[str, Any]] = [asdict(epoch) | {value: row.get(value)} for epoch, row in pairs]
    measured = [row for row in curve if row[value] is not None]
    best = max(measured, key=lambda row: float(row[value]), default=None)
    seconds = [epoch.seconds for epoch in run.epochs if epoch.seconds is not None]
    return {
        "data": run.settings.get("data"),
        "epochs": run.epochs[-1].epoch,
        "planned_epochs": run.settings.get("epochs"),
        "seconds": sum(seconds) if seconds else None,
        "best_epoch": best["epoch"] if best else None,
        f"best_{metric}": best[value] if best else None,
        "is_best": run.checkpoint.name == "best.ckpt",
        "settings": {name: run.settings[name] for name in settings if run.settings.get(name)},
        "curve": curve,
    }
