"""What can be wrong with a data set."""


class DataError(ValueError):
    """A data set cannot be used; the message is one line that names the folder or the classes."""


class BadImageError(DataError):
    """An image file cannot be used.

    Attributes:
        path: the file.
        reason: what is wrong with it, one line.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.path, self.reason)
