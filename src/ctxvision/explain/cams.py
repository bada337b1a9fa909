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

from .layers import LayerError, MapLayer, find_layer, map_format, map_layers

Score = Callable[[Any], Tensor]
"""Takes the network's output for one image and returns the scalar that is to be explained."""


@dataclass(frozen=True)
class GradCam:
    """What speaks for one score in one image.

    Attributes:
        layer: The layer whose map was weighed.
        map: Grad-CAM scaled to [0, 1] and to the size of the image, (H, W) float32; all 0 if nothing speaks for
            the score, or if the layer has one position only.
        raw: Grad-CAM as it is at the layer, (h, w) float32: positive where the features speak for the score.
        in_place: Like ``map``, but each position is weighed by its own gradient instead of the mean over all
            positions (HiResCAM: Draelos and Carin, 2020), (H, W) float32: nothing is positive where the score does
            not look.
        target: The class; ``None`` for a score of the caller's own.
        scored_by: The step of a contextual network that scored the class last, for example ``"head"``; else
            ``None``.
    """

    layer: MapLayer
    map: np.ndarray
    raw: np.ndarray
    in_place: np.ndarray
    target: int | None = None
    scored_by: str | None = None


@dataclass(frozen=True)
class BoxCam:
    """What speaks for one box of a detector.

    Attributes:
        box: The box as the detector has it, x0, y0, x1, y1 in pixels of the image, (4,) float32.
        label: Its class, from 1.
        score: Its score.
        cam: Grad-CAM; its ``target`` is the label, and its ``in_place`` shows only what this box was read from.
    """

    box: np.ndarray
    label: int
    score: float
    cam: GradCam


@dataclass(frozen=True)
class PixelCam:
    """What speaks for the pixels that a network takes for one class.

    Attributes:
        mask: These pixels, (H, W) bool.
        cam: Grad-CAM; its ``target`` is the class. It is all 0 where no pixel is taken for the class.
    """

    mask: np.ndarray
    cam: GradCam


@dataclass(frozen=True)
class FrameCams:
    """What speaks for one class in the T frames of a clip.

    Attributes:
        layer: The layer whose map was weighed.
        maps: Grad-CAM of each frame, (T, H, W) float32 from 0 to 1, the highest value of the clip: frames can be
            compared.
        raw: Grad-CAM as it is at the layer, (T, h, w) float32.
        target: The class.
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
    """Compute Grad-CAM for classes of images with pytorch-grad-cam.

    Of a contextual network the score of a class is the one that the last step gave it which considered it. A class
    that was dropped on the way was scored by features of an earlier stage, and is explained there: nothing after
    that stage has any influence on it. (The constant that keeps its logit below all others has no gradient.)

    Source: Selvaraju et al., Grad-CAM, ICCV 2017; Contextual CNN, Fig. 4.

    Args:
        model: Takes images (B, C, H, W), returns logits (B, classes); on the device to use.
        images: (B, C, H, W), normalised, on that device.
        classes: One per image, (B,); by default what the network answers.
        layer: A name of `map_layers`; by default the end of the last stage with at least 4 × 4 positions before
            the score.
        score: What to explain instead of a class, for networks that return something else than logits, such as
            maps of classes: it takes the output for one image and returns a scalar.

    Returns:
        One for each image.

    Raises:
        LayerError: There is no such layer, or the score does not depend on it.
        ValueError: There are not as many classes as images, or a class does not exist.

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
    """Compute Grad-CAM for one score of one image (C, H, W); the arguments are named as in `GradCam`."""
    seen = weigh(model, image[None], layer.name, score)
    in_place = over_images(seen.in_place, image.shape[1:])[0]
    return GradCam(layer, seen.scaled[0], seen.raw[0], in_place, target, scored_by)


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
    """Return the layer to use for a class that this step scored; ``"stage 3"`` reads what stage 2 ended with."""
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
    """What `weigh` finds for N images.

    Attributes:
        scaled: Grad-CAM as pytorch-grad-cam scales it, (N, H, W) float32.
        raw: Grad-CAM at the layer, (N, h, w) float32.
        in_place: The same, but each position weighed by its own gradient, (N, h, w) float32.
    """

    scaled: np.ndarray
    raw: np.ndarray
    in_place: np.ndarray


def weigh(model: nn.Module, images: Tensor, layer: str, score: Score) -> Weighed:
    """Weigh the map of a layer by the gradients of a score, with pytorch-grad-cam.

    Args:
        model: Any network.
        images: (N, C, H, W), which it reads together.
        layer: Name of a layer that returns a map (N, C, h, w) or (N, h, w, C), once.
        score: Takes the first of the network's outputs and returns a scalar.

    Raises:
        LayerError: The score does not depend on the layer.
    """
    from pytorch_grad_cam import GradCAM  # draws in much that nothing else needs

    with torch.inference_mode(False), _gradients_of_input_only(model), torch.enable_grad():
        arrange = partial(_channels_first, image_size=images.shape[2:])
        cam = GradCAM(model, [model.get_submodule(layer)], reshape_transform=arrange)
        try:
            scaled = cam(images.detach().clone().requires_grad_(), [score]).astype(np.float32)
            kept = cam.activations_and_grads
            maps, gradients = kept.activations[0].numpy(), kept.gradients[0].numpy()
            raw = cam.get_cam_image(None, None, None, maps, gradients)
        except AttributeError as error:
            if cam.activations_and_grads.gradients:
                raise
            raise LayerError(f"the score does not depend on layer {layer!r}; name one before it") from error
        finally:
            cam.activations_and_grads.release()
    return Weighed(scaled, raw.astype(np.float32), (maps * gradients).sum(1).astype(np.float32))


def over_images(
    raw: np.ndarray,
    size: Sequence[int],
    *,
    inside: Sequence[int] | None = None,
    padded: Sequence[int] | None = None,
) -> np.ndarray:
    """Spread maps over the images that they are of, and scale them together to [0, 1] by the highest value.

    Args:
        raw: (N, h, w); what is negative counts as 0.
        size: (H, W) of the images, in pixels.
        inside: (H, W) to which the network resized the images before it padded them; by default it did neither.
        padded: (H, W) with the padding, below and to the right.

    Returns:
        (N, H, W) float32.
    """
    heat = torch.from_numpy(raw).clamp(min=0)[:, None]
    if inside is not None and padded is not None:
        heat = F.interpolate(heat, tuple(padded), mode="bilinear")[..., : inside[0], : inside[1]]
    heat = F.interpolate(heat, tuple(size), mode="bilinear")[:, 0]
    scaled: np.ndarray = (heat / heat.max().clamp(min=1e-12)).numpy()
    return scaled


def _channels_first(map_or_gradient: Tensor, image_size: Sequence[int]) -> Tensor:
    """Keep what a layer returned, (N, C, h, w): the next may work in place on it."""
    kept = map_or_gradient.to(torch.float32, copy=True)
    return kept.permute(0, 3, 1, 2) if map_format(kept.shape, image_size) == "NHWC" else kept


@contextmanager
def _gradients_of_input_only(model: nn.Module) -> Iterator[None]:
    """Spare the gradients of parameters: those that a training left there stay, and no new ones are computed."""
    parameters = [(p, p.requires_grad, p.grad) for p in model.parameters()]
    with evaluation_mode(model):
        for p, _, _ in parameters:
            p.requires_grad_(False)
            p.grad = None
        try:
            yield
        finally:
            for p, wanted, grad in parameters:
                p.requires_grad_(wanted)
                p.grad = grad
