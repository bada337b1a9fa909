"""``ctxvision report``: a page about a training run."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ctxvision.wording import plural

from .files import require_places
from .messages import Keeping, UserError, note, quieten, say
from .options import add_shared, whole


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add("run", metavar="RUN", help="run folder of `ctxvision train`, or a .ckpt file")
    add(
        "data",
        metavar="DATA",
        nargs="?",
        help="data to evaluate on, a folder of images, or digits; default: what the run was trained on",
    )
    add(
        "--out",
        metavar="FILE",
        default="report.html",
        help="HTML page to write, with its numbers beside it as .json; default: %(default)s",
    )
    add(
        "--images",
        type=whole(0),
        default=24,
        metavar="N",
        help="number of predictions to show; default: %(default)d",
    )
    add_shared(parser, "batch_size")
    add("--against", metavar="RUN", help="another run to show beside this one, for video networks only")
    add_shared(parser, "clips", "crops", "workers", "device", "trust", "strict", "quiet")


def run(args: Namespace) -> int:
    """Write the page and print its path; see `ctxvision report --help`."""
    page, numbers = Path(args.out), Path(args.out).with_suffix(".json")
    if page.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out must end in .html, got {args.out}", 2)
    require_places(out=page, json=numbers)

    from ctxvision.inference import open_predictor
    from ctxvision.pages import make_report
    from ctxvision.progress import shown
    from ctxvision.runs import read_run

    quieten()
    found = read_run(args.run)
    predictor = open_predictor(found.checkpoint, args.device, trust=args.trust)
    data = args.data or found.settings.get("data")
    if not data:
        raise UserError(f"{args.run}: does not say what it was trained on; name the DATA", 2)
    if args.against and predictor.task != "video":
        raise UserError("--against compares runs of videos; leave it out, and see `ctxvision compare`", 2)
    with shown(note, quiet=args.quiet) as progress:
        report = make_report(
            args.run,
            str(data),
            predictor=predictor,
            against=args.against,
            images=args.images,
            device=args.device,
            trust=args.trust,
            batch_size=args.batch_size,
            workers=args.workers,
            strict=args.strict,
            progress=progress,
            **({"clips": args.clips, "crops": args.crops} if predictor.task == "video" else {}),
        )
    scores, keeping = report.scores, Keeping()
    if predictor.prepared:
        note(f"{args.run}: {predictor.prepared}")
    if scores.skipped:
        what = "bad image" if scores.task == "classification" else "bad file"
        note(f"skipped {plural(scores.skipped, what)}, not counted in the report")
    with keeping.step(str(numbers)):
        report.write_numbers(numbers)
    if scores.task != "classification":
        say(scores.lines[-1])
    with keeping.step(args.out):
        report.write_page(page)
        say(args.out)
    return keeping.exit_code
