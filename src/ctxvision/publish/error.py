"""What can go wrong while a network is published."""


class PublishError(ValueError):
    """A network cannot be published; the message is one line with the reason and the way out."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))
