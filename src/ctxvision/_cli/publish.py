"""``ctxvision publish``: a trained network for ``timm.create_model`` and the Hugging Face Hub."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ctxvision.runs import checkpoint_of

from .messages import UserError, note, quieten, say
from .options import add_shared


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add(
        "checkpoint",
        metavar="CHECKPOINT",
        type=checkpoint_of,
        help="network to publish: .ckpt file or run folder of `ctxvision train`, or name of a network with "
        "pretrained weights",
    )
    add(
        "folder",
        metavar="DIR",
        help="folder to make; timm.create_model('local-dir:DIR', pretrained=True) loads it",
    )
    add("--push", metavar="USER/REPO", help="upload the folder to the Hugging Face Hub as well")
    add("--private", action="store_true", help="make a new repository private")
    add("--name", help="name of the network on its card; default: the name of REPO or DIR")
    add(
        "--dataset",
        metavar="NAME",
        help="name of the data set on the card; default: what the network was trained on",
    )
    add(
        "--license",
        metavar="ID",
        help="identifier of the license of the weights, such as apache-2.0; default: the known one, if any",
    )
    add(
        "--metrics",
        metavar="FILE",
        action="append",
        default=[],
        help="JSON file of `ctxvision evaluate CHECKPOINT DATA --json FILE` for the card; may be repeated",
    )
    add_shared(parser, "trust")
    add("--overwrite", action="store_true", help="replace what an earlier call wrote to DIR")


def run(args: Namespace) -> int:
    """Write the folder, upload it on request; see `ctxvision publish --help`."""
    if args.private and not args.push:
        raise UserError("--private is for --push", 2)
    from ctxvision.publish import check_upload, publish, read_provenance, read_scores, upload
    from ctxvision.publish.folder import check_folder
    from ctxvision.tasks import ClassificationTask, load_task

    quieten()
    check_folder(Path(args.folder), args.overwrite)
    if args.push:
        check_upload(args.push)
    task = load_task(args.checkpoint, trust=args.trust)
    if not isinstance(task, ClassificationTask):
        raise UserError(
            f"{args.checkpoint}: its task is {task.kind}, and timm holds classifiers; publish the classifier "
            "that its backbone was trained from"
        )
    facts = publish(
        task,
        args.folder,
        provenance=read_provenance(args.checkpoint),
        scores=[score for path in args.metrics for score in read_scores(path, task, args.checkpoint)],
        name=args.name,
        repo=args.push,
        dataset=args.dataset,
        license=args.license,
        overwrite=args.overwrite,
    )
    if not facts.license:
        note("the card states no licence of the weights; --license ID does")
    if not facts.scores:
        note("the card has no accuracy; --metrics takes the JSON file of `ctxvision evaluate`")
    best = f", {facts.scores[0].metric} {facts.scores[0].value:.2%}" if facts.scores else ""
    say(f"{facts.config['architecture']}, {facts.parameters / 1e6:.2f} M parameters{best}")
    say(args.folder)
    if args.push:
        say(upload(args.folder, args.push, private=args.private))
    return 0
