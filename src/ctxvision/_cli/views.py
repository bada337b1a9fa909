"""How often a video is looked at."""

from argparse import ArgumentParser, Namespace

from .errors import UserError


def add_views(parser: ArgumentParser) -> None:
    """Declare ``--clips`` and ``--crops``."""
    parser.add_argument("--clips", type=int, default=1, metavar="N", help="clips of a video; the papers test 10")
    parser.add_argument(
        "--crops", type=int, default=1, metavar="N", help="crops of a clip, 1 or 3; the papers test 3"
    )


def check_views(args: Namespace) -> None:
    """Check them.

    Raises:
        UserError: a number that is not possible.
    """
    if args.clips < 1 or args.crops not in (1, 3):
        raise UserError(f"--clips must be at least 1, --crops 1 or 3, got {args.clips} and {args.crops}", 2)
