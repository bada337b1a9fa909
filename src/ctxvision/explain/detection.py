"""Explanations of detectors: Grad-CAM for single boxes, and the offsets and kernels of the backbone."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.ops import box_iou

from ctxvision.inference.detection import as_input
from ctxvision.inference.predictor import Given
from ctxvision.models._figures import evaluation_mode
from ctxvision.plots.boxes import box_color, draw_boxes
from ctxvision.plots.pixels import data_uri, seen_pixels
from ctxvision.plots.style import short

from .cams import BoxCam, GradCam, Score, over_images, weigh, where_most
from .explanation import (
    ExplainedNetwork,
    ImageExplanation,
    Preview,
    Row,
    Table,
    TaskExplainer,
    require_finite,
)
from .figures.cams import Part, parts_picture
from .layer_contents import add_layer_contents
from .layers import MapLayer, find_layer, map_layers, watching

if TYPE_CHECKING:
    from ctxvision.tasks.detection import Detector

_SAME = 0.5  # boxes that overlap more are of the same object
_PYRAMID = re.compile(r"network\.backbone\.fpn\.(layer_blocks\.\d+|extra_blocks\.p\d)")
_EXPLAINED = 3  # boxes of an image that are explained
_LISTED = 12
_WHAT = "Where the detector found evidence for each box, under the class and the score of the box."


def box_cams(
    model: "Detector",
    image: Tensor,
    boxes: Tensor | np.ndarray | Sequence[Sequence[float]],
    labels: Tensor | Sequence[int],
    *,
    layer: str | None = None,
) -> list[BoxCam | None]:
    """Compute Grad-CAM for boxes of a detector.

    The explained score is that of the detection that has the label and overlaps the box most, by more than half
    (IoU). It has the gradient of pytorch-grad-cam's ``FasterRCNNBoxScoreTarget``, because the IoU that is added
    there has none at the box itself. Suppression of overlapping boxes leaves one such detection.

    The weights of Grad-CAM belong to channels, so that other objects with the same features light up as well;
    ``cam.in_place`` shows only what this box was read from.

    Args:
        model: The detector, on the device to use.
        image: The image, (C, H, W) from 0 to 1, on the same device.
        boxes: The boxes to explain, (n, 4) as x0, y0, x1, y1 in pixels, such as those that the detector found.
        labels: The numbers of the classes of the boxes, from 1, (n,).
        layer: The name of a layer that `box_layers` lists; by default, for each box, the level of the feature
            pyramid on which its score depends most, from which the box was read.

    Returns:
        One Grad-CAM for each box; ``None`` where the detector finds no such object.

    Raises:
        LayerError: There is no layer of this name.
        ValueError: The number of labels differs from the number of boxes.

    Examples:
        >>> from ctxvision.tasks.detection import build_detector
        >>> model = build_detector("faster_rcnn", "cotnet_micro", num_classes=3, min_size=96, score_threshold=0.0)
        >>> image = torch.rand(3, 96, 96)
        >>> with torch.no_grad():
        ...     (found,) = model.eval()([image])
        >>> (box,) = box_cams(model, image, found["boxes"][:1], found["labels"][:1])
        >>> box.cam.map.shape, box.cam.in_place.shape
        ((96, 96), (96, 96))
    """
    places = torch.as_tensor(boxes, dtype=torch.float32).detach().cpu().reshape(-1, 4)
    wanted = torch.as_tensor(labels).tolist()
    if len(places) != len(wanted):
        raise ValueError(f"each box needs a label, got {len(places)} boxes and {len(wanted)} labels")
    layers = box_layers(model, image)
    chosen = find_layer(layers, layer) if layer is not None else None
    with evaluation_mode(model):
        (found,) = model([image])
    matches = [same_object(found, box, label) for box, label in zip(places, wanted, strict=True)]
    cams: list[BoxCam | None] = []
    for match, label in zip(matches, wanted, strict=True):
        if match is None:
            cams.append(None)
            continue
        box = found["boxes"][match].cpu()
        score = partial(_score_of, box, label)
        of_box = chosen or _read_from(model, image, layers, score)
        seen = weigh(model, image[None], of_box.name, score)
        heat, in_place = (_over_image(raw, model, image) for raw in (seen.raw, seen.in_place))
        cam = GradCam(of_box, heat, seen.raw[0], in_place, label)
        cams.append(BoxCam(box.float().numpy(), label, float(found["scores"][match]), cam))
    return cams


def box_layers(model: "Detector", image: Tensor) -> list[MapLayer]:
    """List the layers of a detector's backbone and pyramid that return a map of the whole ``image`` (C, H, W)."""
    return [layer for layer in map_layers(model, image[None]) if layer.name.startswith("network.backbone.")]


def same_object(found: Mapping[str, Tensor], box: Tensor, label: int) -> int | None:
    """Return the index of the detection with a label that overlaps a box (4,) most, over half; else ``None``."""
    overlaps = box_iou(box[None].to(found["boxes"]), found["boxes"].detach())[0]
    overlaps = overlaps * (found["labels"] == label)
    if not len(overlaps) or float(overlaps.max()) <= _SAME:
        return None
    return int(overlaps.argmax())


def _score_of(box: Tensor, label: int, found: Mapping[str, Tensor]) -> Tensor:
    match = same_object(found, box, label)
    assert match is not None  # the same image gave it a moment ago
    return found["scores"][match]


def _read_from(model: "Detector", image: Tensor, layers: Sequence[MapLayer], score: Score) -> MapLayer:
    """Return the level of the pyramid on which a score depends most."""
    levels = [layer for layer in layers if _PYRAMID.fullmatch(layer.name)]
    maps: list[Tensor] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        maps.append(output)

    watched = [(model.get_submodule(layer.name), keep) for layer in levels]
    with torch.inference_mode(False), watching(model, watched), torch.enable_grad():
        (found,) = model([image.detach().clone().requires_grad_()])
        # hooks are called in the order in which the levels finish, as they are listed
        gradients = torch.autograd.grad(score(found), maps, allow_unused=True)
    shares = [0.0 if g is None else float(g.abs().sum()) for g in gradients]
    return levels[int(np.argmax(shares))]


def _over_image(raw: np.ndarray, model: "Detector", image: Tensor) -> np.ndarray:
    """Spread a map (1, h, w) of the image that a detector has resized and padded over the original image."""
    images, _ = model.network.transform([image])
    resized: np.ndarray = over_images(
        raw, image.shape[1:], inside=images.image_sizes[0], padded=images.tensors.shape[2:]
    )[0]
    return resized


class Explainer(TaskExplainer):
    """Explains what a detector finds."""

    def look(self, source: Given, file: str, name: str) -> ImageExplanation:
        """Explain the boxes with the highest scores on one image; see `explanation.Explainer`."""
        request, network = self.request, self.request.network
        names, threshold, wanted = network.class_names, request.threshold, request.class_name
        pictures = self.pictures(source)
        image = _as_input(network, pictures[0])
        objects = _objects(network, image, file, wanted, threshold)
        boxes = np.array([_corners(found) for found in objects[:_EXPLAINED]], np.float32).reshape(-1, 4)
        labels = [found["label"] for found in objects[:_EXPLAINED]]
        cams = box_cams(network.task.model, image, boxes, labels, layer=network.layer)  # type: ignore[arg-type]
        explained = ImageExplanation(
            file,
            cams,
            entry={
                "width": pictures[0].width,
                "height": pictures[0].height,
                "objects": [dict(o) for o in objects],
            },
            previews=[_preview(pictures[0], objects, f"{file}, {len(objects)} boxes drawn", network.label)],
            tables=[Table(f"found, {network.label}", _rows(objects))] if objects else [],
        )
        for entry, cam in zip(explained.entry["objects"], cams, strict=False):
            entry["grad_cam"] = cam and cam.cam.to_dict()
        what = "No box" if wanted is None else f"No box of class {wanted}"
        if not objects:
            explained.notes.append(f"{what} has a score of {threshold:.0%} or more, so there is none to explain.")
        elif len(objects) > _EXPLAINED:
            others = "" if wanted is not None else ", --class chooses others"
            note = f"Of {len(objects)} boxes the {_EXPLAINED} with the highest scores are explained{others}."
            explained.notes.append(note)
        if cams:
            draw = partial(_draw, pictures[0], cams, names, f"{name}-grad-cam", network.label, boxes)
            explained.drawings.append(draw)
        if request.against is not None:
            found_names = [names[label - 1] for label in labels]
            self._compare(explained, request.against, pictures[1], found_names, boxes, f"{name}-grad-cam-against")
        _add_backbone(explained, network.task, image, cams, name)
        return explained

    def _compare(
        self,
        explained: ImageExplanation,
        against: ExplainedNetwork,
        picture: Image.Image,
        found_names: list[str],
        boxes: np.ndarray,
        name: str,
    ) -> None:
        """Add what the other detector finds, and its Grad-CAM for the same boxes (n, 4) and classes."""
        names, image = against.class_names, _as_input(against, picture)
        objects = _objects(against, image, explained.file, None, self.request.threshold)
        alt = f"the same, {len(objects)} boxes of {against.label}"
        explained.previews.append(_preview(picture, objects, alt, against.label))
        labels = [1 + names.index(found) for found in found_names]
        cams = box_cams(against.task.model, image, boxes, labels, layer=against.layer)  # type: ignore[arg-type]
        explained.against_cams = cams
        same = [c and {"score": c.score, "box": c.box.tolist(), "grad_cam": c.cam.to_dict()} for c in cams]
        explained.entry["against"] = {"objects": objects, "same_boxes": same}
        if any(cams):
            explained.drawings.append(partial(_draw, picture, cams, names, name, against.label, boxes))
        elif cams:
            explained.notes.append(f"{against.label} finds none of the boxes that are explained.")


def _as_input(network: ExplainedNetwork, picture: Image.Image) -> Tensor:
    return as_input(picture).to(network.task.device)


def _objects(
    network: ExplainedNetwork, image: Tensor, file: str, wanted: str | None, threshold: float
) -> list[dict[str, Any]]:
    """Return the objects of one class, or of all classes, in the form of ``explain.json``."""
    names = network.class_names
    (found,) = network.task([image])
    require_finite({key: found[key] for key in ("boxes", "scores")}, file)
    keep = found["scores"] >= threshold
    if wanted is not None:
        keep &= found["labels"] == names.index(wanted) + 1
    columns = (found[key][keep].tolist() for key in ("boxes", "labels", "scores"))
    return [
        {"class": names[label - 1], "label": label, "score": score, "bbox": [x0, y0, x1 - x0, y1 - y0]}
        for (x0, y0, x1, y1), label, score in zip(*columns, strict=True)
    ]


def _corners(found: Mapping[str, Any]) -> list[float]:
    x, y, width, height = found["bbox"]
    return [x, y, x + width, y + height]


def _preview(picture: Image.Image, objects: list[dict[str, Any]], alt: str, caption: str) -> Preview:
    boxes, labels, names, scores = (
        [found[key] for found in objects] for key in ("bbox", "label", "class", "score")
    )
    drawn = draw_boxes(picture, boxes, labels, names, scores=scores)
    return Preview(data_uri(drawn, lossless=max(drawn.size) <= 160), alt, caption)


def _rows(objects: list[dict[str, Any]]) -> list[Row]:
    rows = []
    for found in objects[:_LISTED]:
        width, height = (round(side) for side in found["bbox"][2:])
        name = f"{found['class']}, {width} × {height}"
        rows.append(Row(name, found["score"], box_color(found["label"])))
    return rows


def _draw(
    picture: Image.Image, cams: list[BoxCam | None], names: list[str], name: str, label: str, boxes: np.ndarray
) -> Any:
    parts = [
        Part("", box=box)
        if cam is None
        else Part(f"“{short(names[cam.label - 1], 12)}” {cam.score:.1%}", box=cam.box, cam=cam.cam)
        for cam, box in zip(cams, boxes, strict=True)
    ]
    title = f"What speaks for the boxes, {label}"
    return parts_picture(picture, parts, name, label, title=title, what=_WHAT, missing="finds no such object")


class _Backbone(nn.Module):
    """Run the backbone and the pyramid alone, with the names that their layers have in the detector."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.network = nn.ModuleDict({"backbone": part})

    def forward(self, images: Tensor) -> Any:
        return self.network["backbone"](images)


def _add_backbone(
    explained: ImageExplanation, task: Any, image: Tensor, cams: Sequence[BoxCam | None], name: str
) -> None:
    """Add offsets, kernels and contexts of the backbone and the pyramid in the resized and padded image."""
    transform = task.model.network.transform
    view = transform([image])[0].tensors
    pixels = seen_pixels(view[0], transform.image_mean, transform.image_std)
    height, width = pixels.shape[:2]
    at = (height / 2, width / 2)
    if cams and cams[0] is not None:
        heat = cams[0].cam.in_place
        y, x = where_most(heat)
        at = (y / heat.shape[0] * height, x / heat.shape[1] * width)
    add_layer_contents(explained, _Backbone(task.model.network.backbone), view, pixels, at, name)
