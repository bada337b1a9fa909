"""``ctxvision convert``: published checkpoints to safetensors."""

from argparse import ArgumentParser, Namespace

from .messages import note, say
from .options import add_shared


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add(
        "source",
        metavar="IN",
        help="published checkpoint to convert: CoTNet's (.pth.tar) or RedNet's (.pth; also of a detector or "
        "a segmentation network, whose backbone is taken) of the authors, CoTNet's of "
        "keras_cv_attention_models (.h5), RedNet's of PaddleClas (.pdparams)",
    )
    add("destination", metavar="OUT", help=".safetensors file to write")
    add("--model", metavar="NAME", help="name of the network, see `ctxvision models`; default: the one that fits")
    add(
        "--no-ema",
        action="store_true",
        help="take the weights themselves even where the file has their moving average",
    )
    add_shared(parser, "quiet")
    add("--overwrite", action="store_true", help="replace OUT if it exists")


def run(args: Namespace) -> int:
    """Convert one file; see `ctxvision convert --help`."""
    from ctxvision.checkpoints import convert
    from ctxvision.progress import shown

    with shown(note, quiet=args.quiet) as progress:
        progress(f"converting {args.source}", 0, None)
        report = convert(args.source, args.destination, args.model, ema=not args.no_ema, overwrite=args.overwrite)
    say(report)
    return 0
