"""``ctxvision explain`` for detectors, segmentation networks and video networks."""

from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from .errors import UserError
from .explain import class_index, finish, load_other, some
from .files import expand
from .messages import note

if TYPE_CHECKING:
    from ctxvision.explain.parts_explanation import Network, Sample


def explain_parts(args: Namespace, task: Any) -> int:
    """Write the page and print its path; 1 if no file could be read."""
    _check(args, task.kind)
    from ctxvision.explain.offsets import contextual_layers
    from ctxvision.explain.parts_explanation import Network, gather
    from ctxvision.inference import predictor_of
    from ctxvision.pages.parts_page import render

    network = Network(args.checkpoint, task, args.layer)
    against = Network(args.against, load_other(args, task), args.against_layer) if args.against else None
    asked = class_index(network.names, "class", args.asked)
    thing = "videos" if task.kind == "video" else "images"
    paths = some(expand(args.images, predictor_of(task).list_files, thing), args.limit, thing)
    bad: list[dict[str, str]] = []
    samples = list(_explain(args, paths, network, against, asked, bad))
    if not samples:
        note(f"no {thing[:-1]} could be read, so nothing was written")
        return 1
    made = gather(network, against, samples)
    made.numbers["bad_images"] = bad
    page = partial(render, made, contextual=bool(contextual_layers(task.model)))
    return finish(args, made.pictures, made.numbers, page, len(paths))


def _check(args: Namespace, kind: str) -> None:
    for option, value in (("truth", args.truth), ("data", args.data), ("split", args.split)):
        if value is not None:
            raise UserError(f"--{option} is for classification; {args.checkpoint} is a network for {kind}", 2)
    if args.threshold is not None and kind != "detection":
        raise UserError(f"--threshold is for detectors; {args.checkpoint} is a network for {kind}", 2)
    if args.threshold is not None and not 0 <= args.threshold <= 1:
        raise UserError(f"--threshold must be from 0 to 1, got {args.threshold}", 2)


def _explain(
    args: Namespace,
    paths: list[str],
    network: "Network",
    against: "Network | None",
    asked: int | None,
    bad: list[dict[str, str]],
) -> Iterator["Sample"]:
    from ctxvision.data import BadImageError
    from ctxvision.explain.explanation_classes import network_labels

    labels = network_labels(network.task, against and against.task)
    options: dict[str, Any] = {"labels": labels, "asked": asked, "against": against}
    number = 0
    for path in paths:
        try:
            yield _of_file(args, path, network, f"image{number + 1}", options)
            number += 1
        except BadImageError as error:
            if args.strict:
                raise
            note(f"skipped {path}: {error.reason}")
            bad.append({"path": path, "reason": error.reason})


def _of_file(args: Namespace, path: str, network: "Network", name: str, options: dict[str, Any]) -> "Sample":
    if network.task.kind == "video":
        from ctxvision.data.video.reading import VideoFile
        from ctxvision.explain.frames_explanation import explain_frames

        return explain_frames(network, path, VideoFile(path), name, **options)
    from ctxvision.data import read_image

    networks = [network, *([options["against"]] if options["against"] else [])]
    pictures = [read_image(path, _mode(one.task)) for one in networks]
    if network.task.kind == "segmentation":
        from ctxvision.explain.pixels_explanation import explain_pixels

        return explain_pixels(network, path, pictures, name, **options)
    from ctxvision.explain.boxes_explanation import explain_boxes

    threshold = 0.5 if args.threshold is None else args.threshold
    return explain_boxes(network, path, pictures, name, threshold=threshold, **options)


def _mode(task: Any) -> str:
    spec = task.data_spec
    return "L" if spec.get("in_chans", spec.get("input_size", [3])[0]) == 1 else "RGB"
