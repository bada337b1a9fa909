"""The speed of a network during an evaluation."""

import time
from collections.abc import Callable, Iterable, Iterator, Sized
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch

Inputs = TypeVar("Inputs", bound=Sized)
Targets = TypeVar("Targets")
Outputs = TypeVar("Outputs")
_REPEATS = 3  # of the only batch, where there is no second one to time


@dataclass(frozen=True)
class Speed:
    """The speed of processing samples.

    Attributes:
        images: The number of samples.
        seconds: The time that these samples took, in seconds.
    """

    images: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """The number of samples per second."""
        return self.images / self.seconds

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes and the number of samples per second."""
        return asdict(self) | {"images_per_second": self.images_per_second}


class Stopwatch:
    """Adds up the seconds of loading samples and of running the network.

    Rates leave out the first batch, because libraries and caches are set up during it.

    Args:
        device: The device of the network; the clock is read when its work is finished.
        clock: A function that returns the time in seconds.

    Attributes:
        answering_seconds: The time in seconds that the network took for all batches, including the first.
    """

    def __init__(self, device: torch.device, clock: Callable[[], float] = time.perf_counter) -> None:
        self._device, self._clock = device, clock
        self._batches = self._images = 0
        self._loading = self._answering = self.answering_seconds = 0.0
        self._repeated: Speed | None = None

    def _now(self) -> float:
        if self._device.type != "cpu":
            torch.accelerator.synchronize()
        return self._clock()

    def loading(self, batches: Iterable[tuple[Inputs, Targets]]) -> Iterator[tuple[Inputs, Targets]]:
        """Yield the batches, and measure how long each of them took to load."""
        iterator = iter(batches)
        while True:
            start = self._now()
            batch = next(iterator, None)
            if batch is None:
                return
            if self._batches:
                self._loading += self._now() - start
            yield batch

    def answering(self, compute: Callable[[Inputs], Outputs], inputs: Inputs) -> Outputs:
        """Run the network on a batch, measure how long it took, and return its outputs."""
        start = self._now()
        outputs = compute(inputs)
        seconds = self._now() - start
        self.answering_seconds += seconds
        self._batches += 1
        if self._batches > 1:
            self._answering += seconds
            self._images += len(inputs)
        return outputs

    def repeat_the_only_batch(self, compute: Callable[[Inputs], object], inputs: Inputs) -> None:
        """Time the network again on the last batch if it was the only one."""
        if self._batches == 1:
            start = self._now()
            for _ in range(_REPEATS):
                compute(inputs)
            count = _REPEATS * len(inputs)
            self._repeated = Speed(count, max(self._now() - start, 1e-9))

    @property
    def with_decoding(self) -> Speed | None:
        """The speed of reading, decoding, moving to the device and answering; ``None`` for a single batch."""
        return Speed(self._images, max(self._loading + self._answering, 1e-9)) if self._images else None

    @property
    def network(self) -> Speed:
        """The speed of answering alone, for samples that are on the device."""
        return self._repeated or Speed(self._images, max(self._answering, 1e-9))
