"""How many processes decode images."""

from argparse import ArgumentParser

from ctxvision.data.workers import workers_for

__all__ = ["add_workers", "workers_for"]


def add_workers(parser: ArgumentParser) -> None:
    """Declare ``--workers``."""
    parser.add_argument(
        "--workers",
        type=int,
        metavar="N",
        help="processes that decode images; default: as many as processors, at most 8",
    )
