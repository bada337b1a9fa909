"""``ctxvision predict``: what a network says about images or videos: classes, objects, classes of pixels."""

from argparse import ArgumentParser, Namespace
from typing import Any

from ctxvision.files import write_whole
from ctxvision.foreign import json_text, visible
from ctxvision.wording import column, plural

from .files import make_folder, require_places
from .messages import Keeping, UserError, note, quieten, say_all, write_rows
from .options import add_shared, require_task, share, whole


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add(
        "checkpoint",
        metavar="CHECKPOINT",
        help="network that answers: .ckpt file or run folder of `ctxvision train`, .onnx or .pt2 of "
        "`ctxvision export` (of --aot: with --trust), folder of `ctxvision publish`, or name of a network with "
        "pretrained weights",
    )
    add("images", metavar="IMAGE", nargs="+", help="image or video files, and folders of them")
    add_shared(parser, "task")
    add(
        "--top-k",
        type=whole(1),
        default=5,
        metavar="K",
        help="number of classes to name for each image; default: %(default)s",
    )
    add_shared(parser, "format")
    add("--out", metavar="FILE", help="write to FILE instead of the terminal")
    add("--draw", metavar="DIR", help="write pictures to DIR: boxes and masks, classes of pixels, labelled clips")
    add(
        "--threshold",
        type=share,
        metavar="P",
        help="lowest score of the objects that a detector reports; default: 0.5",
    )
    add_shared(parser, "clips", "crops")
    add(
        "--batch-size",
        type=whole(1),
        metavar="N",
        help="number of images computed at a time; default: 32 for a classifier, 1 for others",
    )
    add_shared(parser, "workers", "trust", "device", "strict")


def run(args: Namespace) -> int:
    """Print or write the predictions; 1 if no image could be read. See `ctxvision predict --help`."""
    require_places(out=args.out)
    quieten()
    from ctxvision.inference import open_predictor

    predictor = open_predictor(args.checkpoint, args.device, trust=args.trust)
    require_task(args.task, args.checkpoint, predictor.task)
    if predictor.task == "classification" and (args.draw or args.threshold is not None):
        raise UserError(f"{args.checkpoint}: a classifier; leave out --draw and --threshold", 2)
    folder = make_folder(args.draw) if args.draw else None
    entries: list[dict[str, Any]] = []
    rows: list[dict[str, Any]] = []
    lines: list[tuple[str, str]] = []
    not_drawn: list[tuple[str, Exception]] = []
    bad, taken = 0, set[str]()
    for answer in predictor(
        args.images,
        batch_size=args.batch_size,
        workers=args.workers,
        top_k=args.top_k,
        threshold=0.5 if args.threshold is None else args.threshold,
        clips=args.clips,
        crops=args.crops,
    ):
        if answer.error:
            if args.strict:
                raise UserError(f"{answer.path}: {answer.error}")
            note(f"skipped {answer.path}: {answer.error}")
            bad += 1
            continue
        entry = answer.to_dict()
        if folder:
            from .answer_pictures import save_pictures

            try:
                entry["pictures"] = save_pictures(folder, answer, predictor, taken)
            except Exception as error:
                not_drawn.append((str(answer.path), error))
        entries.append(entry)
        rows += answer.rows()
        lines.append((str(answer.path), answer.summary()))
    if args.format == "json":
        text = json_text(entries, indent=2, allow_nan=False) + "\n"
    elif args.format == "csv":
        text = write_rows(rows, dict.fromkeys(predictor.answer_type.columns, ""), "csv")
    else:
        width = column(path for path, _ in lines)
        text = "".join(f"{visible(path):{width}}  {visible(line)}\n" for path, line in lines)
    if args.out:
        write_whole(args.out, text)
        note(f"{plural(len(entries), predictor.sample_name)} answered, written to {args.out}")
    elif entries or args.format != "table":
        say_all(text)
    if bad:
        what = "bad image" if predictor.task == "classification" else "bad file"
        note(f"skipped {plural(bad, what)} of {bad + len(entries)}")
    if drawn := sum(len(entry.get("pictures", ())) for entry in entries):
        note(f"{plural(drawn, 'picture')} drawn in {args.draw}")
    keeping = Keeping()
    if not_drawn:
        path, first_error = not_drawn[0]
        count = f"the pictures of {plural(len(not_drawn), 'file')}"
        with keeping.step(count if len(not_drawn) == 1 else f"{count}, the first {path},"):
            raise first_error
    return keeping.exit_code if entries else 1
