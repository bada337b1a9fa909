"""What an evaluation gives: numbers for a file, lines for a person, examples for a page."""

from dataclasses import dataclass
from typing import Any

from ctxvision.foreign import finite_values


@dataclass(frozen=True, repr=False)
class Scores:
    """How good a network is on a data set.

    Attributes:
        task: The task of the network, one of `ctxvision.tasks.registry.TASKS`.
        numbers: Plain Python values, as the JSON file of ``ctxvision evaluate`` has them.
        lines: The same for a person: a line for each class, and last the number that counts most.
        results: The answers in the field's own format, which other programs score: of a detector the entries of
            COCO's results file, of other networks ``None``.
    """

    task: str
    numbers: dict[str, Any]
    lines: tuple[str, ...]
    results: list[dict[str, Any]] | None = None

    @property
    def skipped(self) -> int:
        """The number of samples that could not be used, and do not count."""
        return len(self.numbers["bad_images"])

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers for a JSON file: what is not finite is ``None``."""
        values: dict[str, Any] = finite_values(self.numbers)
        return values

    def __str__(self) -> str:
        return "\n".join(self.lines)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.lines[-1]}>"


def share(value: float | None) -> str:
    """Write a share as a percentage with two digits; of nothing it is a dash.

    Examples:
        >>> share(0.5), share(None)
        ('50.00%', '–')
    """
    return "–" if value is None else f"{value:.2%}"


def spread_over(total: int, count: int) -> list[int]:
    """Choose positions that are spread evenly over a data set.

    Args:
        total: The number of samples.
        count: How many to choose; if there are fewer, all are chosen.

    Examples:
        >>> spread_over(10, 3), spread_over(2, 3)
        ([0, 3, 6], [0, 1])
    """
    return [index * total // count for index in range(count)] if count < total else list(range(total))
