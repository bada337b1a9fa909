"""``ctxvision evaluate``: how good the answers of a checkpoint are on a data set."""

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ctxvision.files import write_whole
from ctxvision.foreign import finite_values, json_text
from ctxvision.runs import checkpoint_of
from ctxvision.wording import plural

from .errors import UserError
from .files import require_places
from .keeping import Keeping
from .messages import note, quieten, say
from .options import add_task, add_trust, add_views, add_workers, check_views, require_task


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=checkpoint_of,
        help="network to evaluate: .ckpt file or run folder of `ctxvision train`, .onnx or .pt2 of "
        "`ctxvision export`, or name of a network with pretrained weights",
    )
    parser.add_argument(
        "data", metavar="DATA", help="data to evaluate on, a folder of images, or digits; see the page on data"
    )
    parser.add_argument(
        "--split",
        choices=("val", "train", "all"),
        help="part of the images to evaluate on; default: those not trained on, or all of a folder that the "
        "network never saw",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE as well")
    parser.add_argument("--html", metavar="FILE", help="write a page with figures and pictures to FILE as well")
    parser.add_argument(
        "--worst",
        type=int,
        default=24,
        metavar="N",
        help="number of images with the highest losses to show; default: %(default)s",
    )
    parser.add_argument("--real", metavar="FILE", help="real.json of ImageNet-ReaL: score against its labels too")
    parser.add_argument(
        "--labels_by_index",
        action="store_true",
        help="take the names of class folders as class numbers, as in ImageNet-V2; names from 0 "
        "to C - 1 are understood without this option",
    )
    add_task(parser)
    parser.add_argument(
        "--results",
        metavar="FILE",
        help="write the detections of a detector to FILE, in COCO's format for results",
    )
    parser.add_argument(
        "--batch_size",
        type=int,
        metavar="N",
        help="number of images computed at a time; default: by task, 128 for classification",
    )
    add_views(parser)
    add_workers(parser)
    parser.add_argument(
        "--precision",
        choices=("32", "16-mixed", "bf16-mixed"),
        default="32",
        help="number format of the arithmetic: 32 bits, 16 bits or bfloat16 mixed with 32; default: %(default)s",
    )
    parser.add_argument(
        "--accelerator",
        default="auto",
        help="kind of device to compute on: cpu, gpu, mps or auto; default: %(default)s",
    )
    add_trust(parser)
    parser.add_argument("--strict", action="store_true", help="stop at the first image that cannot be read")


def run(args: Namespace) -> int:
    """Print the figures and write them where asked; see `ctxvision evaluate --help`."""
    check_views(args)
    if (1 if args.batch_size is None else args.batch_size) < 1 or min(args.workers or 0, args.worst) < 0:
        raise UserError("--batch_size must be at least 1, --workers and --worst at least 0", 2)
    require_places(json=args.json, html=args.html, results=args.results)

    from ctxvision.evaluation import evaluate
    from ctxvision.inference import open_predictor
    from ctxvision.pages import render_scores
    from ctxvision.runs import read_run

    quieten()
    device = _device(args.accelerator, args.checkpoint)
    predictor = open_predictor(args.checkpoint, device, trust=args.trust)
    require_task(args.task, args.checkpoint, predictor.task)
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
        **_options(predictor.task, args),
    )
    # files first: whoever reads the lines may stop reading
    keeping = Keeping()
    if args.json:
        with keeping.step(args.json):
            write_whole(args.json, as_json(scores.to_dict()))
    if args.results:
        with keeping.step(args.results):
            write_whole(args.results, json_text(finite_values(scores.results)) + "\n")
    for line in scores.lines:
        say(line)
    if scores.skipped:
        what = "bad image" if scores.task == "classification" else "bad file"
        note(f"skipped {plural(scores.skipped, what)}, not counted above")
    if args.html:
        with keeping.step(args.html):
            write_whole(args.html, render_scores(scores))
    return keeping.exit_code


def _options(task: str, args: Namespace) -> dict[str, Any]:
    """Return the options that only one task has, and refuse those of the others."""
    if args.results and task != "detection":
        raise UserError("--results is for detectors; --json has the figures", 2)
    if task == "classification":
        return {"real": args.real, "labels_by_index": args.labels_by_index}
    if args.real or args.labels_by_index:
        raise UserError("--real and --labels_by_index are for classification", 2)
    if task == "detection" and args.split == "all":
        raise UserError("--split all is for classification; detectors are evaluated on val or train", 2)
    if task == "detection":
        return {"without_truth": bool(args.results)}
    return {"clips": args.clips, "crops": args.crops} if task == "video" else {}


def _device(accelerator: str, checkpoint: str) -> str:
    """Return the device that Lightning chooses; exported files compute on the CPU unless another is asked for."""
    from lightning.fabric import Fabric
    from lightning.fabric.utilities.exceptions import MisconfigurationException

    if accelerator == "auto" and Path(checkpoint).suffix.lower() in (".onnx", ".pt2"):
        return "cpu"
    try:
        return str(Fabric(accelerator=accelerator, devices=1).device)
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
