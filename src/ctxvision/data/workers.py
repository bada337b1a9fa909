"""How many processes read images or videos."""

import os


def workers_for(images: int | None, batch_size: int) -> int:
    """Choose how many processes decode: one per processor, at most 8, and none that would have no batch.

    Args:
        images: The number of images; ``None`` if that is unknown.
        batch_size: The number of images that a process takes at a time.
    """
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return min(processors, 8) if images is None else min(processors, 8, images // batch_size)
