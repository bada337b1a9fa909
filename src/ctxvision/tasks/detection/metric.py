"""Detections as rows and in COCO's results file, and average precision by COCO's definition over all processes."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_MASK = 0.5  # probability from which on a pixel belongs to an object


def detections_to_rows(found: Mapping[str, Tensor], *, masks: bool = False) -> list[dict[str, Any]]:
    """Turn one image's detections into rows, in their order.

    Args:
        found: The detections of an image: ``boxes`` (n, 4) as x0, y0, x1, y1; ``labels`` (n,); ``scores`` (n,);
            for masks ``masks`` (n, 1, H, W), probabilities.
        masks: Whether rows have a ``segmentation``, a compressed run-length code, whose number of pixels is the
            ``area``.

    Returns:
        Rows of ``label``, ``bbox`` (x, y, width, height), ``score``, ``area``.
    """
    boxes = found["boxes"].cpu().double()
    boxes[:, 2:] -= boxes[:, :2]
    columns = (boxes.tolist(), found["labels"].tolist(), found["scores"].tolist())
    rows: list[dict[str, Any]] = [
        {"label": label, "bbox": box, "score": score, "area": box[2] * box[3]}
        for box, label, score in zip(*columns, strict=True)
    ]
    if masks:
        for row, mask in zip(rows, found["masks"][:, 0], strict=True):
            row["segmentation"], row["area"] = _encode(mask)
    return rows


def _encode(mask: Tensor) -> tuple[dict[str, Any], int]:
    """Return the code of a mask (H, W) of probabilities, and its number of pixels."""
    from faster_coco_eval import mask as codes

    # one at a time: all masks of a large image together need gigabytes
    pixels = np.asfortranarray((mask >= _MASK).cpu().numpy().astype(np.uint8))
    code = codes.encode(pixels)
    return {"size": list(mask.shape), "counts": code["counts"].decode("ascii")}, int(pixels.sum())


def coco_results(
    image_id: int | str, rows: Sequence[Mapping[str, Any]], category_ids: Sequence[int]
) -> list[dict[str, Any]]:
    """Return one image's rows as entries of COCO's results file.

    Args:
        image_id: The id of the image in the annotation file.
        rows: The rows that `detections_to_rows` returned.
        category_ids: The ids of the labels 1, 2, … in the annotation file.
    """
    return [
        {
            "image_id": image_id,
            "category_id": category_ids[row["label"] - 1],
            "bbox": row["bbox"],
            "score": row["score"],
        }
        | ({"segmentation": row["segmentation"]} if "segmentation" in row else {})
        for row in rows
    ]


IouType = Literal["bbox", "segm"]
Row = dict[str, Any]


@dataclass(frozen=True)
class AveragePrecision:
    """COCO's averages; a value is NaN where there are no objects to find.

    Attributes:
        ap: The mean of the average precision over IoU thresholds 0.50, 0.55, … 0.95 and over classes.
        ap50: The average precision at IoU 0.50.
        ap75: The average precision at IoU 0.75.
        ap_small: The average precision on objects of fewer than 32² pixels.
        ap_medium: The average precision on objects of 32² to 96² pixels.
        ap_large: The average precision on objects of more than 96² pixels.
        recall: The mean of the largest recall over the same thresholds and classes.
        by_class: The value of ``ap`` for every class.
        by_class50: The value of ``ap50`` for every class.
    """

    ap: float
    ap50: float
    ap75: float
    ap_small: float
    ap_medium: float
    ap_large: float
    recall: float
    by_class: tuple[float, ...]
    by_class50: tuple[float, ...]


class DetectionMetric:
    """Collects detections and truth image by image, on every process its own, and evaluates them together.

    The arithmetic is that of faster-coco-eval, which equals pycocotools'. Two rules of ours: images are put in
    the order of their ids first, so that ties between scores do not depend on batches or processes; and an
    image that comes up twice counts once.

    Small, medium and large count for masks by the area of the mask, as in Detectron2 and torchvision;
    pycocotools would take the box's where results have both.

    Args:
        num_classes: The number of classes; labels are 1 to this.
        masks: Whether masks are evaluated too.
    """

    def __init__(self, num_classes: int, *, masks: bool = False) -> None:
        self.num_classes, self.masks = num_classes, masks
        self._images: dict[Any, tuple[list[Row], list[Row]]] = {}

    def reset(self) -> None:
        """Forget all images."""
        self._images = {}

    def update(self, targets: Iterable[Mapping[str, Any]], detections: Iterable[Mapping[str, Tensor]]) -> None:
        """Add images with their truth and detections.

        Args:
            targets: The truth of each image: ``image_id`` and ``truth``, a list of objects with ``label``,
                ``bbox`` (x, y, width, height), ``area``, ``iscrowd`` and for masks ``segmentation``, a compressed
                run-length code.
            detections: The detections of each image: ``boxes`` (n, 4) as x0, y0, x1, y1; ``labels`` (n,);
                ``scores`` (n,); for masks ``masks`` (n, 1, H, W), probabilities.
        """
        for target, found in zip(targets, detections, strict=True):
            self._images[target["image_id"]] = (
                list(target["truth"]),
                detections_to_rows(found, masks=self.masks),
            )

    def compute(self) -> dict[IouType, AveragePrecision]:
        """Evaluate the images of all processes; every process gets the result."""
        images = _of_all_processes(self._images)
        iou_types: tuple[IouType, ...] = ("bbox", "segm") if self.masks else ("bbox",)
        if not _distributed():
            return {iou_type: average_precision(images, self.num_classes, iou_type) for iou_type in iou_types}
        result: list[Any] = [None]
        if torch.distributed.get_rank() == 0:
            result = [{iou_type: average_precision(images, self.num_classes, iou_type) for iou_type in iou_types}]
        torch.distributed.broadcast_object_list(result)
        found: dict[IouType, AveragePrecision] = result[0]
        return found

    def __len__(self) -> int:
        return len(_of_all_processes(self._images))


def average_precision(
    images: Mapping[Any, tuple[Sequence[Row], Sequence[Row]]], num_classes: int, iou_type: IouType
) -> AveragePrecision:
    """Evaluate detections, rows by image id: the truth, and what was found.

    Args:
        images: The true and the found objects of each image, in rows as `DetectionMetric.update` describes them;
            those found have a ``score``.
        num_classes: The number of classes; labels are 1 to this.
        iou_type: The kind of shapes that are compared, boxes (``"bbox"``) or masks (``"segm"``).
    """
    precision, recall = _curves(images, num_classes, iou_type)
    per_class = [_mean(precision[:, :, label, 0]) for label in range(num_classes)]
    return AveragePrecision(
        ap=_mean(precision[..., 0]),
        ap50=_mean(precision[0, ..., 0]),
        ap75=_mean(precision[5, ..., 0]),
        ap_small=_mean(precision[..., 1]),
        ap_medium=_mean(precision[..., 2]),
        ap_large=_mean(precision[..., 3]),
        recall=_mean(recall[..., 0]),
        by_class=tuple(per_class),
        by_class50=tuple(_mean(precision[0, :, label, 0]) for label in range(num_classes)),
    )


def _curves(
    images: Mapping[Any, tuple[Sequence[Row], Sequence[Row]]], num_classes: int, iou_type: IouType
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return precision (10 thresholds, 101 recalls, classes, 4 sizes), and recall without the second axis.

    What is not defined is -1.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    truth: list[Row] = []
    found: list[Row] = []
    order = sorted(images, key=lambda image: (isinstance(image, str), image))
    for number, image in enumerate(order, 1):
        for rows, into in zip(images[image], (truth, found), strict=True):
            # ids begin at 1: the reference takes a match with 0 for none
            into += [_as_annotation(row, iou_type, number, len(into) + i) for i, row in enumerate(rows, 1)]
    categories = [{"id": label, "name": str(label)} for label in range(1, num_classes + 1)]
    if not order or not truth:
        return np.full((10, 101, num_classes, 4), -1.0), np.full((10, num_classes, 4), -1.0)
    # sizes are asked for, but all masks are codes, which know theirs
    listed = [{"id": number, "height": 1, "width": 1} for number in range(1, len(order) + 1)]
    ground = COCO({"images": listed, "annotations": truth, "categories": categories})
    evaluation = COCOeval_faster(
        ground,
        COCO({"images": listed, "annotations": found, "categories": categories}),
        iou_type,
        print_function=lambda *_: None,
    )
    evaluation.evaluate()
    evaluation.accumulate()
    return evaluation.eval["precision"][..., -1], evaluation.eval["recall"][..., -1]


def _as_annotation(row: Row, iou_type: IouType, image: int, number: int) -> Row:
    annotation = {"id": number, "image_id": image, "category_id": row["label"], "iscrowd": row.get("iscrowd", 0)}
    if "score" in row:
        annotation["score"] = row["score"]
    if iou_type == "bbox":
        area = row["area"] if "score" not in row else row["bbox"][2] * row["bbox"][3]
        return annotation | {"bbox": row["bbox"], "area": area}
    return annotation | {"segmentation": row["segmentation"], "bbox": row["bbox"], "area": row["area"]}


def _mean(values: NDArray[np.float64]) -> float:
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else float("nan")


def _distributed() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()


def _of_all_processes(images: dict[Any, Any]) -> dict[Any, Any]:
    if not _distributed():
        return images
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, images)
    return {image: rows for part in parts for image, rows in part.items()}
