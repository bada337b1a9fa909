"""What Prometheus reads."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters of one server, in a registry of their own."""

    content_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "ctxvision_requests", "Requests answered", ("route", "method", "status"), registry=self._registry
        )
        self._latency = Histogram(
            "ctxvision_request_seconds",
            "From the head of a request to the end of its answer",
            ("route",),
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._rejected = Counter(
            "ctxvision_rejected", "Requests refused, by reason", ("reason",), registry=self._registry
        )
        self._batches = Histogram(
            "ctxvision_batch_images", "Images in a batch", ("model",), buckets=_IMAGES, registry=self._registry
        )
        self._depth = Gauge("ctxvision_queue_depth", "Images that wait", ("model",), registry=self._registry)
        self._in_flight = Gauge("ctxvision_requests_in_flight", "Requests being answered", registry=self._registry)

    def watch_queue(self, model: str, depth: Callable[[], int]) -> None:
        """Report how long a queue is whenever it is asked for."""
        self._depth.labels(model).set_function(depth)

    def watch_requests(self, count: Callable[[], int]) -> None:
        """Report the number of requests that are being answered whenever it is asked for."""
        self._in_flight.set_function(count)

    def batch(self, model: str, images: int) -> None:
        """Count a batch."""
        self._batches.labels(model).observe(images)

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count a request; ``route`` and ``method`` must be of few values."""
        self._requests.labels(route, method, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def rejected(self, reason: str) -> None:
        """Count a refusal."""
        self._rejected.labels(reason).inc()

    def text(self) -> bytes:
        """Return all values in Prometheus' text format."""
        return generate_latest(self._registry)
