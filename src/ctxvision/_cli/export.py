"""``ctxvision export``: a trained network as an ONNX or ``.pt2`` file, checked before it gets its name."""

import os
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .messages import note, plural, quieten

if TYPE_CHECKING:
    from torch import Tensor

    from ctxvision.export import Metadata
    from ctxvision.tasks import ClassificationTask


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=".ckpt file of `ctxvision train`")
    parser.add_argument("out", metavar="OUT", help=".onnx or .pt2 file to write")
    parser.add_argument("--fixed_batch", action="store_true", help="one image at a time; default: any number")
    parser.add_argument("--dynamic_size", action="store_true", help="images of any height and width")
    parser.add_argument(
        "--aot", action="store_true", help="compile the .pt2 file for this machine (AOTInductor; takes minutes)"
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
    quieten()
    from ctxvision.export import Metadata
    from ctxvision.tasks import ClassificationTask, load_task

    task = load_task(args.checkpoint)
    if not isinstance(task, ClassificationTask):
        raise UserError(f"{args.checkpoint}: its task is {task.kind}; only classifiers can be exported")
    metadata = Metadata(
        model=task.hparams["model"],
        task=task.kind,
        data_spec=task.data_spec,
        dynamic_batch=not args.fixed_batch,
        dynamic_size=args.dynamic_size,
    )
    try:
        difference = _write(task, out, metadata, args)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({(error.strerror or str(error)).lower()})") from error
    size = out.stat().st_size / 1e6
    print(f"largest difference to torch {difference:.1e} of the largest logit")
    print(f"{out} ({size:.1f} MB)")
    return 0


def _write(task: "ClassificationTask", out: Path, metadata: "Metadata", args: Namespace) -> float:
    from ctxvision.export import export_onnx, export_pt2

    if out.suffix.lower() == ".pt2":
        return export_pt2(task.model, out, metadata=metadata, compiled=args.aot)
    if not args.int8:
        return export_onnx(task.model, out, metadata=metadata)
    return _write_int8(task, out, metadata, args)


def _write_int8(task: "ClassificationTask", out: Path, metadata: "Metadata", args: Namespace) -> float:
    from ctxvision.export import export_onnx, open_exported, quantize_onnx

    held_out, training = (_open(task, args, split) for split in ("val", "train"))
    images = [batch for batch, _ in _batches(held_out)]
    with tempfile.TemporaryDirectory(dir=out.resolve().parent, prefix=f".{out.stem}.") as folder:
        whole = Path(folder) / "float.onnx"
        difference = export_onnx(task.model, whole, metadata=metadata, samples=images[:1])
        quantize_onnx(whole, out, _first(_batches(training), args.calibration), input_name="images")
        scores = {"float32": _accuracy(open_exported(whole), held_out)}
        before = os.path.getsize(whole) / 1e6
    scores["int8"] = _accuracy(open_exported(out), held_out)
    right = {name: f"{hits / count:.2%}" for name, (hits, count) in scores.items()}
    count = scores["int8"][1]
    print(f"top-1 of {plural(count, 'validation image')}: {right['int8']} int8, {right['float32']} float32")
    print(f"{before:.1f} MB as float32")
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
        data.eval_samples = data.eval_samples[:: max(1, len(data.eval_samples) // args.calibration)]
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
