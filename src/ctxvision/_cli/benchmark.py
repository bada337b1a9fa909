"""``ctxvision benchmark``: how fast networks are, against each other in the same run."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxvision.runs import checkpoint_of

from .files import require_places
from .messages import Keeping, UserError, note, quieten, say_all, write_rows
from .options import add_shared, whole

if TYPE_CHECKING:
    import torch

_HEADS = {
    "model": "model",
    "runner": "runner",
    "layout": "layout",
    "batch": "batch",
    "size": "px",
    "images_s": "images/s",
    "p50_ms": "p50 ms",
    "p90_ms": "p90 ms",
    "p99_ms": "p99 ms",
    "peak_mib": "peak MiB",
    "params_m": "params (M)",
    "gmacs": "GMACs",
}
_PICTURES = (".svg", ".png", ".pdf")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add(
        "models",
        metavar="MODEL",
        nargs="+",
        type=checkpoint_of,
        help="network to time: any network of timm or `ctxvision models`, local-dir:DIR, a run folder, a .ckpt, "
        ".onnx or .pt2 file (of `export --aot`: with --trust)",
    )
    add(
        "--against",
        metavar="MODEL",
        type=checkpoint_of,
        help="network that the others are compared with, by its fastest row, such as resnet50",
    )
    add(
        "--device",
        default="auto",
        help="device to compute on: cpu, cuda, cuda:1, or auto for CUDA where there is any; default: %(default)s",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="data type of weights and images; default: %(default)s",
    )
    add(
        "--size",
        type=whole(1),
        metavar="PX",
        help="height and width of the images in pixels; default: 224, or the size that a file names",
    )
    add(
        "--batch-size",
        type=_batches,
        default=(1, 8),
        metavar="N,N",
        help="number of images computed at a time; several numbers are timed one after the other; default: 1,8",
    )
    layouts = parser.add_mutually_exclusive_group()
    layouts.add_argument(
        "--channels-last",
        action="store_true",
        help="time the memory layout channels-last alone; default: the faster layout of each network",
    )
    layouts.add_argument(
        "--contiguous",
        action="store_true",
        help="time the contiguous memory layout (NCHW) alone; default: the faster layout of each network",
    )
    add(
        "--optimize",
        choices=("fuse", "none"),
        default="fuse",
        help="what is done to networks of torch before: fuse folds BatchNorm into other layers, as predict and "
        "serve do, none leaves them as they are; default: %(default)s",
    )
    add("--compile", action="store_true", help="time torch.compile as well; takes minutes")
    add("--onnx", action="store_true", help="time onnxruntime as well, on the CPU in float32")
    add(
        "--repeats",
        type=whole(1),
        default=200,
        metavar="N",
        help="largest number of samples of each row; default: %(default)s",
    )
    add(
        "--seconds",
        type=float,
        default=10.0,
        metavar="S",
        help="seconds for each row, after which no sample begins once there are five; default: %(default)g",
    )
    add("--threads", type=whole(1), metavar="N", help="number of threads on the CPU; default: torch's own choice")
    add("--skip-memory", action="store_true", help="do not measure memory, which takes a process for each row")
    add_shared(parser, "trust", "quiet")
    add("--csv", metavar="FILE", help="write the rows to FILE, with more columns")
    add("--json", metavar="FILE", help="write the rows to FILE as JSON")
    add("--plot", metavar="FILE", help="draw the rows into FILE, a .svg, .png or .pdf file")


def run(args: Namespace) -> int:
    """Print the table and write it where asked; 1 if a row failed. See `ctxvision benchmark --help`."""
    if not args.seconds > 0:  # not a number, too
        raise UserError(f"--seconds must be more than 0, got {args.seconds:g}", 2)
    if args.plot and Path(args.plot).suffix.lower() not in _PICTURES:
        raise UserError(f"--plot must end in {', '.join(_PICTURES)}, got {args.plot}", 2)
    require_places(csv=args.csv, json=args.json, plot=args.plot)
    import torch

    from ctxvision.progress import shown
    from ctxvision.timing.comparison import COLUMNS, Settings, compare
    from ctxvision.timing.subjects import check_name

    quieten()
    device = _device("cpu" if args.onnx and args.device == "auto" else args.device)
    if args.onnx and (device.type != "cpu" or args.dtype != "float32"):
        raise UserError("--onnx is for the CPU and float32 here; leave it out, or --device and --dtype", 2)
    models = list(dict.fromkeys([*([args.against] if args.against else []), *args.models]))
    for model in models:
        check_name(model)
    with shown(note, quiet=args.quiet, threaded=False) as progress:
        rows = compare(
            Settings(
                models=models,
                against=args.against,
                device=device,
                dtype=args.dtype,
                size=args.size,
                batches=args.batch_size,
                layout="channels_last" if args.channels_last else "nchw" if args.contiguous else "best",
                optimize=args.optimize,
                compile=args.compile,
                onnx=args.onnx,
                repeats=args.repeats,
                seconds=args.seconds,
                threads=args.threads or torch.get_num_threads(),
                memory=not args.skip_memory,
                trust=args.trust,
            ),
            note,
            progress,
        )
    timed = [row for row in rows if not row["error"]]
    heads = _HEADS | ({"ratio": f"× {args.against}"} if args.against else {})
    keeping = Keeping()
    keeping.write(args.csv, lambda: write_rows(rows, dict.fromkeys(COLUMNS, ""), "csv"))
    keeping.write(args.json, lambda: write_rows(rows, {}, "json"))
    say_all(write_rows([_shown(row) for row in timed], heads, "table") if timed else "")
    if timed:
        keeping.write(args.plot, lambda: _plotted(timed, args.plot))
    if len({row["size"] for row in timed}) > 1:
        note("the images are not all of one size; --size makes them so")
    for row in rows:
        if row["error"]:
            note(f"{row['model']} ({row['runner']}, batch {row['batch']}): {row['error']}")
    return keeping.exit_code if len(timed) == len(rows) else 1


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    """Round for people: three digits, and quartiles behind the ratio."""
    shown = {name: _rounded(row[name]) if isinstance(row[name], float) else row[name] for name in _HEADS}
    if row["ratio"] is not None:
        shown["ratio"] = f"{row['ratio']:.2f} ({row['ratio_q1']:.2f} to {row['ratio_q3']:.2f})"
    else:
        shown["ratio"] = None
    return shown


def _rounded(value: float) -> float | int:
    return round(value) if abs(value) >= 100 else float(f"{value:.3g}")


def _plotted(rows: list[dict[str, Any]], path: str) -> bytes:
    from ctxvision.timing.figure import draw

    return draw(rows, Path(path).suffix[1:].lower())


def _device(name: str) -> "torch.device":
    from ctxvision.inference.opening import device_named

    device = device_named(name)
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"--device must be cpu or cuda, got {name}", 2)
    return device


def _batches(text: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(map(whole(1), text.split(","))))
