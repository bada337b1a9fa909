"""Grad-CAM: which places of an image speak for a class, or for any other score, at any layer of a network."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ctxvision.models._figures import evaluation_mode
from ctxvision.tasks.classification.class_sets import funnel_steps, is_contextual

from .layers import LayerError, MapLayer, find_layer, map_format, map_layers, watching

Score = Callable[[Any], Tensor]
"""Takes the network's output for one image and returns the scalar that is to be explained."""


@dataclass(frozen=True)
class GradCam:
    """The Grad-CAM of one score in one image.

    Attributes:
        layer: The layer whose map was weighed.
        map: The Grad-CAM scaled to [0, 1] and to the size of the image, (H, W) float32; all 0 if nothing speaks
            for the score, or if the layer has one position only.
        raw: The Grad-CAM at the size of the layer's map, not scaled, (h, w) float32: positive where the features
            speak for the score.
        in_place: The map of HiResCAM (Draelos and Carin, 2020), (H, W) float32 from 0 to 1: like ``map``, but each
            position is weighed by its own gradient instead of the mean over all positions, so that only positions
            that the score depends on are positive.
        target: The number of the class that is explained; ``None`` if the caller gave a score of their own.
        scored_by: The name of the step of a contextual network that scored the class last, for example ``"head"``;
            otherwise ``None``.
    """

    layer: MapLayer
    map: np.ndarray
    raw: np.ndarray
    in_place: np.ndarray
    target: int | None = None
    scored_by: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the layer, the size of its map and the map, not scaled, as plain values for JSON."""
        return {"layer": self.layer.name, "size": list(self.layer.size), "map": rounded(self.raw)}


@dataclass(frozen=True)
class BoxCam:
    """The Grad-CAM of one box of a detector.

    Attributes:
        box: The box that the detector found, as x0, y0, x1, y1 in pixels of the image, (4,) float32.
        label: The number of the class of the box, from 1.
        score: The score of the box, from 0 to 1.
        cam: The Grad-CAM of the score; its ``target`` is the label, and its ``in_place`` shows only what this box
            was read from.
    """

    box: np.ndarray
    label: int
    score: float
    cam: GradCam


@dataclass(frozen=True)
class PixelCam:
    """The Grad-CAM of the pixels that a network predicts as one class.

    Attributes:
        mask: Whether each pixel is predicted as the class, (H, W) bool.
        cam: The Grad-CAM of these pixels; its ``target`` is the class. It is all 0 if no pixel is predicted as the
            class.
    """

    mask: np.ndarray
    cam: GradCam


@dataclass(frozen=True)
class FrameCams:
    """The Grad-CAM of one class in the T frames of a clip.

    Attributes:
        layer: The layer whose map was weighed.
        maps: The Grad-CAM of each frame, (T, H, W) float32 from 0 to 1; 1 is the highest value of the whole clip,
            so that frames can be compared.
        raw: The Grad-CAM of each frame at the size of the layer's map, not scaled, (T, h, w) float32.
        target: The number of the class that is explained.
    """

    layer: MapLayer
    maps: np.ndarray
    raw: np.ndarray
    target: int


def grad_cam(
    model: nn.Module,
    images: Tensor,
    classes: Sequence[int] | Tensor | None = None,
    *,
    layer: str | None = None,
    score: Score | None = None,
) -> list[GradCam]:
    """Compute Grad-CAM for classes of images.

    The score of a class in a contextual network is the one from the last step that considered the class. A class
    that was dropped on the way was scored by features of an earlier stage, and is explained there: nothing after
    that stage has any influence on it. (The constant that keeps its logit below all others has no gradient.)

    Source: Selvaraju et al., Grad-CAM, ICCV 2017; Contextual CNN, Fig. 4.

    Args:
        model: The network, which takes images (B, C, H, W) and returns logits (B, classes), on the device to use.
        images: The normalised images, (B, C, H, W), on the same device.
        classes: The number of the class to explain in each image, (B,); by default the class that the network
            answers.
        layer: The name of a layer that `map_layers` lists; by default the end of the last stage with at least 4 ×
            4 positions before the score.
        score: A function that computes the score to explain instead of a class, for networks that return something
            else than logits, such as maps of classes: it takes the output for one image and returns a scalar.

    Returns:
        One Grad-CAM for each image, in their order.

    Raises:
        LayerError: There is no layer of this name, or the score does not depend on it.
        ValueError: The number of classes differs from the number of images, or a class does not exist.

    Examples:
        >>> import timm, ctxvision
        >>> model = timm.create_model("cotnet_micro", num_classes=20)
        >>> (found,) = grad_cam(model, torch.randn(1, 3, 128, 128), [7])
        >>> found.layer.name, found.raw.shape, found.map.shape, found.in_place.shape
        ('layer4', (4, 4), (128, 128), (128, 128))
    """
    layers = map_layers(model, images)
    if score is not None:
        chosen = find_layer(layers, layer)
        return [explain_score(model, image, chosen, score) for image in images]
    with evaluation_mode(model):
        output = model.forward_stages(images) if is_contextual(model) else None
        logits = model(images) if output is None else output.logits
    targets = _targets(classes, logits)
    steps = [] if output is None else funnel_steps(model, output)
    found = []
    for row, target in enumerate(targets):
        scored = None
        if steps:
            one = torch.tensor([target], device=images.device)
            scored = [s.name for s in steps if bool((s.classes[row : row + 1] == one[:, None]).any())][-1]
        chosen = _layer_before(layers, scored, layer)
        found.append(explain_score(model, images[row], chosen, partial(_logit_of, target), target, scored))
    return found


def explain_score(
    model: nn.Module,
    image: Tensor,
    layer: MapLayer,
    score: Score,
    target: int | None = None,
    scored_by: str | None = None,
) -> GradCam:
    """Compute the Grad-CAM of one score in one image.

    Args:
        model: The network, on the device to use.
        image: The normalised image, (C, H, W), on the same device.
        layer: The layer whose map is weighed.
        score: A function that takes the output of the network for the image and returns a scalar.
        target: The number of the class that the score belongs to, for the result; ``None`` if it belongs to none.
        scored_by: The name of the step of a contextual network that scored the class last, for the result.
    """
    seen = weigh(model, image[None], layer.name, score)
    heat, in_place = (over_images(raw, image.shape[1:])[0] for raw in seen)
    heat = heat - heat.min()
    heat /= max(float(heat.max()), 1e-12)
    return GradCam(layer, heat, seen.raw[0], in_place, target, scored_by)


def _logit_of(target: int, logits: Tensor) -> Tensor:
    return logits[target]


def _targets(classes: Sequence[int] | Tensor | None, logits: Tensor) -> list[int]:
    targets: list[int] = (logits.argmax(1) if classes is None else torch.as_tensor(classes)).tolist()
    if len(targets) != len(logits):
        raise ValueError(f"classes must be one per image, ({len(logits)},), got ({len(targets)},)")
    if not all(0 <= target < logits.shape[1] for target in targets):
        raise ValueError(f"classes must lie in 0..{logits.shape[1] - 1}, got {targets}")
    return targets


def _layer_before(layers: list[MapLayer], step: str | None, name: str | None) -> MapLayer:
    """Return the layer that explains a class that ``step`` scored; ``"stage 3"`` reads the end of stage 2."""
    if step is None or step == "head":
        return find_layer(layers, name)
    end = next(layer for layer in layers if layer.stage == int(step.removeprefix("stage ")) - 1)
    reached = layers[: layers.index(end) + 1]
    if name is None:
        return end
    chosen = find_layer(layers, name)
    if chosen not in reached:
        raise LayerError(
            f"layer {name!r} comes after the class was dropped: its last score is that at the entry of {step}, "
            f"which depends on {end.name} and the layers before it"
        )
    return chosen


class Weighed(NamedTuple):
    """The arrays that `weigh` returns for N images.

    Attributes:
        raw: The Grad-CAM at the size of the layer's map, (N, h, w) float32.
        in_place: The map of the layer with each position weighed by its own gradient, (N, h, w) float32.
    """

    raw: np.ndarray
    in_place: np.ndarray


def weigh(model: nn.Module, images: Tensor, layer: str, score: Score) -> Weighed:
    """Weigh the channels of a layer's map by the mean of a score's gradient over the positions, and add them.

    Source: Selvaraju et al., Grad-CAM, ICCV 2017, equations 1 and 2, before the ReLU.

    Args:
        model: Any network.
        images: The normalised images, (N, C, H, W), which the network reads together.
        layer: The name of a layer that returns one map (N, C, h, w) or (N, h, w, C).
        score: A function that takes the first of the network's outputs and returns a scalar.

    Returns:
        The weighed maps, as float32 arrays.

    Raises:
        LayerError: The score does not depend on the layer.
    """
    maps: list[np.ndarray] = []
    gradients: list[np.ndarray] = []

    def keep(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
        if maps:  # of a layer that runs twice, the first time counts
            return
        maps.append(_channels_first(output, images.shape[2:]))
        # a hook, because the next layer may change the map in place
        if output.requires_grad:
            output.register_hook(lambda gradient: gradients.append(_channels_first(gradient, images.shape[2:])))

    watched = [(model.get_submodule(layer), keep)]
    with (
        torch.inference_mode(False),
        _gradients_of_input_only(model),
        watching(model, watched),
        torch.enable_grad(),
    ):
        score(model(images.detach().clone().requires_grad_())[0]).backward()
    if not gradients:
        raise LayerError(f"the score does not depend on layer {layer!r}; name one before it")
    (features,), (gradient,) = maps, gradients
    raw = (gradient.mean((2, 3), keepdims=True) * features).sum(1)
    return Weighed(raw, (features * gradient).sum(1))


def over_images(
    raw: np.ndarray,
    size: Sequence[int],
    *,
    inside: Sequence[int] | None = None,
    padded: Sequence[int] | None = None,
) -> np.ndarray:
    """Spread maps over their images, and scale them together to [0, 1] by the highest value.

    Args:
        raw: The maps, (N, h, w); negative values count as 0.
        size: The height and width (H, W) of the images, in pixels.
        inside: The height and width in pixels to which the network resized the images before it padded them; by
            default it did neither.
        padded: The height and width in pixels with the padding, which is below and to the right; by default there
            is none.

    Returns:
        The scaled maps, (N, H, W) float32 from 0 to 1.
    """
    heat = torch.from_numpy(raw).clamp(min=0)[:, None]
    if inside is not None and padded is not None:
        heat = F.interpolate(heat, tuple(padded), mode="bilinear")[..., : inside[0], : inside[1]]
    heat = F.interpolate(heat, tuple(size), mode="bilinear")[:, 0]
    scaled: np.ndarray = (heat / heat.max().clamp(min=1e-12)).numpy()
    return scaled


def rounded(raw: np.ndarray) -> list[Any]:
    """Turn a map (h, w), or maps (n, h, w), into lists for a JSON file, with five significant digits."""
    return [rounded(part) if part.ndim else float(f"{part:.5g}") for part in raw]


def where_most(heat: np.ndarray) -> tuple[float, float]:
    """Return the pixel (y, x) where a map (H, W) is highest, or the middle of a map that is all 0."""
    y, x = np.unravel_index(heat.argmax(), heat.shape) if heat.max() > 0 else np.array(heat.shape) / 2
    return float(y), float(x)


def _channels_first(map_or_gradient: Tensor, image_size: Sequence[int]) -> np.ndarray:
    """Copy the output of a layer as (N, C, h, w) float32; the next layer may change the original in place."""
    kept = map_or_gradient.detach().to("cpu", torch.float32, copy=True)
    arranged: np.ndarray = (
        kept.permute(0, 3, 1, 2) if map_format(kept.shape, image_size) == "NHWC" else kept
    ).numpy()
    return arranged


@contextmanager
def _gradients_of_input_only(model: nn.Module) -> Iterator[None]:
    """Compute no gradients of parameters in the block; gradients that a training left there stay."""
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    for p, _, _ in parameters:
        p.requires_grad_(False)
        p.grad = None
    try:
        yield
    finally:
        for p, wanted, grad in parameters:
            p.requires_grad_(wanted)
            p.grad = grad
