"""``ctxvision predict``: what a network says about images or videos: classes, objects, classes of pixels."""

from argparse import ArgumentParser, Namespace

from ctxvision.files import near_path, write_whole
from ctxvision.wording import plural

from .answers import FOLDERS, FORMATS, Output
from .files import make_folder, require_places
from .messages import Keeping, UserError, note, quieten, say_all
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
    add(
        "--format",
        choices=FORMATS,
        default="table",
        help="format of the output; coco is one JSON file, yolo a text file for each image, both of a detector; "
        "cityscapes is a PNG file of label ids for each image, of a segmentation network; default: %(default)s",
    )
    add(
        "--out",
        metavar="FILE",
        help="write to FILE instead of the terminal; for yolo and cityscapes, folder to write to",
    )
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
    add_shared(parser, "interpolation", "workers", "trust", "device", "optimize", "strict", "quiet")


def run(args: Namespace) -> int:
    """Print or write the predictions; 1 if no image could be read. See `ctxvision predict --help`."""
    in_folder = args.format in FOLDERS
    if in_folder and not args.out:
        raise UserError(f"--format {args.format} writes a file for each image; name the folder with --out", 2)
    if not in_folder:
        require_places(out=args.out)
    quieten()
    from ctxvision.inference import open_predictor
    from ctxvision.progress import counted, shown

    predictor = open_predictor(args.checkpoint, args.device, trust=args.trust, optimize=args.optimize)
    require_task(args.task, args.checkpoint, predictor.task)
    if args.interpolation:
        predictor.resize_by(args.interpolation)
    if predictor.task == "classification" and (args.draw or args.threshold is not None):
        raise UserError(f"{args.checkpoint}: a classifier; leave out --draw and --threshold", 2)
    inputs = list(predictor.expanded(args.images))
    output = Output(args.format, predictor, args.checkpoint, args.out)
    folder = make_folder(args.draw) if args.draw else None
    not_drawn: list[tuple[str, Exception]] = []
    bad, drawn, taken = 0, 0, set[str]()
    answers = predictor(
        inputs,
        batch_size=args.batch_size,
        workers=args.workers,
        top_k=args.top_k,
        threshold=0.5 if args.threshold is None else args.threshold,
        clips=args.clips,
        crops=args.crops,
    )
    with shown(note, quiet=args.quiet) as progress:
        what = f"predicting {predictor.sample_name}s"
        for answer in counted(answers, progress, what, len(inputs)):
            if answer.error:
                if args.strict:
                    raise UserError(f"{answer.path}: {answer.error}")
                note(f"skipped {answer.path}: {answer.error}{near_path(answer.path or '')}")
                bad += 1
                continue
            pictures = None
            if folder:
                from .answer_pictures import save_pictures

                try:
                    pictures = save_pictures(folder, answer, predictor, taken)
                    drawn += len(pictures)
                except Exception as error:
                    not_drawn.append((str(answer.path), error))
            output.add(answer, pictures)
    if predictor.prepared:
        note(f"{args.checkpoint}: {predictor.prepared}")
    text = output.text()
    if args.out and not in_folder:
        write_whole(args.out, text)
        note(f"{plural(output.count, predictor.sample_name)} answered, written to {args.out}")
    elif output.count or args.format != "table":
        say_all(text)
    if bad:
        what = "bad image" if predictor.task == "classification" else "bad file"
        note(f"skipped {plural(bad, what)} of {bad + output.count}")
    if drawn:
        note(f"{plural(drawn, 'picture')} drawn in {args.draw}")
    keeping = Keeping()
    if not_drawn:
        path, first_error = not_drawn[0]
        count = f"the pictures of {plural(len(not_drawn), 'file')}"
        with keeping.step(count if len(not_drawn) == 1 else f"{count}, the first {path},"):
            raise first_error
    return keeping.exit_code if output.count else 1
