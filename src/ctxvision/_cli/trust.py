"""Whether the maker of a model file is trusted."""

from argparse import ArgumentParser


def add_trust(parser: ArgumentParser) -> None:
    """Declare ``--trust``."""
    parser.add_argument(
        "--trust",
        action="store_true",
        help="only for model files of people that you trust: run the code inside .pt2 files, such as those of "
        "`export --aot`, and lift the limits on what the settings in a file may ask for",
    )
