"""The one exception that loading, converting and warm-starting raise."""


class CheckpointError(ValueError):
    """A checkpoint cannot be used; the message is one line with the file, the reason and the way out.

    Args:
        where: The file, or whatever else holds the tensors.
        reason: Description of the fault, and of the way to put it right.
    """

    def __init__(self, where: object, reason: str) -> None:
        super().__init__(" ".join(f"{where}: {reason}".split()))


def name_some(names: list[str], limit: int = 3) -> str:
    """Join the first few of many names, the way that messages show them: ``a, b, c, …``."""
    return ", ".join(names[:limit]) + (", …" if len(names) > limit else "")
