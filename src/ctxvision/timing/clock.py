"""Repeated timing: candidates take turns, so that a noisy machine hits all alike."""

import math
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

MIN_ROUNDS = 5
MAX_CALLS = 1000
# a sample spans at least this long: far above the clock's resolution and the cost of a launch
MIN_SAMPLE = {"cpu": 5e-3, "cuda": 20e-3}
# calls shorter than so many times that begin with one not timed: the candidate before has filled the caches
WARM = 20


class Candidate(NamedTuple):
    """Something to time."""

    call: Callable[[], object]
    prepare: Callable[[], object] | None = None
    """Called before every sample, not timed."""


class Quantiles(NamedTuple):
    """Milliseconds of one call."""

    p10: float
    p50: float
    p90: float
    repeats: int
    """Number of samples."""


def percentiles(seconds: Sequence[float], levels: Sequence[float]) -> list[float]:
    """Return percentiles in milliseconds of samples in seconds; linear between neighbours, numpy's default."""
    found: list[float] = np.percentile(np.asarray(seconds, np.float64) * 1e3, levels).tolist()
    return found


def quantiles(seconds: Sequence[float]) -> Quantiles:
    """Return the quantiles of samples given in seconds."""
    p10, p50, p90 = percentiles(seconds, (10, 50, 90))
    return Quantiles(p10, p50, p90, len(seconds))


def sample(call: Callable[[], object], calls: int, device: torch.device) -> float:
    """Return the seconds that one of ``calls`` calls in a row takes: by events on CUDA, else by the clock."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            torch.cuda.synchronize()
            start.record()
            for _ in range(calls):
                call()
            end.record()
            end.synchronize()
        return float(start.elapsed_time(end)) / 1e3 / calls
    begin = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - begin) / calls


def take_turns(
    candidates: Mapping[str, Candidate],
    device: torch.device,
    repeats: int,
    seconds: float,
    *,
    one_call: bool = False,
    tell: Callable[[int, float], None] = lambda rounds, seconds: None,
) -> dict[str, list[float]]:
    """Time all candidates in rounds, A B C A B C.

    Args:
        candidates: Functions to time, by name.
        device: Device on which the functions compute.
        repeats: Number of rounds, each with one sample per candidate.
        seconds: Time in seconds after which no further round is started, once there are `MIN_ROUNDS`.
        one_call: Whether a sample is one call, as percentiles of the latency need it, instead of the mean of as
            many calls as `MIN_SAMPLE` asks for.
        tell: Function that is called before every round with the number of rounds and the seconds so far.

    Returns:
        Seconds of one call by candidate, a sample for every round; those of one round stand at the same place.
    """
    least = MIN_SAMPLE.get(device.type, MIN_SAMPLE["cpu"])
    once = {name: _once(candidate, device, least) for name, candidate in candidates.items()}
    calls = {name: min(MAX_CALLS, max(1, math.ceil(least / max(t, 1e-9)))) for name, t in once.items()}
    samples: dict[str, list[float]] = {name: [] for name in candidates}
    begin = time.perf_counter()
    for done in range(repeats):
        if done >= MIN_ROUNDS and time.perf_counter() - begin > seconds:
            break
        tell(done, time.perf_counter() - begin)
        for name, candidate in candidates.items():
            if candidate.prepare is not None:
                candidate.prepare()
            if once[name] < WARM * least:
                candidate.call()
            samples[name].append(sample(candidate.call, 1 if one_call else calls[name], device))
    return samples


def _once(candidate: Candidate, device: torch.device, least: float) -> float:
    """Warm up; return the seconds of about one call."""
    if candidate.prepare is not None:
        candidate.prepare()
    once = sample(candidate.call, 1, device)
    if once < 4 * least:  # the first call may have been slow
        once = sample(candidate.call, 1, device)
    return once


def device_name(device: torch.device) -> str:
    """Return the model name of the processor or the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
