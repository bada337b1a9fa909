"""Segmentation: mean IoU, classes of pixels, colours over images."""

from argparse import Namespace
from functools import partial
from typing import TYPE_CHECKING

from ctxvision._cli.messages import column, note
from ctxvision._cli.workers import workers_for
from ctxvision.data.files import Listing
from ctxvision.data.images.reading import list_image_files
from ctxvision.data.segmentation.data import SegmentationData
from ctxvision.data.segmentation.spec import SegmentationSpec
from ctxvision.evaluation.segmentation import make_segmentation_report
from ctxvision.foreign import visible
from ctxvision.pages.segmentation_page import render
from ctxvision.tasks.means import over_classes
from ctxvision.wording import plural

from . import Scored

if TYPE_CHECKING:
    from ctxvision.explain import Run
    from ctxvision.tasks.segmentation import SegmentationTask


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


def list_files(folder: str) -> Listing:
    """List the images below a folder."""
    return list_image_files(folder)
