"""One thread that runs one network: batches of what waits in a bounded queue."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any


class QueueFullError(Exception):
    """There is no room for all of it."""


class ClosedError(Exception):
    """The thread takes nothing more."""


@dataclass(frozen=True)
class _Job:
    future: Future[Any]
    item: Any = None
    work: Callable[[], Any] | None = None


class Batcher:
    """Runs a function over batches of items, in their order, on a thread of its own.

    Args:
        run: Function from a list of items to a list of as many results.
        batch: Largest number of items at a time.
        queue: Largest number of items that wait; what is being run does not count.
        max_wait: Time in seconds that the first item of a batch waits for others.
        observe: Function that is called with the size of every batch.
        name: Name of the worker thread.

    Examples:
        >>> doubled = Batcher(lambda items: [2 * item for item in items], batch=4, queue=8)
        >>> [future.result() for future in doubled.submit([1, 2, 3])]
        [2, 4, 6]
        >>> doubled.close()
        True
    """

    def __init__(
        self,
        run: Callable[[list[Any]], Sequence[Any]],
        *,
        batch: int,
        queue: int,
        max_wait: float = 0.0,
        observe: Callable[[int], object] = lambda size: None,
        name: str = "inference",
    ) -> None:
        self._run = run
        self._batch = batch
        self._capacity = queue
        self._max_wait = max_wait
        self._observe = observe
        self._jobs: deque[_Job] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name=name, daemon=True)
        self._thread.start()

    @property
    def depth(self) -> int:
        """How many items wait."""
        return len(self._jobs)

    def submit(self, items: Sequence[Any]) -> list[Future[Any]]:
        """Queue items; their futures may be cancelled as long as they wait.

        Raises:
            QueueFullError: There is no room for all of them; then none is taken.
            ClosedError: The thread ends.
        """
        return self._put([_Job(Future(), item) for item in items])

    def call(self, work: Callable[[], Any]) -> "Future[Any]":
        """Queue a function to be called on the thread between batches; it takes the room of one item.

        Raises:
            QueueFullError: The queue has no room for the function.
            ClosedError: The thread ends.
        """
        return self._put([_Job(Future(), work=work)])[0]

    def _put(self, jobs: list[_Job]) -> list[Future[Any]]:
        with self._changed:
            if self._closed:
                raise ClosedError
            if len(self._jobs) + len(jobs) > self._capacity:
                # clients that have gone away make room
                self._jobs = deque(job for job in self._jobs if not job.future.cancelled())
            if len(self._jobs) + len(jobs) > self._capacity:
                raise QueueFullError
            self._jobs.extend(jobs)
            self._changed.notify()
        return [job.future for job in jobs]

    def close(self, timeout: float = 10.0) -> bool:
        """Finish what waits and end the thread; returns whether it has ended within ``timeout`` seconds."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _loop(self) -> None:
        while jobs := self._next():
            self._answer([job for job in jobs if job.future.set_running_or_notify_cancel()])
            del jobs  # nothing is kept while the thread waits

    def _next(self) -> list[_Job]:
        """Return the next batch; an empty one ends the thread."""
        with self._changed:
            while not self._jobs and not self._closed:
                self._changed.wait()
            jobs: list[_Job] = []
            end = time.monotonic() + self._max_wait
            while len(jobs) < self._batch:
                if self._jobs:
                    if jobs and self._jobs[0].work:
                        break
                    jobs.append(self._jobs.popleft())
                    if jobs[0].work:
                        break
                elif self._closed or (left := end - time.monotonic()) <= 0:
                    break
                else:
                    self._changed.wait(left)
            return jobs

    def _answer(self, jobs: list[_Job]) -> None:
        if not jobs:
            return
        try:
            if work := jobs[0].work:
                results: Sequence[Any] = [work()]
            else:
                self._observe(len(jobs))
                results = self._run([job.item for job in jobs])
            if len(results) != len(jobs):
                raise RuntimeError(f"the network returned {len(results)} answers to {len(jobs)} images")
        except BaseException as error:
            for job in jobs:
                job.future.set_exception(error)
            return
        for job, result in zip(jobs, results, strict=True):
            job.future.set_result(result)
