"""What can go wrong in a task."""


class TaskError(ValueError):
    """A task cannot be built or continued; the message is one line with the reason."""
