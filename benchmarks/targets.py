"""What is aimed at, and whether a run reached it."""

from collections.abc import Iterable
from typing import NamedTuple

from benchmarks.table import markdown, number


class Target(NamedTuple):
    """One line of the table of targets."""

    what: str
    least: float
    stretch: float
    at_most: bool = False
    """Whether smaller is better."""

    def verdict(self, measured: float) -> str:
        """Return ``stretch``, ``at least`` or ``missed``."""

        def reached(bound: float) -> bool:
            return measured <= bound if self.at_most else measured >= bound

        return "stretch" if reached(self.stretch) else "at least" if reached(self.least) else "missed"


def verdicts(measured: Iterable[tuple[Target, float]], as_stated: bool) -> str:
    """Return the table of targets with what was measured.

    Args:
        measured: Targets and values.
        as_stated: Whether the run has the settings for which the targets are stated; a note says so if not.
    """
    rows = [
        (
            target.what,
            number(value),
            f"{'≤' if target.at_most else '≥'} {number(target.least)}",
            f"{'≤' if target.at_most else '≥'} {number(target.stretch)}",
            target.verdict(value),
        )
        for target, value in measured
    ]
    if not rows:
        return "No target among what was measured."
    table = markdown(("target", "measured", "at least", "stretch", "reached"), rows)
    return table if as_stated else f"{table}\n\nNot the settings for which the targets are stated."
