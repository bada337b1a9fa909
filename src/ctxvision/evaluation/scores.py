"""The findings of an evaluation: numbers for a file, lines for a person, examples for a page."""

from dataclasses import dataclass
from typing import Any

from ctxvision.foreign import finite_values


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
