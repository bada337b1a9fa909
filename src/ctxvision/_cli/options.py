"""Options that several commands share."""

from argparse import ArgumentParser, Namespace

from .errors import UserError

_TASKS = ("classify", "detect", "segment", "video")  # of the registry, which takes long to import


def add_task(parser: ArgumentParser) -> None:
    """Declare ``--task``."""
    parser.add_argument(
        "--task", choices=_TASKS, help="task that the network must have; networks of another task are refused"
    )


def require_task(asked: str | None, source: str, task: str) -> None:
    """Compare ``--task`` with the task of a network.

    Args:
        asked: The word of the option, or ``None``.
        source: The name or path of the network, as the user gave it.
        task: The name of the network's task.

    Raises:
        UserError: The two differ.
    """
    from ctxvision.tasks.registry import COMMAND_WORDS, task_named

    if asked and task_named(asked) != task:
        raise UserError(f"{source}: its task is {COMMAND_WORDS[task]}, not {asked}; leave out --task", 2)


def add_trust(parser: ArgumentParser) -> None:
    """Declare ``--trust``."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="only for model files of people that you trust: run the code inside .pt2 files, such as those of "
        "`export --aot`, and lift the limits on what the settings in a file may ask for",
    )


def add_views(parser: ArgumentParser) -> None:
    """Declare ``--clips`` and ``--crops``."""
    parser.add_argument(
        "--clips",
        type=int,
        default=1,
        metavar="N",
        help="number of clips, spread over a video, that are averaged; the papers test 10; default: %(default)s",
    )
    parser.add_argument(
        "--crops",
        type=int,
        default=1,
        metavar="N",
        help="number of crops of a clip that are averaged, 1 or 3; the papers test 3; default: %(default)s",
    )


def check_views(args: Namespace) -> None:
    """Check the values of ``--clips`` and ``--crops``.

    Raises:
        UserError: A number is not possible.
    """
    if args.clips < 1 or args.crops not in (1, 3):
        raise UserError(f"--clips must be at least 1, --crops 1 or 3, got {args.clips} and {args.crops}", 2)


def add_workers(parser: ArgumentParser) -> None:
    """Declare ``--workers``."""
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="number of processes that decode images; default: as many as processors, at most 8",
    )
