"""The device's own limits, timed among the candidates: copies and a matrix product."""

from collections.abc import Mapping
from functools import partial
from typing import NamedTuple

import torch

from benchmarks.settings import Settings
from ctxvision.timing.clock import Candidate, Quantiles

COPY, CACHED, MATRIX = "copy", "copy in cache", "matrix product"
# bytes that one copy reads; in cache, source and target fit the second-level caches of two cores
LARGE = {"cpu": 256 << 20, "cuda": 2 << 30}
SMALL = {"cpu": 512 << 10, "cuda": 8 << 20}
SIDE = {"cpu": 1536, "cuda": 8192}


class Limits(NamedTuple):
    """What the device did in this run, medians."""

    copy: float
    """GB/s of a copy far larger than the caches, reading and writing counted."""
    cached: float
    """GB/s of a copy inside the caches."""
    matrix: float
    """Billions of multiply-adds per second of a large product in the run's dtype."""


class Yardsticks:
    """Candidates that measure the limits.

    Args:
        settings: Device and dtype.
        shrink: Divide all sizes, for tests.
    """

    def __init__(self, settings: Settings, shrink: int = 1) -> None:
        device = settings.device
        kind = device.type if device.type in LARGE else "cpu"
        self._bytes = {COPY: LARGE[kind] // shrink**2, CACHED: SMALL[kind] // shrink**2}
        self._side = SIDE[kind] // shrink
        a, b = torch.randn(2, self._side, self._side, device=device).to(settings.dtype)
        product = torch.empty_like(a)
        self.candidates = {MATRIX: Candidate(lambda: torch.mm(a, b, out=product))}
        for name, size in self._bytes.items():
            source, target = torch.ones(2, size // 4, device=device)
            self.candidates[name] = Candidate(partial(target.copy_, source))

    def limits(self, times: Mapping[str, Quantiles]) -> Limits:
        """Return the limits from the yardsticks' times."""
        copy, cached = (2 * self._bytes[name] / times[name].p50 / 1e6 for name in (COPY, CACHED))
        return Limits(copy, cached, self._side**3 / times[MATRIX].p50 / 1e6)
