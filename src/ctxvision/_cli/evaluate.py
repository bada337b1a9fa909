"""``ctxvision evaluate``: how good the answers of a checkpoint are on a data set."""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ctxvision.files import write_whole
from ctxvision.foreign import json_text, visible
from ctxvision.runs import checkpoint_of
from ctxvision.wording import plural

from .errors import UserError
from .files import for_json, require_places
from .keeping import Keeping
from .kinds import add_task, kind_of, require_task
from .messages import column, note, quieten, say
from .trust import add_trust
from .views import add_views, check_views
from .workers import add_workers

if TYPE_CHECKING:
    from lightning.fabric import Fabric


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=checkpoint_of,
        help=".ckpt file or run folder of `ctxvision train`",
    )
    parser.add_argument("data", metavar="DATA", help="folder of images, or digits; see the page on data")
    parser.add_argument(
        "--split",
        choices=("val", "train", "all"),
        help="which images; default: those not trained on, or all of a folder that the network never saw",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE as well")
    parser.add_argument("--html", metavar="FILE", help="write a page with figures and pictures to FILE as well")
    parser.add_argument(
        "--worst",
        type=int,
        default=24,
        metavar="N",
        help="images with the highest losses to show; default: %(default)s",
    )
    parser.add_argument("--real", metavar="FILE", help="real.json of ImageNet-ReaL: score against its labels too")
    parser.add_argument(
        "--labels_by_index",
        action="store_true",
        help="class folders are numbers, as in ImageNet-V2; understood by itself where they are 0 to C - 1",
    )
    add_task(parser)
    parser.add_argument(
        "--results", metavar="FILE", help="of a detector: write its detections as COCO's results file"
    )
    parser.add_argument("--batch_size", type=int, metavar="N", help="default: by task, 128 for classification")
    add_views(parser)
    add_workers(parser)
    parser.add_argument("--precision", choices=("32", "16-mixed", "bf16-mixed"), default="32")
    parser.add_argument("--accelerator", default="auto", help="cpu, gpu, mps or auto (default)")
    add_trust(parser)
    parser.add_argument("--strict", action="store_true", help="stop at the first bad image")


def run(args: Namespace) -> int:
    """Print the figures and write them where asked; see `ctxvision evaluate --help`."""
    check_views(args)
    if (1 if args.batch_size is None else args.batch_size) < 1 or min(args.workers or 0, args.worst) < 0:
        raise UserError("--batch_size must be at least 1, --workers and --worst at least 0", 2)
    require_places(json=args.json, html=args.html, results=args.results)

    from ctxvision.data import DataSpec
    from ctxvision.evaluation.classification import make_evaluation
    from ctxvision.evaluation.imagenet_real import read_real
    from ctxvision.pages.evaluation_page import render
    from ctxvision.tasks import load_task

    from .by_index import folders_by_class
    from .data import open_for_evaluation

    quieten()
    task = load_task(args.checkpoint, trust=args.trust)
    require_task(args.task, args.checkpoint, task.kind)
    if task.kind != "classification":
        return _run_other(task, args)
    if args.results:
        raise UserError("--results is for detectors; --json has the figures", 2)
    real = read_real(args.real) if args.real else None
    spec = DataSpec.from_dict(task.data_spec)
    folders = folders_by_class(args.data, spec.class_names, forced=args.labels_by_index)
    if folders:
        note(f"{args.data}: folders are numbers of classes; {folders[0]} is {spec.class_names[0]!r}")
    data, split = open_for_evaluation(
        args.data,
        replace(spec, class_names=folders) if folders else spec,
        args.split,
        batch_size=args.batch_size or 128,
        workers=args.workers,
        strict=args.strict,
    )
    for line in data.notes:
        note(line)
    fabric = _fabric(args.accelerator, args.precision)
    evaluation = make_evaluation(
        task.to(fabric.device),
        data,
        checkpoint=args.checkpoint,
        data_name=args.data,
        split=split,
        worst=args.worst,
        real=real,
        precision=args.precision,
        autocast=fabric.autocast,
    )
    keeping = Keeping()
    if args.json:
        with keeping.step(args.json):
            write_whole(args.json, as_json(evaluation.numbers))
    _print(evaluation.numbers)
    if data.bad_images:
        note(f"skipped {plural(len(data.bad_images), 'bad image')}, not counted above")
    if args.html:
        with keeping.step(args.html):
            write_whole(args.html, render(evaluation))
    return keeping.exit_code


def _run_other(task: Any, args: Namespace) -> int:
    """Evaluate a detector, a segmentation network or a video network."""
    from ctxvision.runs import read_run

    if args.real or args.labels_by_index:
        raise UserError("--real and --labels_by_index are for classification", 2)
    if args.results and task.kind != "detection":
        raise UserError("--results is for detectors; --json has the figures", 2)
    fabric = _fabric(args.accelerator, args.precision)
    with fabric.autocast():
        scored = kind_of(task.kind).score(
            task.to(fabric.device), read_run(args.checkpoint), args.data, args.split, args.worst, args
        )
    # files first: whoever reads the lines may stop reading
    keeping = Keeping()
    if args.json:
        with keeping.step(args.json):
            write_whole(args.json, as_json(scored.numbers))
    if args.results:
        with keeping.step(args.results):
            write_whole(args.results, json_text(for_json(scored.results)) + "\n")
    for line in scored.lines:
        say(line)
    if scored.bad:
        note(f"skipped {plural(scored.bad, 'bad file')}, not counted above")
    if args.html:
        with keeping.step(args.html):
            write_whole(args.html, scored.page())
    return keeping.exit_code


def _fabric(accelerator: str, precision: str) -> "Fabric":
    from lightning.fabric import Fabric
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    try:
        return Fabric(accelerator=accelerator, devices=1, precision=precision)
    except (
        RuntimeError,
        ValueError,
        MisconfigurationException,
    ) as error:  # Lightning's messages about accelerators
        raise UserError(str(error)) from error


def as_json(numbers: Mapping[str, Any]) -> str:
    """Write one line for each entry, and of lists one for each element: a matrix stays a matrix."""

    def written(value: object) -> str:
        return json_text(value, allow_nan=False)

    def entry(name: str, value: object) -> str:
        if isinstance(value, list) and any(isinstance(element, list | dict) for element in value):
            value_text = "[\n  " + ",\n  ".join(map(written, value)) + "\n ]"
        else:
            value_text = written(value)
        return f" {written(name)}: {value_text}"

    return "{\n" + ",\n".join(entry(name, value) for name, value in numbers.items()) + "\n}\n"


def _print(report: Mapping[str, Any]) -> None:
    width = column(["class", *(row["name"] for row in report["classes"])])
    say(f"{'class':{width}}  images   top-1  precision  most often taken for")
    for row in report["classes"]:
        rival = f"{row['confused_with']} ({row['confused_images']})" if row["confused_images"] else "–"
        top1, precision = (_share(row[name]) for name in ("top1", "precision"))
        say(f"{visible(row['name']):{width}}  {row['images']:6}  {top1:>7}  {precision:>9}  {rival}")
    for stage in (report["funnel"] or {"stages": ()})["stages"]:
        what = (
            f"true class considered {_share(stage['recall'])}, kept {_share(stage['survived'] / report['images'])}"
        )
        say(f"{stage['name']}: {stage['scored']} classes, {what}")
    speed = report["throughput"]
    rates = [
        f"{speed[name]['images_per_second']:.4g} images/s {words}"
        for name, words in (("with_decoding", "with decoding"), ("network", "of the network alone"))
        if speed[name]
    ]
    say(f"{', '.join(rates)} (this run, {speed['device']}, precision {speed['precision']})")
    low, high = map(_share, report["top1_interval95"])
    temperature = f", temperature {report['funnel']['temperature']:.4g}" if report["funnel"] else ""
    say(
        f"loss {report['loss']:.4f}, calibration error (ECE) {_share(report['calibration']['ece'])}, "
        f"95% interval of top-1 {low} to {high}{temperature}"
    )
    if report["imagenet_real"]:
        real = report["imagenet_real"]
        say(f"ImageNet-ReaL {_share(real['top1'])} of {real['images']} images, {real['skipped']} have no label")
    top5 = "" if report["top5"] is None else f", top-5 {report['top5']:.2%}"
    say(f"top-1 {report['top1']:.2%}{top5} of {report['images']} images ({report['split']} of {report['data']})")


def _share(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"
