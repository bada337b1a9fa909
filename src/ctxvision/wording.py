"""Words that messages share."""


def plural(count: int, noun: str) -> str:
    """Return a count with its noun, for example ``1 image`` or ``2 images``."""
    return f"{count} {noun}" + ("" if count == 1 else "s")
