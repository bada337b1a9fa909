"""Explanations of segmentation networks: Grad-CAM for the pixels of a class."""

from collections.abc import Sequence
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ctxvision.data import SegmentationSpec
from ctxvision.inference.predictor import Given
from ctxvision.models._figures import evaluation_mode
from ctxvision.plots.overlays import overlay
from ctxvision.plots.picture import Picture
from ctxvision.plots.pixels import data_uri
from ctxvision.plots.style import short

from .cams import PixelCam, explain_score, where_most
from .explanation import (
    ExplainedNetwork,
    ImageExplanation,
    Preview,
    Request,
    Row,
    Table,
    TaskExplainer,
    require_finite,
)
from .figures.cams import Part, parts_picture
from .layer_contents import add_layer_contents
from .layers import MapLayer, find_layer, map_layers

_EXPLAINED = 3  # classes of an image that are explained
_LISTED = 12
_SIDE = 320  # smaller images are enlarged to at least this, pixel by pixel
_WHAT = "Where the network found evidence for the pixels that it takes for a class, which are outlined."


def pixel_cams(
    model: nn.Module, image: Tensor, classes: Sequence[int] | Tensor | None = None, *, layer: str | None = None
) -> list[PixelCam]:
    """Compute Grad-CAM for the pixels of classes.

    The explained score is the sum of the logits of a class over the pixels that are predicted as this class.

    Source: Vinogradova, Dibrov and Myers, Towards Interpretable Semantic Segmentation via Gradient-weighted Class
    Activation Mapping, AAAI 2020.

    Args:
        model: The network, which takes images (B, C, H, W) and returns logits (B, classes, H, W), on the device to
            use.
        image: The normalised image, (C, H, W), on the same device; the network reads it as a whole, not in
            windows.
        classes: The numbers of the classes to explain, (n,); by default the classes that are predicted, the most
            frequent first.
        layer: The name of a layer that `map_layers` lists; by default the end of the backbone's last stage with at
            least 4 × 4 positions, or the layer norm that reads this end.

    Returns:
        One Grad-CAM for each class, in their order.

    Raises:
        LayerError: There is no layer of this name.
        ValueError: A class does not exist.

    Examples:
        >>> from ctxvision.tasks.segmentation import build_network
        >>> model = build_network("rednet_micro", 5)
        >>> (found,) = pixel_cams(model, torch.rand(3, 96, 128), [3])
        >>> found.cam.layer.name, found.cam.raw.shape, found.mask.shape
        ('backbone.body.layer3', (6, 8), (96, 128))
    """
    with evaluation_mode(model):
        logits = model(image[None])[0]
    predicted, count = logits.argmax(0).cpu(), len(logits)
    if classes is None:
        pixels = torch.bincount(predicted.flatten(), minlength=count)
        classes = [c for c in pixels.argsort(descending=True, stable=True).tolist() if pixels[c]]
    targets = torch.as_tensor(classes).tolist()
    if not all(0 <= target < count for target in targets):
        raise ValueError(f"classes must lie in 0..{count - 1}, got {targets}")
    layers = map_layers(model, image[None])
    chosen = find_layer(layers, layer)
    if layer is None:
        chosen = _after_norm(model, layers, chosen)
    found = []
    for target in targets:
        mask = predicted == target
        score = partial(_logits_over, target, mask.to(image))
        found.append(PixelCam(mask.numpy(), explain_score(model, image, chosen, score, target)))
    return found


def _logits_over(target: int, mask: Tensor, logits: Tensor) -> Tensor:
    return (logits[target] * mask).sum()


def _after_norm(model: nn.Module, layers: Sequence[MapLayer], stage: MapLayer) -> MapLayer:
    """Return the layer norm of a backbone that reads the end of a stage, or the end itself.

    The input of a layer norm cannot be weighed in place: a position's gradient is at right angles to its features,
    because the layer norm ignores their length.
    """
    for layer in layers:
        if layer.name.startswith("backbone.norms.") and (layer.size, layer.channels) == (
            stage.size,
            stage.channels,
        ):
            return stage if isinstance(model.get_submodule(layer.name), nn.Identity) else layer
    return stage


class Explainer(TaskExplainer):
    """Explains which class a segmentation network gives to the pixels of an image."""

    def __init__(self, request: Request) -> None:
        super().__init__(request)
        self.specs = [cast(SegmentationSpec, network.predictor.data_spec) for network in request.networks]

    def look(self, source: Given, file: str, name: str) -> ImageExplanation:
        """Explain the classes with the most pixels, or the one that was asked for; see `explanation.Explainer`."""
        request, network, spec = self.request, self.request.network, self.specs[0]
        names = network.class_names
        pictures = self.pictures(source)
        picture = pictures[0]
        image, classes = _predict(network, spec, picture, file)
        counts = np.bincount(classes.ravel(), minlength=len(names))
        order = [c for c in np.argsort(-counts, kind="stable").tolist() if counts[c]]
        shares = {names[c]: float(counts[c] / classes.size) for c in order}
        rows = [Row(names[c], shares[names[c]], "#{:02x}{:02x}{:02x}".format(*spec.colors[c])) for c in order]
        explained = ImageExplanation(
            file,
            entry={
                "width": picture.width,
                "height": picture.height,
                "classes": [{"class": c, "share": share} for c, share in shares.items()],
            },
            # the colours of classes tint the image, so that they are told only beside the image itself
            previews=[
                Preview(data_uri(_enlarged(picture), lossless=False), file, "image"),
                _preview(spec, picture, classes, file, network.label),
            ],
            tables=[Table(f"pixels, {network.label}", rows[:_LISTED])],
        )
        chosen = [names[c] for c in order[:_EXPLAINED]] if request.class_name is None else [request.class_name]
        if len(order) > len(chosen) and request.class_name is None:
            explained.notes.append(
                f"Of {len(order)} classes the {_EXPLAINED} with the most pixels are explained, "
                "--class chooses others."
            )
        cams = _add_cams(explained, network, image, picture, chosen, f"{name}-grad-cam")
        explained.cams = cams
        explained.entry["grad_cam"] = [_numbers(cam, names) for cam in cams]
        if request.against is not None:
            theirs, (_, their_spec), their_picture = request.against, self.specs, pictures[1]
            their_image, their_classes = _predict(theirs, their_spec, their_picture, file)
            explained.previews.append(_preview(their_spec, their_picture, their_classes, file, theirs.label))
            found = _add_cams(explained, theirs, their_image, their_picture, chosen, f"{name}-grad-cam-against")
            explained.against_cams = found
            explained.entry["against"] = {"grad_cam": [_numbers(cam, theirs.class_names) for cam in found]}
        if network.task.window is not None:
            explained.notes.append(
                "This network predicts through sliding windows; here it sees the image at once, which may differ."
            )
        pixels = np.asarray(picture.convert("RGB"), np.float32) / 255
        at = where_most(cams[0].cam.map) if cams else (pixels.shape[0] / 2, pixels.shape[1] / 2)
        add_layer_contents(explained, network.task.model, image[None], pixels, at, name)
        return explained


def _predict(
    network: ExplainedNetwork, spec: SegmentationSpec, picture: Image.Image, file: str
) -> tuple[Tensor, np.ndarray]:
    """Return the network's input, (C, H, W), and the predicted class of every pixel, (H, W)."""
    image = spec.eval_transform()(picture).to(network.task.device)
    logits = network.task.model(image[None])[0]
    require_finite(logits, file)
    return image, logits.argmax(0).cpu().numpy()


def _preview(spec: SegmentationSpec, picture: Image.Image, classes: np.ndarray, file: str, label: str) -> Preview:
    large = _enlarged(picture)
    times = large.width // picture.width
    colored = overlay(large, classes.repeat(times, 0).repeat(times, 1), spec.colors)
    return Preview(data_uri(colored, lossless=False), f"{file} with the classes of {label} in colours", label)


def _enlarged(picture: Image.Image) -> Image.Image:
    times = max(1, -(-_SIDE // max(picture.size)))
    return picture.convert("RGB").resize((picture.width * times, picture.height * times), Image.Resampling.NEAREST)


def _add_cams(
    explained: ImageExplanation,
    network: ExplainedNetwork,
    image: Tensor,
    picture: Image.Image,
    classes: Sequence[str],
    name: str,
) -> list[PixelCam]:
    """Explain the named classes, with a figure of those that are predicted and a note about the others."""
    names = network.class_names
    targets = [names.index(wanted) for wanted in classes]
    cams = pixel_cams(network.task.model, image, targets, layer=network.layer)
    for cam, wanted in zip(cams, classes, strict=True):
        if not cam.mask.any():
            explained.notes.append(f"{network.label} takes no pixel for {wanted}, so there is nothing to explain.")
    cams = [cam for cam in cams if cam.mask.any()]
    if cams:
        explained.drawings.append(partial(_draw, picture, cams, names, name, network.label))
    return cams


def _draw(picture: Image.Image, cams: list[PixelCam], names: list[str], name: str, label: str) -> Picture:
    parts = [
        Part(f"“{short(_class_of(cam, names), 12)}” {cam.mask.mean():.1%}", mask=cam.mask, cam=cam.cam)
        for cam in cams
    ]
    title = f"What speaks for the pixels of a class, {label}"
    return parts_picture(picture, parts, name, label, title=title, what=_WHAT, missing="")


def _class_of(cam: PixelCam, names: Sequence[str]) -> str:
    assert cam.cam.target is not None
    return names[cam.cam.target]


def _numbers(cam: PixelCam, names: Sequence[str]) -> dict[str, Any]:
    return {"class": _class_of(cam, names), "pixels": int(cam.mask.sum()), **cam.cam.to_dict()}
