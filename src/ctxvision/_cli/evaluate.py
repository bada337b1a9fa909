"""``ctxvision evaluate``: how good the answers of a checkpoint are on a data set."""

from argparse import SUPPRESS, ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from ctxvision.foreign import finite_values, json_text
from ctxvision.runs import checkpoint_of
from ctxvision.wording import plural

from .files import require_places
from .messages import Keeping, UserError, as_json, note, quieten, say
from .options import OLD_DEVICE, add_shared, require_task, whole


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add(
        "checkpoint",
        metavar="CHECKPOINT",
        type=checkpoint_of,
        help="network to evaluate: .ckpt file or run folder of `ctxvision train`, .onnx or .pt2 of "
        "`ctxvision export`, or name of a network with pretrained weights",
    )
    add("data", metavar="DATA", help="data to evaluate on, a folder of images, or digits; see the page on data")
    add(
        "--split",
        choices=("val", "train", "all"),
        help="part of the images to evaluate on; default: those not trained on, or all of a folder that the "
        "network never saw",
    )
    add("--json", metavar="FILE", help="write the figures to FILE as well")
    add("--html", metavar="FILE", help="write a page with figures and pictures to FILE as well")
    add(
        "--worst",
        type=whole(0),
        default=24,
        metavar="N",
        help="number of images with the highest losses to show; default: %(default)s",
    )
    add(
        "--real",
        metavar="FILE",
        help="real.json of ImageNet-ReaL, or the word timm for the copy in timm: score against its labels too",
    )
    add(
        "--labels-by-index",
        action="store_true",
        help="take the names of class folders as class numbers, as in ImageNet-V2; names from 0 "
        "to C - 1 are understood without this option",
    )
    add_shared(parser, "task")
    add(
        "--results",
        metavar="FILE",
        help="write the detections of a detector to FILE, in COCO's format for results",
    )
    add_shared(parser, "batch_size", "clips", "crops", "interpolation", "workers")
    add(
        "--precision",
        choices=("32", "16-mixed", "bf16-mixed"),
        default="32",
        help="number format of the arithmetic: 32 bits, 16 bits or bfloat16 mixed with 32; default: %(default)s",
    )
    add("--accelerator", help=SUPPRESS)  # the word of 0.1
    add_shared(parser, "device", "optimize", "trust", "strict", "quiet")


def run(args: Namespace) -> int:
    """Print the figures and write them where asked; see `ctxvision evaluate --help`."""
    require_places(json=args.json, html=args.html, results=args.results)

    from ctxvision.evaluation import evaluate
    from ctxvision.inference import open_predictor
    from ctxvision.pages import render_scores
    from ctxvision.progress import shown
    from ctxvision.runs import read_run

    quieten()
    if args.accelerator:
        note(OLD_DEVICE)
    device = args.accelerator or args.device
    predictor = open_predictor(args.checkpoint, device, trust=args.trust, optimize=args.optimize)
    require_task(args.task, args.checkpoint, predictor.task)
    if args.interpolation:
        predictor.resize_by(args.interpolation)
    with shown(note, quiet=args.quiet) as progress:
        scores = evaluate(
            predictor,
            args.data,
            split=args.split,
            batch_size=args.batch_size,
            workers=args.workers,
            strict=args.strict,
            precision=args.precision,
            examples=args.worst,
            run=read_run(args.checkpoint) if Path(args.checkpoint).exists() else None,
            progress=progress,
            **_options(predictor.task, args),
        )
    if predictor.prepared:
        note(f"{args.checkpoint}: {predictor.prepared}")
    # files first: whoever reads the lines may stop reading
    keeping = Keeping()
    keeping.write(args.json, lambda: as_json(scores.to_dict()))
    keeping.write(args.results, lambda: json_text(finite_values(scores.results)) + "\n")
    for line in scores.lines:
        say(line)
    if scores.skipped:
        what = "bad image" if scores.task == "classification" else "bad file"
        note(f"skipped {plural(scores.skipped, what)}, not counted above")
    keeping.write(args.html, lambda: render_scores(scores))
    return keeping.exit_code


def _options(task: str, args: Namespace) -> dict[str, Any]:
    """Return the options that only one task has, and refuse those of the others."""
    if args.results and task != "detection":
        raise UserError("--results is for detectors; --json has the figures", 2)
    if task == "classification":
        return {"real": args.real, "labels_by_index": args.labels_by_index}
    if args.real or args.labels_by_index:
        raise UserError("--real and --labels-by-index are for classification", 2)
    if task == "detection" and args.split == "all":
        raise UserError("--split all is for classification; detectors are evaluated on val or train", 2)
    if task == "detection":
        return {"without_truth": bool(args.results)}
    return {"clips": args.clips, "crops": args.crops} if task == "video" else {}
