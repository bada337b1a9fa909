"""``ctxvision export``: a trained network as an ONNX or ``.pt2`` file, checked before it gets its name."""

import os
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxvision.files import reason
from ctxvision.runs import checkpoint_of
from ctxvision.wording import plural

from .errors import UserError
from .messages import note, quieten, say
from .trust import add_trust

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ctxvision.export import Metadata
    from ctxvision.tasks import ClassificationTask
    from ctxvision.tasks.training import TrainingTask

_OUTPUTS = {"detection": "box coordinate, score or mask"}


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=checkpoint_of,
        help=".ckpt file or run folder of `ctxvision train`",
    )
    parser.add_argument("out", metavar="OUT", help=".onnx or .pt2 file to write")
    parser.add_argument("--fixed_batch", action="store_true", help="one image at a time; default: any number")
    sizes = parser.add_mutually_exclusive_group()
    sizes.add_argument(
        "--dynamic_size",
        action="store_true",
        help="images of any height and width; default for segmentation and detection",
    )
    sizes.add_argument(
        "--fixed_size", action="store_true", help="images of the network's input size; default for other tasks"
    )
    parser.add_argument(
        "--aot",
        action="store_true",
        help="compile the .pt2 file for this machine (AOTInductor; takes minutes); the file is code, which other "
        "commands run only with --trust",
    )
    parser.add_argument(
        "--int8",
        metavar="DATA",
        help="quantise the .onnx file, calibrated on training images of DATA; prints both accuracies on its "
        "validation images",
    )
    parser.add_argument(
        "--calibration", type=int, default=256, metavar="N", help="images to calibrate on; default: %(default)s"
    )
    parser.add_argument("--batch_size", type=int, default=32, metavar="N", help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that decode images")
    add_trust(parser)


def run(args: Namespace) -> int:
    """Write the file and say how it compares; see `ctxvision export --help`."""
    if min(args.calibration, args.batch_size) < 1 or args.workers < 0:
        raise UserError("--calibration and --batch_size must be at least 1, --workers at least 0", 2)
    out = Path(args.out)
    suffix = out.suffix.lower()
    if suffix not in (".onnx", ".pt2"):
        raise UserError(f"OUT must end in .onnx or .pt2, got {args.out}", 2)
    if args.aot and suffix != ".pt2":
        raise UserError("--aot compiles .pt2 files, OUT is ONNX", 2)
    if args.int8 and (suffix != ".onnx" or args.fixed_batch):
        raise UserError("--int8 is for .onnx files that take any number of images", 2)
    if not out.resolve().parent.is_dir():
        raise UserError(f"{out}: cannot be written (there is no folder {out.parent})")
    if out.is_dir() or not os.access(out.resolve().parent, os.W_OK):
        why = "it is a folder" if out.is_dir() else f"no permission in {out.parent}"
        raise UserError(f"{out}: cannot be written ({why})")
    quieten()
    from ctxvision.export import ExportError, from_task
    from ctxvision.export.trained import require_same_detections
    from ctxvision.tasks import load_task

    task = load_task(args.checkpoint, trust=args.trust)
    _require_possible(task, args)
    any_size = args.dynamic_size or (task.kind == "segmentation" and not args.fixed_size)
    network, metadata = from_task(task, dynamic_batch=not args.fixed_batch, dynamic_size=any_size)
    if task.kind == "detection":
        require_same_detections(task, network, metadata)
    try:
        difference = _write(task, network, out, metadata, args)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({reason(error)})") from error
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


def _require_possible(task: "TrainingTask", args: Namespace) -> None:
    if args.int8 and task.kind != "classification":
        raise UserError(f"--int8 compares top-1 of classifiers; {args.checkpoint} is for {task.kind}", 2)
    if task.kind == "detection" and args.fixed_size:
        raise UserError("--fixed-size: detectors resize images to many shapes; leave it out", 2)
    if task.kind == "video" and args.dynamic_size:
        raise UserError("--dynamic-size: clips are always resized to the network's size; leave it out", 2)


def _size(task: "TrainingTask") -> str:
    return " × ".join(map(str, task.data_spec["input_size"][1:]))


def _write(task: "TrainingTask", network: "nn.Module", out: Path, metadata: "Metadata", args: Namespace) -> float:
    from ctxvision.export import export_onnx, export_pt2
    from ctxvision.export.photographs import photographs

    samples = photographs(metadata)
    if out.suffix.lower() == ".pt2":
        return export_pt2(network, out, metadata=metadata, samples=samples, compiled=args.aot)
    if not args.int8:
        return export_onnx(network, out, metadata=metadata, samples=samples)
    return _write_int8(task, out, metadata, args)  # type: ignore[arg-type]


def _write_int8(task: "ClassificationTask", out: Path, metadata: "Metadata", args: Namespace) -> float:
    from ctxvision.export import export_onnx, quantize_onnx
    from ctxvision.inference import open_predictor

    held_out, training = (_open(task, args, split) for split in ("val", "train"))
    images = next((batch for batch, _ in _batches(held_out)), None)
    if images is None:
        raise UserError(f"--int8 {args.int8}: no validation image could be read")
    with tempfile.TemporaryDirectory(dir=out.resolve().parent, prefix=f".{out.stem}.") as folder:
        whole = Path(folder) / "float.onnx"
        difference = export_onnx(task.model, whole, metadata=metadata, samples=[images])
        quantize_onnx(whole, out, _first(_batches(training), args.calibration), input_name="images")
        scores = {"float32": _accuracy(open_predictor(whole, trust=True).raw, held_out)}
        before = os.path.getsize(whole) / 1e6
    scores["int8"] = _accuracy(open_predictor(out, trust=True).raw, held_out)
    right = {name: f"{hits / count:.2%}" for name, (hits, count) in scores.items()}
    count = scores["int8"][1]
    say(f"top-1 of {plural(count, 'validation image')}: {right['int8']} int8, {right['float32']} float32")
    say(f"{before:.1f} MB as float32")
    for data in (held_out, training):
        if data.bad_images:
            note(f"skipped {plural(len(data.bad_images), 'bad image')} of {args.int8}")
    return difference


def _open(task: "ClassificationTask", args: Namespace, split: str) -> Any:
    """Open DATA; of the training images only as many as calibration takes, of all classes."""
    from ctxvision.data import DataSpec, ImageData, open_data

    spec = DataSpec.from_dict(task.data_spec)
    data = open_data(
        args.int8, spec=spec, batch_size=args.batch_size, workers=args.workers, eval_split=split, strict=False
    )
    if split == "train" and isinstance(data, ImageData):
        # they are in the order of their classes
        count = len(data.eval_samples)
        few = min(args.calibration, count)
        data.eval_samples = [data.eval_samples[index * count // few] for index in range(few)]
    return data


def _batches(data: Any) -> Iterator[tuple["Tensor", "Tensor"]]:
    for batch in data.val_dataloader():
        images, targets = data.on_after_batch_transfer(batch, 0)
        if len(images):
            yield images, targets


def _first(batches: Iterator[tuple["Tensor", "Tensor"]], count: int) -> Iterator["Tensor"]:
    left = count
    for images, _ in batches:
        if left <= 0:
            return
        yield images[:left]
        left -= len(images)


def _accuracy(network: Any, data: Any) -> tuple[int, int]:
    hits = count = 0
    for images, targets in _batches(data):
        hits += int((network(images).argmax(1) == targets).sum())
        count += len(targets)
    return hits, count
