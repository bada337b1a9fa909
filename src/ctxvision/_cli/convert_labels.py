"""``ctxvision convert-labels``: YOLO's or Pascal VOC's labels as annotation files in COCO's format."""

from argparse import ArgumentParser, Namespace

from ctxvision.wording import plural

from .messages import note, quieten, say
from .options import add_shared

_SHOWN = 5


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("source", metavar="LABELS", help="folder with YOLO's or Pascal VOC's labels, or YOLO's data.yaml")
    add(
        "--out",
        metavar="DIR",
        help="folder that gets annotations/instances_*.json; default: the folder of the labels",
    )
    add("--strict", action="store_true", help="stop at the first image or label file that cannot be used")
    add_shared(parser, "quiet")


def run(args: Namespace) -> int:
    """Write the files, and print how to train on them; see `ctxvision convert-labels --help`."""
    quieten()
    from ctxvision.data.detection.labels import convert_labels
    from ctxvision.progress import shown

    with shown(note, quiet=args.quiet) as progress:
        done = convert_labels(args.source, args.out, strict=args.strict, progress=progress)
    for path, reason in list(done.bad.items())[:_SHOWN]:
        note(f"skipped {path}: {reason}")
    if len(done.bad) > _SHOWN:
        note(f"skipped {plural(len(done.bad) - _SHOWN, 'more image')}")
    for part, (images, objects) in done.counts.items():
        say(f"{done.files[part]}: {plural(images, 'image')}, {plural(objects, 'object')}")
    say(f"train with: ctxvision train MODEL {done.data!r} --task detect")
    return 0
