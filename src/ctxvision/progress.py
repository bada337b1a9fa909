"""How far work has come: a bar on a terminal, a line now and then elsewhere.

What takes long takes a function `Progress` and calls it as it goes; by default that is `silent`, so that nothing
in the library writes anywhere by itself. The commands pass what `shown` yields.
"""

import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TextIO, TypeVar

Progress = Callable[[str, int, int | None], None]
"""Is told what is done, how many of it are, and of how many; ``None`` where that is not known.

It is called with 0 when work begins, which may be long before the first step is done. Another text is other work.
"""

_Item = TypeVar("_Item")
_SECONDS = 30.0  # between two lines where no number of steps is given


def silent(what: str, done: int, total: int | None) -> None:
    """Say nothing."""


def counted(
    items: Iterable[_Item],
    progress: Progress,
    what: str,
    total: int | None = None,
    *,
    size: Callable[[_Item], int] = lambda item: 1,
) -> Iterator[_Item]:
    """Yield items, and count each when the next one is asked for.

    Args:
        items: The items.
        progress: The function that is told.
        what: What is done, such as ``"evaluating images"``.
        total: The sum of the sizes, if it is known.
        size: How many things an item is, as a batch is several images.

    Examples:
        >>> list(counted("ab", lambda *said: print(*said), "letters", 2))
        letters 0 2
        letters 1 2
        letters 2 2
        ['a', 'b']
    """
    done = 0
    progress(what, done, total)
    for item in items:
        yield item
        done += size(item)
        progress(what, done, total)


class Pace:
    """Measures how fast work goes, and how long it will take.

    Args:
        clock: A function that returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._began: tuple[float, int] | None = None

    def start(self, done: int = 0) -> None:
        """Count from now, when some may be done already, as of a run that is resumed."""
        self._began = self._clock(), done

    def describe(self, done: int, total: int | None) -> str:
        """Return how many are done in a second, and the time left; empty before anything is."""
        if self._began is None:
            self.start(done)
        began, first = self._began or (0.0, 0)
        seconds, count = self._clock() - began, done - first
        if count <= 0 or seconds <= 0:
            return ""
        rate = count / seconds
        text = f"{rate:.1f}/s" if rate >= 1 else f"{1 / rate:.1f} s each"
        return text if total is None else f"{text}, {duration(max(total - done, 0) / rate)} left"


def duration(seconds: float) -> str:
    """Write a time as ``h:mm:ss``, or ``m:ss`` below an hour.

    Examples:
        >>> duration(75.4), duration(3_725)
        ('1:15', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Due:
    """Tells when it is time to say something: after so many steps or, without a number, after some time.

    Args:
        every: The number of steps between.
        clock: A function that returns the time in seconds.
        seconds: The time between, where no number of steps is given.
    """

    def __init__(
        self,
        every: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        seconds: float = _SECONDS,
    ) -> None:
        self._every, self._clock, self._seconds = every, clock, seconds
        self._last = clock(), 0

    def start(self, done: int = 0) -> None:
        """Wait anew from here."""
        self._last = self._clock(), done

    def reached(self, done: int) -> bool:
        """Tell whether it is time; if so, the wait for the next line begins."""
        moment, count = self._last
        if self._every:
            due = done // self._every > count // self._every
        else:
            due = self._clock() - moment >= self._seconds
        if due:
            self.start(done)
        return due


class Lines:
    """Writes a line now and then: ``evaluating images: 320 of 5000, 41.2/s, 1:54 left``.

    Args:
        write: The function that writes a line.
        every: The number of steps between two lines; by default there is one after thirty seconds.
        clock: A function that returns the time in seconds.
    """

    def __init__(
        self,
        write: Callable[[str], None],
        every: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._write = write
        self._pace, self._due = Pace(clock), Due(every, clock)
        self._what = ""

    def __call__(self, what: str, done: int, total: int | None) -> None:
        """Take in how far the work is, and write if it is time."""
        if what != self._what:
            self._what = what
            self._pace.start(done)
            self._due.start(done)
        elif self._due.reached(done):
            of = "" if total is None else f" of {total}"
            self._write(", ".join(filter(None, (f"{what}: {done}{of}", self._pace.describe(done, total)))))


@contextmanager
def shown(
    write: Callable[[str], None],
    *,
    quiet: bool = False,
    every: int | None = None,
    stream: TextIO | None = None,
    threaded: bool = True,
) -> Iterator[Progress]:
    """Yield a function that shows progress while this block lasts.

    On a terminal that is a bar, which is gone after the block; whatever else is written to ``sys.stderr`` stands
    above it. Elsewhere, or where rich is not installed, it is a line now and then.

    Args:
        write: The function that writes such a line.
        quiet: Whether to show nothing.
        every: The number of steps between two lines; by default there is one after thirty seconds.
        stream: The stream of the bar; by default ``sys.stderr``.
        threaded: Whether a thread draws the bar; without one it is drawn by the calls, at most twice a second,
            and takes no time from what is timed.
    """
    stream = stream or sys.stderr
    if quiet:
        yield silent
        return
    if not stream.isatty():
        yield Lines(write, every)
        return
    try:
        from rich.console import Console
        from rich.markup import escape
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
        from rich.progress import Progress as Bars
    except ImportError:
        yield Lines(write, every)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[pace]}"),
    )
    # stdout may be a file, which the bar must not touch
    bars = Bars(
        *columns, console=Console(file=stream), transient=True, redirect_stdout=False, auto_refresh=threaded
    )
    pace, drawn = Pace(), Due(seconds=0.5)
    shown_last = ""

    def show(what: str, done: int, total: int | None) -> None:
        nonlocal shown_last
        if what != shown_last:
            shown_last = what
            for number in bars.task_ids:
                bars.remove_task(number)
            pace.start(done)
            bars.add_task(escape(what), total=total, completed=done, pace="")
        (number,) = bars.task_ids
        text = pace.describe(done, total)
        bars.update(number, completed=done, pace=text, refresh=not threaded and drawn.reached(done))

    with bars:
        yield show
