"""``ctxvision evaluate``: accuracy of a checkpoint on a data set."""

import json
from argparse import ArgumentParser, Namespace

from .errors import UserError
from .files import write_whole
from .messages import note, plural, quieten


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help=".ckpt file of `ctxvision train`")
    parser.add_argument("data", metavar="DATA", help="folder of images, or digits")
    parser.add_argument(
        "--split",
        choices=("val", "train", "all"),
        help="which images; default: those not trained on, or all of a folder that the network never saw",
    )
    parser.add_argument("--batch_size", type=int, default=128, metavar="N", help="default: %(default)s")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes that decode images")
    parser.add_argument("--precision", choices=("32", "16-mixed", "bf16-mixed"), default="32")
    parser.add_argument("--accelerator", default="auto", help="cpu, gpu, mps or auto (default)")
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE as well")
    parser.add_argument("--strict", action="store_true", help="stop at the first bad image")


def run(args: Namespace) -> int:
    """Print top-1, top-5 and a table by class; see `ctxvision evaluate --help`."""
    if args.batch_size < 1 or args.workers < 0:
        raise UserError("--batch_size must be at least 1 and --workers at least 0", 2)
    from lightning.pytorch import Trainer

    from ctxvision.data import DataSpec
    from ctxvision.tasks import load_task

    from .class_counts import ClassCounts
    from .data import open_for_evaluation

    quieten()
    task = load_task(args.checkpoint)
    spec = DataSpec.from_dict(task.data_spec)
    data, split = open_for_evaluation(
        args.data,
        spec,
        args.split,
        batch_size=args.batch_size,
        workers=args.workers,
        strict=args.strict,
    )
    for line in data.notes:
        note(line)
    counts = ClassCounts(len(spec.class_names))
    try:
        trainer = Trainer(
            accelerator=args.accelerator,
            devices=1,
            precision=args.precision,
            logger=False,
            callbacks=[counts],
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
        )
    except (ValueError, RuntimeError) as error:  # Lightning's messages about accelerators
        raise UserError(str(error)) from error
    (metrics,) = trainer.validate(task, datamodule=data, verbose=False)
    report = {
        "checkpoint": args.checkpoint,
        "data": args.data,
        "split": split,
        "images": int(counts.total.sum()),
        "top1": metrics["val_top1"],
        "top5": metrics["val_top5"],
        "loss": metrics["val_loss"],
        "classes": [
            {"name": name, "images": int(total), "top1": int(right) / int(total) if total else None}
            for name, total, right in zip(spec.class_names, counts.total, counts.right, strict=True)
        ],
        "bad_images": [{"path": path, "reason": reason} for path, reason in data.bad_images.items()],
    }
    _print(report)
    if args.json:
        write_whole(args.json, json.dumps(report, indent=2) + "\n")
    if data.bad_images:
        note(f"skipped {plural(len(data.bad_images), 'bad image')}, not counted above")
    return 0


def _print(report: dict) -> None:
    width = max(len("class"), *(len(row["name"]) for row in report["classes"]))
    print(f"{'class':{width}}  images   top-1")
    for row in report["classes"]:
        top1 = "      –" if row["top1"] is None else f"{row['top1']:7.2%}"
        print(f"{row['name']:{width}}  {row['images']:6}  {top1}")
    top5 = f", top-5 {report['top5']:.2%}" if len(report["classes"]) > 5 else ""
    print(f"top-1 {report['top1']:.2%}{top5} of {report['images']} images ({report['split']} of {report['data']})")
