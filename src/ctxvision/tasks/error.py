"""The error of tasks."""


class TaskError(ValueError):
    """A task cannot be built or continued; the message is one line with the reason."""
