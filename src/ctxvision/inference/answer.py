"""What every answer of a network has, whatever its task, and classes in the order of their probabilities."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray


class InferenceError(ValueError):
    """The message is one line that names the value, what is possible, and what to do."""


BROKEN = "the output of the network for it is NaN or infinite"


@dataclass(frozen=True, eq=False)
class Answer(ABC):
    """What a network says about one image or video, or why it says nothing.

    Attributes:
        path: The path of the file; ``None`` for an image or video in memory.
        error: Why there is no answer, in one line; empty where there is one.
    """

    sample_name: ClassVar[str] = "image"
    """What a person calls what is answered about: it names the entry of the path in `to_dict` and `rows`."""
    columns: ClassVar[tuple[str, ...]]
    """Names of the columns of `rows`."""

    path: str | None
    error: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the answer as plain values for JSON; without an answer the path and the ``error``."""
        return {self.sample_name: self.path} | ({"error": self.error} if self.error else self._values())

    def rows(self) -> list[dict[str, Any]]:
        """Return the answer as rows of a CSV file with the columns `columns`; without an answer none."""
        return [] if self.error else [{self.sample_name: self.path} | row for row in self._rows()]

    def summary(self) -> str:
        """Return the answer, or why there is none, in one line for a person."""
        return self.error or self._line()

    @abstractmethod
    def _values(self) -> dict[str, Any]: ...

    @abstractmethod
    def _rows(self) -> list[dict[str, Any]]: ...

    @abstractmethod
    def _line(self) -> str: ...


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


@dataclass(frozen=True, eq=False)
class RankedAnswer(Answer):
    """What a network says that answers with one of N classes.

    Attributes:
        top: The most probable classes with their probabilities, the most probable first.
    """

    top: tuple[Ranked, ...] = ()

    def _rows(self) -> list[dict[str, Any]]:
        return [
            {"rank": rank, "class": one.name, "probability": f"{one.probability:.6f}"}
            for rank, one in enumerate(self.top, 1)
        ]

    def _line(self) -> str:
        return "  ".join(f"{one.name} {one.probability:.1%}" for one in self.top)
