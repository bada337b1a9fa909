"""Why a network cannot be opened, or cannot answer what it is asked."""


class InferenceError(ValueError):
    """The message is one line that names the value, what is possible, and what to do."""
