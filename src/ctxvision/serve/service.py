"""From a request to an answer: read, decode, queue, run, each with its limit, and the deadline over all."""

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from starlette.requests import Request
from torch import Tensor

from .batcher import Batcher, ClosedError, QueueFullError
from .explaining import explain, ranked
from .network import ExampleImage, ServedNetwork
from .settings import Limits, Refusal, busy, too_late
from .upload import decode, image_files, read_body

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server, in a registry of their own.

    Attributes:
        registry: The registry, from which Prometheus' text is made.
        requests: Answered requests, by route, method and status; the first two must be of few values.
        latency: Seconds from the head of a request to the end of its answer, by route.
        rejected: Refused requests, by reason.
        batches: Images in a batch, by model.
        depth: Images that wait, by model.
        in_flight: Requests that are being answered.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        counter, gauge = partial(Counter, registry=self.registry), partial(Gauge, registry=self.registry)
        histogram = partial(Histogram, registry=self.registry)
        self.requests = counter("ctxvision_requests", "Requests answered", ("route", "method", "status"))
        self.latency = histogram(
            "ctxvision_request_seconds",
            "From the head of a request to the end of its answer",
            ("route",),
            buckets=_SECONDS,
        )
        self.rejected = counter("ctxvision_rejected", "Requests refused, by reason", ("reason",))
        self.batches = histogram("ctxvision_batch_images", "Images in a batch", ("model",), buckets=_IMAGES)
        self.depth = gauge("ctxvision_queue_depth", "Images that wait", ("model",))
        self.in_flight = gauge("ctxvision_requests_in_flight", "Requests being answered")


T = TypeVar("T")
_BODIES = 8  # requests of the largest size that are held at a time


class Service:
    """Some networks, each with a thread and a queue; threads that decode; counts.

    Args:
        networks: Networks to serve, at least one; requests that name none ask the first.
        limits: Limits on what a request may take.
        examples: Images that the page offers to try.

    Attributes:
        stopping: Whether new requests are refused.
        in_flight: Number of requests that are being answered.
        metrics: Counters that the service updates.
    """

    def __init__(
        self, networks: Sequence[ServedNetwork], limits: Limits, examples: Sequence[ExampleImage] = ()
    ) -> None:
        self.networks = {network.name: network for network in networks}
        self.limits = limits
        self.examples = tuple(examples)
        self.metrics = Metrics()
        self.stopping = False
        self.in_flight = 0
        self._bytes = 0
        self._mailbox: _Mailbox | None = None
        self._decoding = 0
        self._decoders = ThreadPoolExecutor(limits.decoders, thread_name_prefix="decode")
        self._batchers = {name: self._batcher(network) for name, network in self.networks.items()}
        self.metrics.in_flight.set_function(lambda: self.in_flight)

    def _batcher(self, network: ServedNetwork) -> Batcher:
        batcher = Batcher(
            network.probabilities,
            batch=self.limits.batch,
            queue=self.limits.queue,
            max_wait=self.limits.max_wait_ms / 1000,
            observe=self.metrics.batches.labels(network.name).observe,
            name=f"inference-{network.name}",
        )
        self.metrics.depth.labels(network.name).set_function(lambda: batcher.depth)
        return batcher

    def close(self, timeout: float = 10.0) -> None:
        """End the threads; what waits is finished first."""
        self.stopping = True
        self._decoders.shutdown(wait=False, cancel_futures=True)
        for batcher in self._batchers.values():
            batcher.close(timeout)
        for network in self.networks.values():
            network.close()

    def network(self, name: str | None) -> ServedNetwork:
        """Return the network that a client named, or the first.

        Raises:
            Refusal: There is no network of this name; the status is 404.
        """
        found = next(iter(self.networks.values())) if name is None else self.networks.get(name)
        if found is None:
            raise Refusal(404, "no_such_model", "there is no model of that name; GET /models lists them")
        return found

    async def predict(self, request: Request, name: str | None, top_k: int) -> dict[str, Any]:
        """Answer ``POST /predict``."""
        network, end = self.network(name), self._end(request)
        images = await self._images(request, network, self.limits.images_per_request, end)
        batcher = self._batchers[network.name]
        rows = await self._finished(request, _queued(lambda: batcher.submit(images)), end)
        names = network.spec.class_names
        return {"model": network.name, "predictions": [ranked(chances, names, top_k) for chances in rows]}

    async def explain(self, request: Request, name: str | None, class_name: str | None, top_k: int) -> bytes:
        """Answer ``POST /explain`` with JSON."""
        network, end = self.network(name), self._end(request)
        if network.task is None:
            raise Refusal(409, "not_explained", "this model is an exported file, which cannot be explained")
        names = network.spec.class_names
        if class_name is not None and class_name not in names:
            raise Refusal(404, "no_such_class", "the model has no class of that name; GET /models lists them")
        asked = None if class_name is None else names.index(class_name)
        (image,) = await self._images(request, network, 1, end)
        work = partial(explain, network, image, asked, top_k)
        batcher = self._batchers[network.name]
        (answer,) = await self._finished(request, _queued(lambda: [batcher.call(work)]), end)
        return bytes(answer)

    def _end(self, request: Request) -> float:
        return float(request.scope["ctxvision"]["start"]) + self.limits.timeout

    async def _images(self, request: Request, network: ServedNetwork, most: int, end: float) -> list[Tensor]:
        """Read and decode what a client sent, off the event loop."""
        held = 0

        def grown(size: int) -> None:
            nonlocal held
            if self._bytes + size > _BODIES * self.limits.max_bytes:
                raise busy("busy", "too many bytes arrive at the same time")
            held += size
            self._bytes += size

        upload = _Upload(request.headers.get("content-type", ""), end, self.limits.timeout)
        try:
            upload.body = await read_body(request, self.limits.max_bytes, end, grown)
            if self._decoding >= self.limits.queue:
                raise busy("busy", "too many images wait to be decoded")
            try:
                future = self._decoders.submit(self._decode, upload, network, most)
            except RuntimeError as error:  # it arrived while the server closed
                raise _stopping() from error
        except BaseException:
            self._bytes -= held
            raise
        self._decoding += 1

        def left() -> None:
            self._bytes -= held
            self._decoding -= 1

        # only when a thread has let go of it, which may be after the answer
        mail = self._mail()
        future.add_done_callback(lambda _: mail.post(left))
        try:
            (images,) = await self._finished(request, [future], end)
        finally:
            upload.drop()
        return list(images)

    def _decode(self, upload: "_Upload", network: ServedNetwork, most: int) -> list[Tensor]:
        upload.watch()
        parts = image_files(upload.content_type, upload.body, most, upload.end, self.limits.timeout)
        return [decode(data, network.spec, self.limits.max_pixels, upload.watch) for data in parts]

    async def _finished(self, request: Request, futures: "Sequence[Future[T]]", end: float) -> list[T]:
        """Wait for results, unless the deadline passes or the client goes; then what waits is cancelled.

        Raises:
            Refusal: 503 too late, 499 the client has gone; or what the work raised.
        """
        mail, left = self._mail(), len(futures)
        answered = mail.loop.create_future()

        def count_down() -> None:
            nonlocal left
            left -= 1
            if not left and not answered.done():
                answered.set_result(None)

        for future in futures:
            future.add_done_callback(lambda _: mail.post(count_down))
        gone = asyncio.ensure_future(_disconnected(request))
        try:
            timeout = max(end - time.monotonic(), 0)
            waiting: set[asyncio.Future[Any]] = {answered, gone}
            await asyncio.wait(waiting, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            if answered.done():
                return [future.result() for future in futures]
            if gone.done():
                raise Refusal(499, "gone", "the client has gone")
            raise too_late(self.limits.timeout)
        except CancelledError as error:
            raise _stopping() from error
        finally:
            for future in futures:
                future.cancel()
            answered.cancel()
            gone.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await gone

    def _mail(self) -> "_Mailbox":
        """Return the mailbox of the running loop."""
        loop = asyncio.get_running_loop()
        if self._mailbox is None or self._mailbox.loop is not loop:
            self._mailbox = _Mailbox(loop)
        return self._mailbox


class _Mailbox:
    """Calls of other threads for an event loop, which is woken once for all that come together.

    Each waking is a write to a socket, at which a thread gives away Python's lock and waits to have it again: a
    batch would wake the loop for each of its images.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._calls: deque[Callable[[], object]] = deque()
        self._woken = False

    def post(self, call: Callable[[], object]) -> None:
        """Let the loop make a call soon."""
        self._calls.append(call)
        if not self._woken:
            self._woken = True
            with suppress(RuntimeError):  # the loop has ended with the server
                self.loop.call_soon_threadsafe(self._make_calls)

    def _make_calls(self) -> None:
        self._woken = False  # first, so that no call is left behind
        while self._calls:
            self._calls.popleft()()


class _Upload:
    """What a client sent, until nobody wants it any more.

    Args:
        content_type: Value of the request's Content-Type header.
        end: Deadline in seconds on the clock of `time.monotonic`.
        timeout: Time in seconds that the request had, for the message.
    """

    def __init__(self, content_type: str, end: float, timeout: float) -> None:
        self.content_type = content_type
        self.body = b""
        self.end = end
        self._timeout = timeout
        self._dropped = threading.Event()

    def drop(self) -> None:
        """Let go of the bytes, and end the work on them."""
        self._dropped.set()
        self.body = b""

    def watch(self) -> None:
        """Raise `Refusal` where the work should end."""
        if self._dropped.is_set() or time.monotonic() > self.end:
            raise too_late(self._timeout)


def _queued(put: Callable[[], list[Future[Any]]]) -> list[Future[Any]]:
    try:
        return put()
    except QueueFullError as error:
        raise busy("queue_full", "the queue of this model is full") from error
    except ClosedError as error:
        raise _stopping() from error


def _stopping() -> Refusal:
    return Refusal(503, "stopping", "the server is stopping", {"Retry-After": "5"})


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
