"""What an explanation says about a detector: what speaks for each box, and what the backbone made of it all."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ctxvision.evaluation.segmentation import data_uri
from ctxvision.inference.detection import as_input, describe
from ctxvision.plots.boxes import box_color, draw_boxes
from ctxvision.plots.style import seen_pixels, short

from .box_cams import BoxCam, box_cams
from .error import ReportError
from .explanation_layers import of_kernels, of_offsets, where_most
from .generated_kernels import kernel_layers
from .offsets import contextual_layers
from .parts_explanation import Finding, Network, Sample, Shot, as_lists
from .pictures import Picture
from .pictures.parts import Part, parts_picture

MOST = 3  # boxes of an image that are explained
_CAPTION = (
    "Grad-CAM for the score of the box; it weighs channels, so that other objects with the same features light up "
    "too. In place: each position weighed by its own gradient, only what this box was read from."
)


def explain_boxes(
    network: Network,
    file: str,
    pictures: Sequence[Image.Image],
    name: str,
    *,
    labels: Sequence[str],
    asked: int | None = None,
    threshold: float = 0.5,
    against: Network | None = None,
) -> Sample:
    """Explain what a detector finds on an image.

    Args:
        network: a `DetectionTask`.
        file: what to call the image.
        pictures: the image in the mode of the network and, with ``against``, in that network's.
        name: how names of figures begin.
        labels: what the figures call the networks.
        asked: only boxes of this class, from 0.
        threshold: only boxes of at least this score.
        against: a detector of the same classes: what speaks for the same boxes in it.

    Raises:
        ReportError: an output is not a number.
        LayerError: see `box_cams`.
    """
    names, picture = network.names, pictures[0]
    image = as_input(picture).to(network.task.device)
    rows = _objects(network, image, file, asked, threshold)
    objects = [describe(row, names) for row in rows]
    sample = Sample(
        {"file": file, "width": picture.width, "height": picture.height, "objects": [dict(o) for o in objects]},
        f"found, {labels[0]}",
        [Shot(data_uri(_drawn(picture, objects)), f"{file}, {len(objects)} boxes drawn", labels[0])],
        [
            Finding(
                f"{o['class']}, {round(o['bbox'][2])} × {round(o['bbox'][3])}", o["score"], box_color(o["label"])
            )
            for o in objects[:12]
        ],
    )
    what = "No box" if asked is None else f"No box of class {names[asked]}"
    if not objects:
        sample.notes.append(f"{what} has a score of {threshold:.0%} or more, so there is none to explain.")
    elif len(objects) > MOST:
        others = "" if asked is not None else ", --class chooses others"
        sample.notes.append(f"Of {len(objects)} boxes the {MOST} with the highest scores are explained{others}.")
    boxes = np.array([_corners(row) for row in rows[:MOST]], np.float32).reshape(-1, 4)
    cams = box_cams(network.task.model, image, boxes, [row["label"] for row in rows[:MOST]], layer=network.layer)
    for entry, cam in zip(sample.entry["objects"], cams, strict=False):
        entry["grad_cam"] = _numbers(cam)
    view, pixels = _as_seen(network, image)
    if cams:
        sample.pictures.append(_picture(picture, cams, names, f"{name}-grad-cam", labels[0], boxes))
    if against is not None:
        _compare(
            sample, against, pictures[1], rows, names, boxes, f"{name}-grad-cam-against", labels[1], threshold
        )
    _of_backbone(sample, network, view, pixels, cams, name)
    return sample


def _objects(
    network: Network, image: Tensor, file: str, asked: int | None, threshold: float
) -> list[dict[str, Any]]:
    with torch.no_grad():
        (found,) = network.task([image])
    if not (found["boxes"].isfinite().all() and found["scores"].isfinite().all()):
        raise ReportError(f"{file}: the output of the network is NaN or infinite; its weights are broken")
    keep = found["scores"] >= threshold
    if asked is not None:
        keep &= found["labels"] == asked + 1
    columns = (found[key][keep].tolist() for key in ("boxes", "labels", "scores"))
    return [
        {"label": label, "score": score, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for (x0, y0, x1, y1), label, score in zip(*columns, strict=True)
    ]


def _drawn(picture: Image.Image, objects: Sequence[dict[str, Any]]) -> Image.Image:
    boxes, labels, names, scores = ([o[key] for o in objects] for key in ("bbox", "label", "class", "score"))
    return draw_boxes(picture, boxes, labels, names, scores=scores)


def _corners(row: dict[str, Any]) -> list[float]:
    x, y, width, height = row["bbox"]
    return [x, y, x + width, y + height]


def _numbers(cam: BoxCam | None) -> dict[str, Any] | None:
    if cam is None:
        return None
    return {"layer": cam.cam.layer.name, "size": list(cam.cam.layer.size), "map": as_lists(cam.cam.raw)}


def _as_seen(network: Network, image: Tensor) -> tuple[Tensor, np.ndarray]:
    """Return what the backbone reads, resized, normalised and padded, (1, C, H, W), and that as RGB in [0, 1]."""
    transform = network.task.model.network.transform
    with torch.no_grad():
        view = transform([image])[0].tensors
    mean, std = (np.array(values, np.float32) for values in (transform.image_mean, transform.image_std))
    return view, seen_pixels(view[0].float().cpu().numpy(), mean, std)


def _picture(
    picture: Image.Image, cams: list[BoxCam | None], names: list[str], name: str, label: str, boxes: np.ndarray
) -> Picture:
    parts = [
        Part("", box=box)
        if cam is None
        else Part(f"{short(names[cam.label - 1], 12)}, {cam.score:.1%}", cam.box, None, cam.cam.map, cam.in_place)
        for cam, box in zip(cams, boxes, strict=True)
    ]
    read = {f"{c.cam.layer.name}, {c.cam.layer.size[0]} × {c.cam.layer.size[1]} positions" for c in cams if c}
    layers = f" {label} at {' and '.join(sorted(read))}." if read else ""
    return parts_picture(
        np.asarray(picture.convert("RGB"), np.float32) / 255,
        parts,
        name,
        title=f"What speaks for the boxes, {label}",
        caption=_CAPTION + layers,
        missing="finds no such object",
    )


def _compare(
    sample: Sample,
    against: Network,
    picture: Image.Image,
    rows: list[dict[str, Any]],
    names: list[str],
    boxes: np.ndarray,
    name: str,
    label: str,
    threshold: float,
) -> None:
    """Add what the other detector finds, and what speaks there for the same boxes."""
    theirs = against.names
    image = as_input(picture).to(against.task.device)
    found = [describe(row, theirs) for row in _objects(against, image, sample.entry["file"], None, threshold)]
    sample.shots.append(Shot(data_uri(_drawn(picture, found)), f"the same, {len(found)} boxes of {label}", label))
    wanted = [1 + theirs.index(names[row["label"] - 1]) for row in rows[:MOST]]
    cams = box_cams(against.task.model, image, boxes, wanted, layer=against.layer)
    same = [c and {"score": c.score, "box": c.box.tolist(), "grad_cam": _numbers(c)} for c in cams]
    sample.entry["against"] = {"objects": found, "same_boxes": same}
    if any(cams):
        sample.pictures.append(_picture(picture, cams, theirs, name, label, boxes))
    elif cams:
        sample.notes.append(f"{label} finds none of the boxes that are explained.")


class _Backbone(nn.Module):
    """Backbone and pyramid alone, with the names that their layers have in the detector."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.network = nn.ModuleDict({"backbone": part})

    def forward(self, images: Tensor) -> Any:
        return self.network["backbone"](images)


def _of_backbone(
    sample: Sample, network: Network, view: Tensor, pixels: np.ndarray, cams: list[BoxCam | None], name: str
) -> None:
    """Add offsets, kernels and contexts of the backbone and its pyramid."""
    part = _Backbone(network.task.model.network.backbone)
    at = (pixels.shape[0] / 2, pixels.shape[1] / 2)
    if cams and cams[0] is not None:
        shares = [a / b for a, b in zip(where_most(cams[0].in_place), cams[0].in_place.shape, strict=True)]
        at = (shares[0] * pixels.shape[0], shares[1] * pixels.shape[1])
    if contextual_layers(part):
        sample.entry["bends"], pictures = of_offsets(part, view, pixels, at, name)
        sample.pictures += pictures
    if kernel_layers(part):
        sample.entry["kernels"], pictures = of_kernels(part, view, pixels, name)
        sample.pictures += pictures
