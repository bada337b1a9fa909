"""The option ``--task``: of which task a network has to be."""

from argparse import ArgumentParser

from .errors import UserError

_WORDS = ("classify", "detect", "segment", "video")  # of the registry, which takes long to import


def add_task(parser: ArgumentParser) -> None:
    """Declare ``--task``."""
    parser.add_argument("--task", choices=_WORDS, help="refuse networks of another task")


def require_task(asked: str | None, source: str, task: str) -> None:
    """Compare ``--task`` with the task of a network.

    Args:
        asked: The word of the option, or ``None``.
        source: What the user calls the network.
        task: The name of its task.

    Raises:
        UserError: They differ.
    """
    from ctxvision.tasks.registry import COMMAND_WORDS, task_named

    if asked and task_named(asked) != task:
        raise UserError(f"{source}: its task is {COMMAND_WORDS[task]}, not {asked}; leave out --task", 2)
