"""Answers in the formats of other tools: COCO's JSON, YOLO's text files, label ids of Cityscapes."""

import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ctxvision.data import DetectionSpec

from .answer import InferenceError
from .detection import Objects
from .segmentation import Pixels


def coco_dataset(answers: Iterable[Objects], spec: DetectionSpec) -> dict[str, Any]:
    """Return detections as a data set in COCO's format, whose annotations have a ``score``.

    Tools that read COCO's annotation files read it, such as those for labelling; its annotations alone are what
    COCO calls results. Ids of images and annotations count from 1; those of categories are the ones that the
    network was trained with.

    Args:
        answers: The answers of a detector about files.
        spec: The description of the detector's data.
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, answer in enumerate(answers, 1):
        images.append({"id": image_id, "file_name": answer.path, "width": answer.width, "height": answer.height})
        for found in answer.objects:
            mask = {"segmentation": found.segmentation} if found.segmentation else {}
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": spec.category_ids[found.label - 1],
                    "bbox": list(found.bbox),
                    "score": found.score,
                    "area": found.area,
                    "iscrowd": 0,
                    **mask,
                }
            )
    named = zip(spec.category_ids, spec.class_names, strict=True)
    categories = [{"id": number, "name": name} for number, name in named]
    return {"images": images, "annotations": annotations, "categories": categories}


def yolo_lines(answer: Objects) -> str:
    """Return the objects on an image as YOLO's text file has them, the most certain first.

    A line is ``class x y width height score``: the class counts from 0, the centre and the size of the box are
    shares of the image's width and height. An image without objects has an empty file.
    """
    lines = []
    for found in answer.objects:
        x, y, width, height = found.bbox
        numbers = (
            (x + width / 2) / answer.width,
            (y + height / 2) / answer.height,
            width / answer.width,
            height / answer.height,
            found.score,
        )
        lines.append(" ".join([str(found.label - 1), *(f"{number:.6f}" for number in numbers)]) + "\n")
    return "".join(lines)


def cityscapes_ids(class_names: Sequence[str]) -> Mapping[int, int]:
    """Return the label id of each class of a network that was trained on classes of Cityscapes.

    Args:
        class_names: The names of the classes, in the order of the network's outputs.

    Raises:
        InferenceError: A class is none of Cityscapes'.

    Examples:
        >>> cityscapes_ids(["road", "car"])
        {0: 7, 1: 26}
    """
    from torchvision.datasets import Cityscapes

    ids = {one.name: one.id for one in Cityscapes.classes if one.id >= 0}
    odd = [name for name in class_names if name not in ids]
    if odd:
        raise InferenceError(
            f"label ids are for the classes of Cityscapes, such as {', '.join(list(ids)[7:10])}; the network has "
            f"{len(odd)} other classes, the first {odd[0]!r}"
        )
    return {index: ids[name] for index, name in enumerate(class_names)}


def label_id_png(answer: Pixels, ids: Mapping[int, int]) -> bytes:
    """Return the classes of an image's pixels as a PNG file of label ids, of the size of the image.

    Args:
        answer: The answer of a segmentation network.
        ids: The label id, 0 to 255, of each class; see `cityscapes_ids`.
    """
    table = np.zeros(max(ids) + 1, dtype=np.uint8)
    table[list(ids)] = list(ids.values())
    file = io.BytesIO()
    Image.fromarray(table[answer.classes]).save(file, "PNG")
    return file.getvalue()
