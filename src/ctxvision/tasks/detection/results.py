"""Detections as rows of plain values, and as COCO's results file."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
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
    boxes = found["boxes"].double().cpu()
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
    from pycocotools import mask as codes

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


def results_json(entries: Sequence[Mapping[str, Any]]) -> str:
    """Return the text of a results file, one entry per line; pycocotools' ``COCO.loadRes`` reads it."""
    return "[" + ",\n".join(json.dumps(entry) for entry in entries) + "]\n"
