"""What every answer of a network has, whatever its task."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

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
