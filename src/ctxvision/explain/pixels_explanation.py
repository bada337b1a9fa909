"""What an explanation says about a segmentation network: which places speak for the pixels of each class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ctxvision.data.segmentation.spec import SegmentationSpec
from ctxvision.evaluation.segmentation import data_uri
from ctxvision.plots.overlays import overlay
from ctxvision.plots.style import short

from .error import ReportError
from .explanation_layers import of_kernels, of_offsets, where_most
from .generated_kernels import kernel_layers
from .offsets import contextual_layers
from .parts_explanation import Finding, Network, Sample, Shot, as_lists
from .pictures import Picture
from .pictures.parts import Part, parts_picture
from .pixel_cams import PixelCam, pixel_cams

MOST = 3  # classes of an image that are explained
_SIDE = 320  # smaller images are enlarged to at least this, pixel by pixel
_CAPTION = (
    "Left, the pixels that are taken for the class. Grad-CAM for the sum of its logits over them. In place: each "
    "position weighed by its own gradient instead of the channel’s mean."
)


def explain_pixels(
    network: Network,
    file: str,
    pictures: Sequence[Image.Image],
    name: str,
    *,
    labels: Sequence[str],
    asked: int | None = None,
    against: Network | None = None,
) -> Sample:
    """Explain which class a segmentation network gives to the pixels of an image.

    Args:
        network: a `SegmentationTask`.
        file: what to call the image.
        pictures: the image in the mode of the network and, with ``against``, in that network's.
        name: how names of figures begin.
        labels: what the figures call the networks.
        asked: only this class; by default the three with the most pixels.
        against: a network of the same classes: what speaks there for the pixels that it takes for these classes.

    Raises:
        ReportError: an output is not a number.
        LayerError: see `pixel_cams`.
    """
    names, picture = network.names, pictures[0]
    image, classes = _predict(network, picture, file)
    counts = np.bincount(classes.ravel(), minlength=len(names))
    order = [c for c in np.argsort(-counts, kind="stable").tolist() if counts[c]]
    chosen = order[:MOST] if asked is None else [asked]
    shares = [{"class": names[c], "share": float(counts[c] / classes.size)} for c in order]
    spec = SegmentationSpec.from_dict(network.task.data_spec)
    sample = Sample(
        {"file": file, "width": picture.width, "height": picture.height, "classes": shares},
        f"pixels, {labels[0]}",
        [_shot(network, picture, classes, file, labels[0])],
        [
            Finding(names[c], float(counts[c] / classes.size), "#{:02x}{:02x}{:02x}".format(*spec.colors[c]))
            for c in order[:12]
        ],
    )
    if asked is None and len(order) > MOST:
        sample.notes.append(
            f"Of {len(order)} classes the {MOST} with the most pixels are explained, --class chooses others."
        )
    explained = _add(sample, network, image, picture, chosen, f"{name}-grad-cam", labels[0])
    sample.entry["grad_cam"] = [_numbers(cam, names) for cam in explained]
    if against is not None:
        theirs = against.names
        other, other_classes = _predict(against, pictures[1], file)
        sample.shots.append(_shot(against, pictures[1], other_classes, file, labels[1]))
        wanted = [theirs.index(names[c]) for c in chosen]
        found = _add(sample, against, other, pictures[1], wanted, f"{name}-grad-cam-against", labels[1])
        sample.entry["against"] = {"grad_cam": [_numbers(cam, theirs) for cam in found]}
    if network.task.window is not None:
        sample.notes.append(
            "This network predicts through sliding windows; here it sees the image at once, which may differ."
        )
    pixels = np.asarray(picture.convert("RGB"), np.float32) / 255
    model, view = network.task.model, image[None]
    at = where_most(explained[0].cam.map) if explained else (pixels.shape[0] / 2, pixels.shape[1] / 2)
    if contextual_layers(model):
        sample.entry["bends"], made = of_offsets(model, view, pixels, at, name)
        sample.pictures += made
    if kernel_layers(model):
        sample.entry["kernels"], made = of_kernels(model, view, pixels, name)
        sample.pictures += made
    return sample


def _predict(network: Network, picture: Image.Image, file: str) -> tuple[Tensor, np.ndarray]:
    task = network.task
    image = SegmentationSpec.from_dict(task.data_spec).eval_transform()(picture).to(task.device)
    with torch.no_grad():
        logits = task.model(image[None])[0]
    if not logits.isfinite().all():
        raise ReportError(f"{file}: the output of the network is NaN or infinite; its weights are broken")
    return image, logits.argmax(0).cpu().numpy()


def _shot(network: Network, picture: Image.Image, classes: np.ndarray, file: str, label: str) -> Shot:
    spec = SegmentationSpec.from_dict(network.task.data_spec)
    times = max(1, -(-_SIDE // max(picture.size)))
    large = picture.resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)
    classes = classes.repeat(times, 0).repeat(times, 1)
    uri = data_uri(overlay(large, classes, spec.colors))
    return Shot(uri, f"{file} with the classes of {label} in colours", label)


def _add(
    sample: Sample,
    network: Network,
    image: Tensor,
    picture: Image.Image,
    classes: Sequence[int],
    name: str,
    label: str,
) -> list[PixelCam]:
    """Explain some classes, with a figure of those that occur and a note for those that do not."""
    names = network.names
    cams = pixel_cams(network.task.model, image, classes, layer=network.layer)
    for cam in cams:
        if not cam.mask.any():
            sample.notes.append(f"{label} takes no pixel for {names[_of(cam)]}, so there is nothing to explain.")
    cams = [cam for cam in cams if cam.mask.any()]
    if cams:
        sample.pictures.append(_picture(picture, cams, names, name, label))
    return cams


def _picture(picture: Image.Image, cams: list[PixelCam], names: list[str], name: str, label: str) -> Picture:
    parts = [
        Part(
            f"{short(names[_of(cam)], 12)}, {cam.mask.mean():.1%}",
            mask=cam.mask,
            cam=cam.cam.map,
            in_place=cam.in_place,
        )
        for cam in cams
    ]
    layer = cams[0].cam.layer
    return parts_picture(
        np.asarray(picture.convert("RGB"), np.float32) / 255,
        parts,
        name,
        title=f"What speaks for the pixels of a class, {label}",
        caption=f"{_CAPTION} {label} at {layer.name}, {layer.size[0]} × {layer.size[1]} positions.",
        missing="",
    )


def _of(cam: PixelCam) -> int:
    assert cam.cam.target is not None
    return cam.cam.target


def _numbers(cam: PixelCam, names: list[str]) -> dict[str, Any]:
    layer = cam.cam.layer
    return {
        "class": names[_of(cam)],
        "pixels": int(cam.mask.sum()),
        "layer": layer.name,
        "size": list(layer.size),
        "map": as_lists(cam.cam.raw),
    }
