"""``ctxvision export``: a trained network as an ONNX or ``.pt2`` file, checked before it gets its name."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from ctxvision.files import reason
from ctxvision.runs import checkpoint_of
from ctxvision.wording import plural

from .files import require_places
from .messages import UserError, note, quieten, say
from .options import add_shared, whole

if TYPE_CHECKING:
    from torch import nn

    from ctxvision.export import Metadata
    from ctxvision.progress import Progress
    from ctxvision.tasks import ClassificationTask, Task

_OUTPUTS = {"detection": "box coordinate, score or mask"}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add(
        "checkpoint",
        metavar="CHECKPOINT",
        type=checkpoint_of,
        help="network to export: .ckpt file or run folder of `ctxvision train`, or name of a network with "
        "pretrained weights",
    )
    add("out", metavar="OUT", help=".onnx or .pt2 file to write")
    add("--fixed-batch", action="store_true", help="let the file take one image at a time; default: any number")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--dynamic-size",
        action="store_true",
        help="let the file take images of any height and width; default for segmentation and detection",
    )
    sizes.add_argument(
        "--fixed-size",
        action="store_true",
        help="let the file take images of the network's input size alone; default for other tasks",
    )
    add(
        "--aot",
        action="store_true",
        help="compile the .pt2 file for this machine (AOTInductor; takes minutes); the file is code, which other "
        "commands run only with --trust",
    )
    add(
        "--ops",
        choices=("portable", "native"),
        help="what our two operators become: portable, standard operators that any runtime knows; native, as they "
        "are, computed by the kernels of this library, faster, only where it is installed; default: portable "
        "for .onnx, native for .pt2",
    )
    add(
        "--int8",
        metavar="DATA",
        help="quantise the .onnx file, calibrated on training images of DATA; prints both accuracies on its "
        "validation images",
    )
    add(
        "--calibration",
        type=whole(1),
        default=256,
        metavar="N",
        help="number of images to calibrate on; default: %(default)s",
    )
    add(
        "--batch-size",
        type=whole(1),
        default=32,
        metavar="N",
        help="number of images scored at a time; default: %(default)s",
    )
    add(
        "--workers",
        type=whole(0),
        default=0,
        metavar="N",
        help="number of processes that decode images; default: %(default)s, which decodes in the main process",
    )
    add_shared(parser, "trust", "quiet")


def run(args: Namespace) -> int:
    """Write the file and say how it compares; see `ctxvision export --help`."""
    out = Path(args.out)
    suffix = out.suffix.lower()
    if suffix not in (".onnx", ".pt2"):
        raise UserError(f"OUT must end in .onnx or .pt2, got {args.out}", 2)
    if args.int8 and args.ops == "native":
        raise UserError("--int8 quantises graphs of standard operators; leave out --ops native", 2)
    if args.aot and suffix != ".pt2":
        raise UserError("--aot compiles .pt2 files, OUT is ONNX", 2)
    if args.int8 and (suffix != ".onnx" or args.fixed_batch):
        raise UserError("--int8 is for .onnx files that take any number of images", 2)
    require_places(out=out)
    quieten()
    from ctxvision.export import ExportError, from_task
    from ctxvision.export.trained import require_same_detections
    from ctxvision.progress import shown
    from ctxvision.tasks import load_task

    task = load_task(args.checkpoint, trust=args.trust)
    _require_possible(task, args)
    any_size = args.dynamic_size or (task.kind == "segmentation" and not args.fixed_size)
    network, metadata = from_task(task, dynamic_batch=not args.fixed_batch, dynamic_size=any_size)
    if task.kind == "detection":
        require_same_detections(task, network, metadata)
    try:
        with shown(note, quiet=args.quiet) as progress:
            progress(f"exporting to {out.name}", 0, None)
            difference = _write(task, network, out, metadata, args, progress)
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written ({reason(error)})") from error
    except ExportError as error:
        if not any_size:
            raise
        # segmentation networks take any size unless they are told otherwise
        way = "leaving out --dynamic-size" if args.dynamic_size and task.kind != "segmentation" else "--fixed-size"
        raise UserError(f"{error}; {way} exports for {_size(task)} alone") from error
    size = out.stat().st_size / 1e6
    say(f"largest difference to torch {difference:.1e} of the largest {_OUTPUTS.get(task.kind, 'logit')}")
    say(f"{out} ({size:.1f} MB)")
    return 0


def _require_possible(task: "Task", args: Namespace) -> None:
    if args.int8 and task.kind != "classification":
        raise UserError(f"--int8 compares top-1 of classifiers; {args.checkpoint} is for {task.kind}", 2)
    if task.kind == "detection" and args.fixed_size:
        raise UserError("--fixed-size: detectors resize images to many shapes; leave it out", 2)
    if task.kind == "video" and args.dynamic_size:
        raise UserError("--dynamic-size: clips are always resized to the network's size; leave it out", 2)


def _size(task: "Task") -> str:
    return " × ".join(map(str, task.data_spec["input_size"][1:]))


def _write(
    task: "Task",
    network: "nn.Module",
    out: Path,
    metadata: "Metadata",
    args: Namespace,
    progress: "Progress",
) -> float:
    from ctxvision.export import export_onnx, export_pt2
    from ctxvision.export.photographs import photographs

    if args.int8:
        return _write_int8(cast("ClassificationTask", task), out, metadata, args, progress)
    samples = photographs(metadata)
    if out.suffix.lower() == ".pt2":
        form: Literal["portable", "native"] = args.ops or "native"
        return export_pt2(network, out, metadata=metadata, samples=samples, compiled=args.aot, operators=form)
    return export_onnx(network, out, metadata=metadata, samples=samples, operators=args.ops or "portable")


def _write_int8(
    task: "ClassificationTask", out: Path, metadata: "Metadata", args: Namespace, progress: "Progress"
) -> float:
    from ctxvision.export.int8 import export_int8

    report = export_int8(
        task,
        out,
        metadata,
        args.int8,
        calibration=args.calibration,
        batch_size=args.batch_size,
        workers=args.workers,
        progress=progress,
    )
    int8, float32 = (f"{hits / report.images:.2%}" for hits in (report.int8_hits, report.float32_hits))
    say(f"top-1 of {plural(report.images, 'validation image')}: {int8} int8, {float32} float32")
    say(f"{report.float32_bytes / 1e6:.1f} MB as float32")
    if report.bad_images:
        note(f"skipped {plural(report.bad_images, 'bad image')} of {args.int8}")
    return report.difference
