"""``ctxvision predict``: what a network says about images or videos: classes, objects, classes of pixels."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import Any

from ctxvision.files import write_whole
from ctxvision.foreign import csv_text, json_text, visible
from ctxvision.runs import checkpoint_of
from ctxvision.wording import plural

from .device import on_device
from .errors import UserError
from .files import expand, make_folder, require_places
from .keeping import Keeping
from .kinds import add_task, kind_of, require_task, save_pictures
from .messages import column, note, quieten, say_all
from .table import write_rows
from .trust import add_trust
from .views import add_views, check_views
from .workers import add_workers, workers_for

COLUMNS = ("image", "rank", "class", "probability")


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "checkpoint",
        metavar="CHECKPOINT",
        type=checkpoint_of,
        help=".ckpt file or run folder of `ctxvision train`, or .onnx or .pt2 of `ctxvision export` "
        "(of --aot: with --trust)",
    )
    parser.add_argument("images", metavar="IMAGE", nargs="+", help="image or video files, and folders of them")
    add_task(parser)
    parser.add_argument(
        "--top_k", type=int, default=5, metavar="K", help="classes per image; default: %(default)s"
    )
    parser.add_argument("--format", choices=("table", "csv", "json"), default="table", help="default: %(default)s")
    parser.add_argument("--out", metavar="FILE", help="write to FILE instead of the terminal")
    parser.add_argument(
        "--draw", metavar="DIR", help="write pictures to DIR: boxes and masks, classes of pixels, labelled clips"
    )
    parser.add_argument("--threshold", type=float, metavar="P", help="least score of an object; default: 0.5")
    add_views(parser)
    parser.add_argument("--batch_size", type=int, default=32, metavar="N", help="default: %(default)s")
    add_workers(parser)
    add_trust(parser)
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, mps, …")
    parser.add_argument("--strict", action="store_true", help="stop at the first bad image")


def run(args: Namespace) -> int:
    """Print or write the predictions; 1 if no image could be read. See `ctxvision predict --help`."""
    if min(args.top_k, args.batch_size) < 1 or (args.workers or 0) < 0:
        raise UserError("--top_k and --batch_size must be at least 1, --workers at least 0", 2)
    check_views(args)
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise UserError(f"--threshold must be between 0 and 1, got {args.threshold}", 2)
    require_places(out=args.out)
    quieten()
    opened: Any
    if Path(args.checkpoint).suffix.lower() in (".onnx", ".pt2"):
        from ctxvision.export import open_exported

        opened = open_exported(args.checkpoint, trust=args.trust)
        require_task(args.task, args.checkpoint, opened.metadata.task)
        if opened.metadata.task != "classification":
            return _run_other(_standing_for(opened, args.device), args)
    else:
        from ctxvision.tasks import load_task

        opened = load_task(args.checkpoint, trust=args.trust)
        require_task(args.task, args.checkpoint, opened.kind)
        if opened.kind != "classification":
            return _run_other(on_device(opened, args.device), args)
    if args.draw or args.threshold is not None:
        raise UserError(f"{args.checkpoint}: a classifier; leave out --draw and --threshold", 2)
    from .classify import classify, prepared

    compute, spec = prepared(opened, args.device)
    from ctxvision.data.images.reading import list_image_files

    paths = expand(args.images, list_image_files)
    workers = workers_for(len(paths), args.batch_size) if args.workers is None else args.workers
    bad = 0
    predictions: list[dict[str, Any]] = []
    for path, outcome in classify(compute, spec, paths, args.top_k, args.batch_size, workers):
        if isinstance(outcome, str):
            if args.strict:
                raise UserError(f"{path}: {outcome}")
            note(f"skipped {path}: {outcome}")
            bad += 1
        else:
            predictions.append(
                {"image": path, "predictions": [{"class": name, "probability": p} for name, p in outcome]}
            )
    text = {"table": _table, "csv": _csv, "json": _json}[args.format](predictions)
    if args.out:
        write_whole(args.out, text)
    elif predictions or args.format != "table":
        say_all(text)
    if bad:
        note(f"skipped {plural(bad, 'bad image')} of {len(paths)}")
    return 0 if predictions else 1


def _run_other(task: Any, args: Namespace) -> int:
    """Predict with a detector, a segmentation network or a video network."""
    kind = kind_of(task.kind)
    folder = make_folder(args.draw) if args.draw else None
    paths, bad, taken = expand(args.images, kind.list_files, f"{task.sample_name}s"), 0, set[str]()
    answers: list[tuple[str, Any]] = []
    not_drawn: list[tuple[str, Exception]] = []
    for path, found in kind.answer(task, paths, args):
        if found.error:
            if args.strict:
                raise UserError(f"{path}: {found.error}")
            note(f"skipped {path}: {found.error}")
            bad += 1
            continue
        if folder:
            try:
                found.entry["pictures"] = save_pictures(folder, path, found.pictures, taken)
            except Exception as error:
                not_drawn.append((path, error))
        found.pictures.clear()
        answers.append((path, found))
    width = column(path for path, _ in answers)
    text = {
        "table": lambda: "".join(f"{visible(path):{width}}  {visible(found.line)}\n" for path, found in answers),
        "csv": lambda: write_rows(
            [row for _, f in answers for row in f.rows], dict.fromkeys(kind.COLUMNS, ""), "csv"
        ),
        "json": lambda: _json([found.entry for _, found in answers]),
    }[args.format]()
    if args.out:
        write_whole(args.out, text)
    elif answers or args.format != "table":
        say_all(text)
    if bad:
        note(f"skipped {plural(bad, 'bad file')} of {len(paths)}")
    keeping = Keeping()
    if not_drawn:
        path, error = not_drawn[0]
        count = f"the pictures of {plural(len(not_drawn), 'file')}"
        with keeping.step(count if len(not_drawn) == 1 else f"{count}, the first {path},"):
            raise error
    return keeping.exit_code if answers else 1


def _standing_for(exported: Any, device: str) -> Any:
    from ctxvision.export import as_task

    if device != "cpu":
        raise UserError(f"exported networks run on the CPU here, not on {device!r}; leave out --device")
    return as_task(exported)


def _table(predictions: list[dict[str, Any]]) -> str:
    width = column(p["image"] for p in predictions)
    lines = [
        f"{visible(p['image']):{width}}  "
        + "  ".join(f"{visible(q['class'])} {q['probability']:.1%}" for q in p["predictions"])
        for p in predictions
    ]
    return "".join(f"{line}\n" for line in lines)


def _csv(predictions: list[dict[str, Any]]) -> str:
    rows = [
        (p["image"], rank, q["class"], f"{q['probability']:.6f}")
        for p in predictions
        for rank, q in enumerate(p["predictions"], 1)
    ]
    return csv_text([COLUMNS, *rows])


def _json(predictions: list[dict[str, Any]]) -> str:
    return json_text(predictions, indent=2, allow_nan=False) + "\n"
