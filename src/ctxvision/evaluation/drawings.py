"""Pictures that are drawn while a data set is gone through, and must not cost its numbers."""

from collections.abc import Callable, Mapping
from typing import Generic, ParamSpec, TypeVar

T = TypeVar("T")
P = ParamSpec("P")


class Drawings(Generic[T]):
    """Pictures in the order in which they were drawn; what goes wrong waits until they are wanted.

    After the first failure nothing more is drawn.

    Args:
        drawn: what there is already, by place.
    """

    def __init__(self, drawn: Mapping[int, T] | None = None) -> None:
        self._drawn = dict(drawn or {})
        self._error: Exception | None = None

    def draw(self, place: int, make: Callable[P, T], *args: P.args, **options: P.kwargs) -> None:
        """Draw one.

        Args:
            place: of what it shows.
            make: returns it.
            *args: what it takes.
            **options: likewise.
        """
        if self._error is None:
            try:
                self._drawn[place] = make(*args, **options)
            except Exception as error:
                self._error = error

    def by_place(self) -> dict[int, T]:
        """Return all of them.

        Raises:
            Exception: what went wrong with one of them.
        """
        if self._error is not None:
            raise self._error
        return self._drawn
