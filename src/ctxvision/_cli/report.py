"""``ctxvision report``: a page about a training run."""

from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxvision.files import write_whole
from ctxvision.foreign import json_text
from ctxvision.wording import plural

from .device import on_device
from .errors import UserError
from .files import for_json, require_places
from .keeping import Keeping
from .kinds import kind_of
from .messages import note, quieten, say
from .trust import add_trust
from .views import add_views, check_views
from .workers import add_workers

if TYPE_CHECKING:
    from ctxvision.runs import Run


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("run", metavar="RUN", help="run folder of `ctxvision train`, or a .ckpt file")
    parser.add_argument(
        "data", metavar="DATA", nargs="?", help="folder of images, or digits; default: what the run was trained on"
    )
    parser.add_argument(
        "--out",
        metavar="FILE",
        default="report.html",
        help="page to write, with its numbers beside it as .json; default: %(default)s",
    )
    parser.add_argument(
        "--images", type=int, default=24, metavar="N", help="predictions to show; default: %(default)s"
    )
    parser.add_argument("--batch_size", type=int, metavar="N", help="default: by task")
    parser.add_argument("--against", metavar="RUN", help="of videos: another run to show beside this one")
    add_views(parser)
    add_workers(parser)
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, mps, …")
    add_trust(parser)
    parser.add_argument("--strict", action="store_true", help="stop at the first bad image")


def run(args: Namespace) -> int:
    """Write the page and print its path; see `ctxvision report --help`."""
    check_views(args)
    if (1 if args.batch_size is None else args.batch_size) < 1 or min(args.images, args.workers or 0) < 0:
        raise UserError("--batch_size must be at least 1, --images and --workers at least 0", 2)
    page, numbers = Path(args.out), Path(args.out).with_suffix(".json")
    if page.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--out must end in .html, got {args.out}", 2)
    require_places(out=page, json=numbers)
    from ctxvision.data import DataSpec
    from ctxvision.evaluation.report import make_report
    from ctxvision.pages.report_page import render
    from ctxvision.runs import read_run
    from ctxvision.tasks import load_task

    from .data import open_for_evaluation

    quieten()
    found = read_run(args.run)
    name = args.data or found.settings.get("data")
    if not name:
        raise UserError(f"{args.run}: does not say what it was trained on; name the DATA", 2)
    task = load_task(found.checkpoint, trust=args.trust)
    on_device(task, args.device)
    if task.kind != "classification":
        return _run_other(task, found, str(name), args)
    if args.against:
        raise UserError("--against compares runs of videos; leave it out", 2)
    data, split = open_for_evaluation(
        str(name),
        DataSpec.from_dict(task.data_spec),
        None,
        batch_size=args.batch_size or 128,
        workers=args.workers,
        strict=args.strict,
    )
    for line in data.notes:
        note(line)
    report = make_report(found, task, data, data_name=str(name), split=split, images=args.images)
    if data.bad_images:
        note(f"skipped {plural(len(data.bad_images), 'bad image')}, not counted in the report")
    return _write(args.out, report.numbers, partial(render, report))


def _run_other(task: Any, found: "Run", name: str, args: Namespace) -> int:
    scored = kind_of(task.kind).score(task, found, name, None, args.images, args)
    if scored.bad:
        note(f"skipped {plural(scored.bad, 'bad file')}, not counted in the report")
    return _write(args.out, scored.numbers, scored.page, *scored.lines[-1:])


def _write(out: str, numbers: dict[str, Any], page: Callable[[], str], *lines: str) -> int:
    """Write the numbers, then print, then write the page; return the exit code."""
    keeping, beside = Keeping(), Path(out).with_suffix(".json")
    with keeping.step(str(beside)):
        write_whole(beside, json_text(for_json(numbers), indent=1) + "\n")
    for line in lines:
        say(line)
    with keeping.step(out):
        write_whole(out, page())
        say(out)
    return keeping.exit_code
