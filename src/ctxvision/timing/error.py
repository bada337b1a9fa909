"""What can go wrong while networks are timed."""


class TimingError(ValueError):
    """A network cannot be timed as asked; the message is one line."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
