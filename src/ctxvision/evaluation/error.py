"""Why a network cannot be evaluated."""

from ctxvision.runs import RunError


class EvaluationError(RunError):
    """There is nothing to evaluate, or an answer is no number; the message is one line that names what."""
