"""How a global batch is shared out: nodes × devices × images at a time × accumulated."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from ctxvision.training.error import OptionError
from ctxvision.wording import plural


class BatchPlan(NamedTuple):
    """A batch of ``nodes · devices · images · accumulate`` images for every optimiser step."""

    nodes: int
    """Number of machines."""
    devices: int
    """Number of devices on each node."""
    images: int
    """Number of images that a device computes with at a time."""
    accumulate: int
    """Number of backward passes before each optimiser step."""

    def __str__(self) -> str:
        size = self.nodes * self.devices * self.images * self.accumulate
        parts = [plural(self.nodes, "node")] if self.nodes > 1 else []
        parts += [plural(self.devices, "device"), plural(self.images, "image")]
        parts += [f"{self.accumulate} accumulated"] if self.accumulate > 1 else []
        return f"global batch {size} = {' × '.join(parts)}"


def solve(
    batch_size: int, devices: int, nodes: int = 1, *, micro_batch: int | None = None, accumulate: int | None = None
) -> BatchPlan:
    """Share out a global batch exactly.

    Args:
        batch_size: Number of images per optimiser step, over all devices.
        devices: Number of devices on each node.
        nodes: Number of machines.
        micro_batch: Largest number of images that a device may compute with at a time; the largest part that
            divides a device's share equally is taken, unless it is less than half of this limit. ``None`` is no
            limit.
        accumulate: Number of parts of a device's share; ``None`` lets it follow from the limit.

    Raises:
        OptionError: The batch cannot be shared out so; the message names the nearest sizes that can.
    """
    everywhere = devices * nodes
    if batch_size % everywhere:
        sizes = _or(_nearest(batch_size, lambda size: size % everywhere == 0))
        raise OptionError(
            f"--batch_size {batch_size} is for all devices together, and cannot be shared equally by {everywhere}"
            f"; the nearest that can: {sizes}",
        )
    share = batch_size // everywhere
    if accumulate is not None:
        if share % accumulate:
            counts = _or(_nearest(accumulate, lambda count: share % count == 0, highest=share))
            raise OptionError(
                f"--accumulate {accumulate} does not divide the {plural(share, 'image')} of a device "
                f"(--batch_size {batch_size}); the nearest that do: {counts}",
            )
        images = share // accumulate
        if micro_batch is not None and images > micro_batch:
            raise OptionError(
                f"--accumulate {accumulate} leaves {images} images at a time on a device, more than --micro_batch "
                f"{micro_batch}; add --micro_batch {images}, or leave --accumulate out",
            )
        return BatchPlan(nodes, devices, images, accumulate)
    limit = share if micro_batch is None else micro_batch
    images = _part(share, limit)
    if not images:
        sizes = _or([size * everywhere for size in _nearest(share, lambda size: _part(size, limit) > 0)])
        raise OptionError(
            f"the {plural(share, 'image')} of a device (--batch_size {batch_size}) have no equal parts of "
            f"{(limit + 1) // 2} to {limit} images (--micro_batch); nearest: --batch_size {sizes}",
        )
    return BatchPlan(nodes, devices, images, share // images)


def _part(share: int, limit: int) -> int:
    """Return the largest divisor of a share within the limit, or 0 if it is less than half of that."""
    part = next(size for size in range(min(share, limit), 0, -1) if share % size == 0)
    return part if part == share or 2 * part >= limit else 0


def _nearest(value: int, fits: Callable[[int], bool], highest: int | None = None) -> list[int]:
    """Return the nearest number below a value that fits, and the nearest above."""

    def first(candidates: Iterable[int]) -> list[int]:
        return [n for n in [next((n for n in candidates if fits(n)), None)] if n is not None]

    return first(range(value - 1, 0, -1)) + first(range(value + 1, (highest or 4 * value + 4096) + 1))


def _or(values: list[int]) -> str:
    return " or ".join(map(str, values))
