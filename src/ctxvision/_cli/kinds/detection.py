"""Detectors: average precision, objects in images, boxes and masks drawn over them."""

from argparse import Namespace
from functools import partial
from typing import TYPE_CHECKING

from ctxvision._cli.errors import UserError
from ctxvision._cli.messages import column, note
from ctxvision._cli.workers import workers_for
from ctxvision.data.detection.data import DetectionData
from ctxvision.data.detection.spec import DetectionSpec
from ctxvision.data.files import Listing
from ctxvision.data.images.reading import list_image_files
from ctxvision.evaluation.detection import evaluate_detector
from ctxvision.foreign import visible
from ctxvision.pages.detection_page import render
from ctxvision.tasks.means import over_classes
from ctxvision.wording import plural

from . import Scored

if TYPE_CHECKING:
    from ctxvision.explain import Run
    from ctxvision.tasks.detection import DetectionTask

_BATCH = 8


def score(task: "DetectionTask", run: "Run", data: str, split: str | None, images: int, args: Namespace) -> Scored:
    """Count average precision; see `evaluate_detector`."""
    if split == "all":
        raise UserError("--split all is for classification; detectors are evaluated on val or train", 2)
    embedded = data.startswith("digits-scenes")
    opened = DetectionData(
        data,
        masks=task.model.has_masks,
        batch_size=args.batch_size or _BATCH,
        workers=(0 if embedded else workers_for(None, 1)) if args.workers is None else args.workers,
        strict=args.strict,
        spec=DetectionSpec.from_dict(task.data_spec),
        eval_split=split or "val",
        train=False,
    )
    for line in opened.notes:
        note(line)
    found = evaluate_detector(
        task,
        opened,
        data_name=data,
        split=split or "val",
        checkpoint=str(run.checkpoint),
        run=run.checkpoint.parent.parent if run.epochs else None,
        images=images,
        without_truth=bool(getattr(args, "results", None)),
    )
    numbers = found.numbers
    if not numbers["objects"]:
        note(f"{data}: there are no objects, so average precision means nothing; the results are complete")
    return Scored(numbers, partial(render, found), _lines(numbers), len(opened.bad_images), found.results)


def _lines(numbers: dict[str, object]) -> list[str]:
    classes, parts = numbers["classes"], [part for part in ("box", "mask") if part in numbers]
    assert isinstance(classes, list)
    width = column(["class", *(row["name"] for row in classes)])
    lines = [f"{'class':{width}}  objects" + "".join(f"  {part + ' AP':>7}" for part in parts)]
    for row in classes:
        values = "".join(f"  {_percent(row.get(f'{part}_ap')):>7}" for part in parts)
        lines.append(f"{visible(row['name']):{width}}  {row['objects']:7}{values}")
    left_out = numbers["classes_left_out"]
    assert isinstance(left_out, list)
    over = over_classes(len(classes), left_out)
    over = f" ({over})" if over else ""
    for part in parts:
        value = numbers[part]
        assert isinstance(value, dict)
        sizes = ", ".join(f"{name} {_percent(value[f'ap_{name}'])}" for name in ("small", "medium", "large"))
        lines.append(
            f"{part} AP {_percent(value['ap'])}{over}, AP50 {_percent(value['ap50'])}, "
            f"AP75 {_percent(value['ap75'])}; {sizes} "
            f"({numbers['split']} of {numbers['data']}, {plural(int(str(numbers['images'])), 'image')})"
        )
    return lines


def _percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.2%}"


def list_files(folder: str) -> Listing:
    """List the images below a folder."""
    return list_image_files(folder)
