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


class TrainingStopped(KeyboardInterrupt):
    """A signal, such as that of Ctrl-C, has ended a run where its state was whole.

    Args:
        message: Text that says where the run stopped, and how it goes on.
        signal_number: Number of the signal.
    """

    def __init__(self, message: str, signal_number: int) -> None:
        super().__init__(message)
        self.signal_number = signal_number
