"""Classes in the order of their probabilities."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Ranked(NamedTuple):
    """A class and its probability."""

    name: str
    probability: float

    def to_dict(self) -> dict[str, Any]:
        """Return both as plain values for JSON."""
        return {"class": self.name, "probability": self.probability}


def ranking(probabilities: NDArray[np.floating], names: Sequence[str], top_k: int) -> tuple[Ranked, ...]:
    """Return the ``top_k`` most probable classes, the most probable first.

    Args:
        probabilities: The probabilities of the N classes, (N,).
        names: The names of the N classes.
        top_k: The number of classes to return, if there are as many.
    """
    best = np.argsort(-probabilities, kind="stable")[:top_k].tolist()
    return tuple(Ranked(names[index], float(probabilities[index])) for index in best)


def ranking_rows(ranked: Sequence[Ranked]) -> list[dict[str, Any]]:
    """Return one row for each class, for a CSV file."""
    return [
        {"rank": rank, "class": one.name, "probability": f"{one.probability:.6f}"}
        for rank, one in enumerate(ranked, 1)
    ]


def ranking_line(ranked: Sequence[Ranked]) -> str:
    """Return the classes with their probabilities in one line."""
    return "  ".join(f"{one.name} {one.probability:.1%}" for one in ranked)
