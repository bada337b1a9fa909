"""The errors of data sets."""


class DataError(ValueError):
    """A data set cannot be used; the message is one line that names the folder or the classes."""


class BadImageError(DataError):
    """An image file cannot be used.

    Attributes:
        path: The path of the file.
        reason: The fault of the file, described in one line.
    """

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path}: {reason}")
        self.path = path
        self.reason = reason

    def __reduce__(self) -> tuple[type, tuple[str, str]]:
        return type(self), (self.path, self.reason)
