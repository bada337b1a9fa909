"""What keeps a network from being trained."""


class TrainingError(Exception):
    """A run cannot begin, continue or end well, for a reason that the caller can put right."""

    exit_code = 1
    """With which the command line ends."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class OptionError(TrainingError, ValueError):
    """An option has a value that it cannot have, or one that does not go with another option."""

    exit_code = 2
