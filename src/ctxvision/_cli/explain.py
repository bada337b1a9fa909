"""``ctxvision explain``: what a trained network looked at."""

from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from ctxvision.files import write_folder
from ctxvision.runs import checkpoint_of
from ctxvision.wording import plural

from .files import require_place
from .messages import Keeping, UserError, note, quieten, say
from .options import add_shared, share, whole

if TYPE_CHECKING:
    from ctxvision.data import DigitsData, ImageData
    from ctxvision.inference import Predictor


def add_arguments(parser: ArgumentParser) -> None:
    """Declare the options."""
    add = parser.add_argument
    add(
        "checkpoint",
        metavar="CHECKPOINT",
        type=checkpoint_of,
        help="network to explain: .ckpt file or run folder of `ctxvision train`, or name of a network with "
        "pretrained weights",
    )
    add("images", metavar="IMAGE", nargs="+", help="image files, and folders of them; videos for a video network")
    add("--out", metavar="DIR", required=True, help="folder for explain.html, explain.json and the figures")
    add(
        "--class",
        dest="asked",
        metavar="NAME",
        help="class to explain in every image; default: what the network answers or finds",
    )
    add(
        "--layer",
        metavar="NAME",
        help="name of the layer for Grad-CAM; default: the layer that the page on explanations names",
    )
    add(
        "--against",
        metavar="CHECKPOINT",
        type=checkpoint_of,
        help="second network to compare with, as CHECKPOINT",
    )
    add("--against-layer", metavar="NAME", help="name of the layer of the second network for Grad-CAM")
    add(
        "--truth",
        metavar="NAME",
        help="true class of the images; default: the name of an image's folder, where there is such a class",
    )
    add(
        "--data",
        metavar="DATA",
        help="data set over which to follow the true classes through a contextual network, as for `evaluate`",
    )
    add("--split", choices=("val", "train", "all"), help="part of DATA to read; default: as for `evaluate`")
    add(
        "--threshold",
        type=share,
        metavar="S",
        help="lowest score of the boxes of a detector that are explained; default: 0.5",
    )
    add(
        "--limit",
        type=whole(1),
        default=12,
        metavar="N",
        help="largest number of images to explain; of more, these are spread evenly; default: %(default)s",
    )
    add(
        "--batch-size",
        type=whole(1),
        default=128,
        metavar="N",
        help="number of images of DATA computed at a time; default: %(default)s",
    )
    add(
        "--workers",
        type=whole(0),
        default=0,
        metavar="N",
        help="number of processes that decode DATA; default: %(default)s, which decodes in the main process",
    )
    add_shared(parser, "device", "trust", "strict", "quiet")


def run(args: Namespace) -> int:
    """Write the page and print its path; 1 if no image could be read. See `ctxvision explain --help`."""
    if args.against_layer and not args.against:
        raise UserError("--against-layer is a layer of the network that --against names", 2)
    require_place(args.out, "explain.json")
    quieten()

    from ctxvision.explain import explain
    from ctxvision.inference import open_predictor
    from ctxvision.pages.explanation_page import render
    from ctxvision.progress import shown

    network = open_predictor(args.checkpoint, args.device, trust=args.trust, optimize="none")
    _check(args, network)
    with shown(note, quiet=args.quiet) as progress:
        explanation = explain(
            network,
            args.images,
            class_name=args.asked,
            layer=args.layer,
            against=open_predictor(args.against, args.device, trust=args.trust, optimize="none")
            if args.against
            else None,
            against_layer=args.against_layer,
            truth=args.truth,
            threshold=0.5 if args.threshold is None else args.threshold,
            data=_opened_data(args, network) if args.data else None,
            limit=args.limit,
            strict=args.strict,
            network_name=args.checkpoint,
            against_name=args.against or "",
            data_name=args.data or "",
            progress=progress,
        )
    bad = len(explanation.bad_images)
    if not explanation.images:
        note(f"no {network.sample_name} could be read, so nothing was written")
        return 1
    if bad:
        note(f"skipped {plural(bad, 'bad image')} of {len(explanation.images) + bad}")
    files, html, keeping = explanation.files(), Path(args.out) / "explain.html", Keeping()
    with keeping.step(str(html)):
        files["explain.html"] = render(explanation).encode()
    if keeping.exit_code:
        html.unlink(missing_ok=True)  # an earlier call's is of other figures
    write_folder(args.out, files)
    say(html if "explain.html" in files else args.out)
    return keeping.exit_code


def _check(args: Namespace, network: "Predictor") -> None:
    """Refuse options that this network has no use for, and names that are not its classes."""
    from ctxvision.explain.pipeline import follows_classes, require_class

    what = f"{args.checkpoint} is a network for {network.task}"
    for option in ("truth", "data", "split"):
        if getattr(args, option) is not None and network.task != "classification":
            raise UserError(f"--{option} is for classification; {what}", 2)
    if args.threshold is not None and network.task != "detection":
        raise UserError(f"--threshold is for detectors; {what}", 2)
    if network.module is None:
        raise UserError(f"{args.checkpoint}: is not the checkpoint of a training, whose layers can be looked into")
    if args.data and not follows_classes(network.module):
        raise UserError(
            f"--data: {network.model_name} weighs all classes at once, so there is no funnel to follow", 2
        )
    for option, name in (("class", args.asked), ("truth", args.truth)):
        try:
            require_class(name, list(network.class_names))
        except ValueError as error:
            raise UserError(f"--{option}: {error}", 2) from error


def _opened_data(args: Namespace, network: "Predictor") -> "DigitsData | ImageData":
    """Open DATA for a classifier, and say what is to be said of it."""
    from ctxvision.evaluation import DataRequest

    request = DataRequest(args.data, args.split, args.batch_size, args.workers, args.strict)
    source = request.open(network.data_spec, network.task, batch_size=args.batch_size)
    return cast("DigitsData | ImageData", source.module)
