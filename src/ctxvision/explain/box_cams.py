"""Grad-CAM for detectors: which places of an image speak for one box."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchvision.ops import box_iou

from ctxvision.models._figures import evaluation_mode
from ctxvision.tasks.detection import Detector

from .grad_cam import GradCam, Score, look
from .layers import MapLayer, find_layer, hooks, map_layers

_SAME = 0.5  # boxes that overlap more are of the same object
_PYRAMID = re.compile(r"network\.backbone\.fpn\.(layer_blocks\.\d+|extra_blocks\.p\d)")


@dataclass(frozen=True)
class BoxCam:
    """What speaks for one box of a detector.

    Attributes:
        box: as the detector has it, x0, y0, x1, y1 in pixels of the image, (4,) float32.
        label: its class, from 1.
        score: of the box.
        cam: Grad-CAM; its ``target`` is the label.
        in_place: like ``cam.map``, but each position weighed by its own gradient instead of the mean over the map
            (HiResCAM: Draelos and Carin, 2020), (H, W) float32: only what this box was read from.
    """

    box: np.ndarray
    label: int
    score: float
    cam: GradCam
    in_place: np.ndarray


def box_cams(
    model: Detector,
    image: Tensor,
    boxes: Tensor | np.ndarray | Sequence[Sequence[float]],
    labels: Tensor | Sequence[int],
    *,
    layer: str | None = None,
) -> list[BoxCam | None]:
    """Compute Grad-CAM for some boxes with pytorch-grad-cam.

    What is explained is the score of the detection that has the label and overlaps the box most, by more than half
    (IoU). That is pytorch-grad-cam's ``FasterRCNNBoxScoreTarget``: the IoU that it adds has no gradient at the box
    itself. Suppression of overlapping boxes leaves one such detection.

    Grad-CAM's weights belong to channels, so that other objects with the same features light up as well;
    `BoxCam.in_place` shows what this one was read from.

    Args:
        model: on the device to use.
        image: (C, H, W) from 0 to 1, on that device.
        boxes: (n, 4) as x0, y0, x1, y1 in pixels, such as what the detector found.
        labels: their classes, from 1, (n,).
        layer: a name of `box_layers`; by default, for each box, the level of the feature pyramid on which its
            score depends most: where the box was read from.

    Returns:
        One for each box; ``None`` where the detector finds no such object.

    Raises:
        LayerError: no such layer.
        ValueError: boxes and labels do not fit together.

    Examples:
        >>> from ctxvision.tasks.detection import build_detector
        >>> model = build_detector("faster_rcnn", "cotnet_micro", num_classes=3, min_size=96, score_threshold=0.0)
        >>> image = torch.rand(3, 96, 96)
        >>> with torch.no_grad():
        ...     (found,) = model.eval()([image])
        >>> (cam,) = box_cams(model, image, found["boxes"][:1], found["labels"][:1])
        >>> cam.cam.map.shape, cam.in_place.shape
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
        box = found["boxes"][match]
        score = _score_of(box.cpu(), label)
        of_box = chosen or _read_from(model, image, layers, score)
        seen = look(model, image[None], of_box.name, score)
        size = _sizes(model, image)
        cam = GradCam(of_box, _over_image(seen.raw[0], size), seen.raw[0], label, None)
        in_place = _over_image(seen.in_place[0], size)
        cams.append(BoxCam(box.cpu().float().numpy(), label, float(found["scores"][match]), cam, in_place))
    return cams


def box_layers(model: Detector, image: Tensor) -> list[MapLayer]:
    """List the layers of a detector's backbone and pyramid that return a map of the whole image (C, H, W)."""
    return [layer for layer in map_layers(model, image[None]) if layer.name.startswith("network.backbone.")]


def same_object(found: Mapping[str, Tensor], box: Tensor, label: int) -> int | None:
    """Return which detection of a label overlaps a box (4,) most, by more than half; ``None`` if none does."""
    overlaps = box_iou(box[None].to(found["boxes"]), found["boxes"].detach())[0]
    overlaps = overlaps * (found["labels"] == label)
    if not len(overlaps) or float(overlaps.max()) <= _SAME:
        return None
    return int(overlaps.argmax())


def _score_of(box: Tensor, label: int) -> Score:
    def score(found: Mapping[str, Tensor]) -> Tensor:
        match = same_object(found, box, label)
        assert match is not None  # the same image gave it a moment ago
        return found["scores"][match]

    return score  # type: ignore[return-value]  # a detector returns dictionaries


def _read_from(model: Detector, image: Tensor, layers: Sequence[MapLayer], score: Score) -> MapLayer:
    """Return the level of the pyramid on which a score depends most."""
    levels = [layer for layer in layers if _PYRAMID.fullmatch(layer.name)]
    maps: list[Tensor] = []
    with torch.inference_mode(False), evaluation_mode(model), torch.enable_grad():
        modules = [model.get_submodule(layer.name) for layer in levels]
        with hooks(modules, lambda _module, _inputs, output: maps.append(output)):
            (found,) = model([image.detach().clone().requires_grad_()])
        # hooks are called in the order in which the levels finish, as they are listed
        gradients = torch.autograd.grad(score(found), maps, allow_unused=True)
    shares = [0.0 if g is None else float(g.abs().sum()) for g in gradients]
    return levels[int(np.argmax(shares))]


_Size = tuple[int, int]


def _sizes(model: Detector, image: Tensor) -> tuple[_Size, _Size, _Size]:
    """Return the sizes of an image, of what the detector enlarges it to, and of that with its padding."""
    images, _ = model.network.transform([image])  # type: ignore[operator]
    (inside,) = images.image_sizes
    height, width = (int(side) for side in images.tensors.shape[2:])
    return (int(image.shape[1]), int(image.shape[2])), (int(inside[0]), int(inside[1])), (height, width)


def _over_image(raw: np.ndarray, sizes: tuple[_Size, _Size, _Size]) -> np.ndarray:
    """Spread a map (h, w) of a padded image over the image, and scale it to [0, 1] by its highest value."""
    image, inside, padded = sizes
    heat = F.interpolate(torch.from_numpy(raw).clamp(min=0)[None, None], padded, mode="bilinear")
    heat = F.interpolate(heat[..., : inside[0], : inside[1]], image, mode="bilinear")[0, 0]
    return (heat / heat.max().clamp(min=1e-12)).numpy()
