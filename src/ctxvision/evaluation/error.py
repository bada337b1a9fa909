"""The error of a network that cannot be evaluated."""

from ctxvision.runs import RunError


class EvaluationError(RunError):
    """There is nothing to evaluate, or an output is not a number; the message is one line with the cause."""
