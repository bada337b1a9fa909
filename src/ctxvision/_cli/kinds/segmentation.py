"""Segmentation: mean IoU, classes of pixels, colours over images."""

from argparse import Namespace
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ctxvision._cli.messages import column, note
from ctxvision._cli.workers import workers_for
from ctxvision.data import BadImageError, read_image
from ctxvision.data.files import Listing
from ctxvision.data.images.reading import list_image_files
from ctxvision.data.segmentation.data import SegmentationData
from ctxvision.data.segmentation.spec import SegmentationSpec
from ctxvision.evaluation.segmentation import make_segmentation_report
from ctxvision.foreign import visible
from ctxvision.pages.segmentation_page import render
from ctxvision.plots.overlays import class_map, overlay, with_legend
from ctxvision.tasks.means import over_classes
from ctxvision.wording import plural

from . import BROKEN, Answer, Scored, as_png

if TYPE_CHECKING:
    from PIL import Image

    from ctxvision.runs import Run
    from ctxvision.tasks.segmentation import SegmentationTask

COLUMNS = ("image", "class", "share", "confidence")


def score(
    task: "SegmentationTask", run: "Run", data: str, split: str | None, images: int, args: Namespace
) -> Scored:
    """Count mean IoU; see `make_segmentation_report`."""
    embedded = data.startswith("digits-scenes")
    opened = SegmentationData(
        data,
        eval_batch_size=args.batch_size or 1,
        workers=(0 if embedded else workers_for(None, 1)) if args.workers is None else args.workers,
        strict=args.strict,
        spec=SegmentationSpec.from_dict(task.data_spec),
        eval_split=split or "val",
    )
    for line in opened.notes:
        note(line)
    report = make_segmentation_report(run, task, opened, data_name=data, split=split or "val", images=images)
    numbers = report.numbers
    width = column(["class", *(row["name"] for row in numbers["classes"])])
    lines = [f"{'class':{width}}      pixels      IoU"]
    lines += [
        f"{visible(row['name']):{width}}  {row['pixels']:10}  {_percent(row['iou']):>7}"
        for row in numbers["classes"]
    ]
    over = over_classes(len(numbers["classes"]), numbers["classes_left_out"])
    lines.append(
        f"mIoU {_percent(numbers['miou'])}{f' ({over})' if over else ''}, "
        f"pixel accuracy {_percent(numbers['pixel_accuracy'])} "
        f"({numbers['split']} of {data}, {plural(numbers['images'], 'image')})"
    )
    return Scored(numbers, partial(render, report), lines, len(opened.bad_images))


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def answer(task: "SegmentationTask", paths: Sequence[str], args: Namespace) -> Iterator[tuple[str, Answer]]:
    """Find the class of every pixel of image files."""
    spec = SegmentationSpec.from_dict(task.data_spec)
    transform = spec.eval_transform()
    for path in paths:
        try:
            picture = read_image(path, spec.color_mode)
        except BadImageError as error:
            yield path, Answer(error=error.reason)
            continue
        found = task.segment(transform(picture).to(task.device))
        if not found.confidence.isfinite().all():
            yield path, Answer(error=BROKEN)
            continue
        classes: list[dict[str, Any]] = []
        for index, name in enumerate(spec.class_names):
            here = found.classes == index
            if here.any():
                share, confidence = here.float().mean().item(), found.confidence[here].mean().item()
                classes.append({"class": name, "share": share, "confidence": confidence})
        classes.sort(key=lambda row: -row["share"])
        pictures: dict[str, Callable[[Path], None]] = {}
        if args.draw:
            pictures[".overlay.png"] = as_png(partial(_overlay, picture, found.classes, spec))
            pictures[".classes.png"] = as_png(partial(class_map, found.classes, spec.colors))
        entry = {"image": path, "width": picture.width, "height": picture.height, "classes": classes}
        rows = [
            {
                "image": path,
                "class": c["class"],
                "share": f"{c['share']:.6f}",
                "confidence": f"{c['confidence']:.6f}",
            }
            for c in classes
        ]
        yield path, Answer(entry, ", ".join(f"{c['class']} {c['share']:.1%}" for c in classes), rows, pictures)


def _overlay(picture: "Image.Image", classes: Any, spec: SegmentationSpec) -> "Image.Image":
    shown = overlay(picture, classes, spec.colors)
    return with_legend(shown, classes, spec.class_names, spec.colors)


def list_files(folder: str) -> Listing:
    """List the images below a folder."""
    return list_image_files(folder)
