"""Mistakes that end a command with one line."""


class UserError(Exception):
    """What the user can put right.

    Attributes:
        exit_code: 2 for a wrong command line, else 1.
    """

    def __init__(self, message: str, exit_code: int = 1) -> None:
        super().__init__(" ".join(message.split()))
        self.exit_code = exit_code
