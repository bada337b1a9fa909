"""Grad-CAM for segmentation: which places of an image speak for the pixels of a class."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from ctxvision.models._figures import evaluation_mode

from .grad_cam import GradCam, look
from .layers import MapLayer, find_layer, map_layers


@dataclass(frozen=True)
class PixelCam:
    """What speaks for the pixels that a network takes for one class.

    Attributes:
        mask: these pixels, (H, W) bool.
        cam: Grad-CAM; its ``target`` is the class. It is all 0 where no pixel is taken for the class.
        in_place: like ``cam.map``, but each position weighed by its own gradient instead of the mean over the map
            (HiResCAM: Draelos and Carin, 2020), (H, W) float32.
    """

    mask: np.ndarray
    cam: GradCam
    in_place: np.ndarray


def pixel_cams(
    model: nn.Module, image: Tensor, classes: Sequence[int] | Tensor | None = None, *, layer: str | None = None
) -> list[PixelCam]:
    """Compute Grad-CAM for classes of pixels with pytorch-grad-cam.

    What is explained is the sum of the logits of a class over the pixels that are predicted as it, which is
    pytorch-grad-cam's ``SemanticSegmentationTarget``.

    Source: Vinogradova, Dibrov and Myers, Towards Interpretable Semantic Segmentation via Gradient-weighted Class
    Activation Mapping, AAAI 2020.

    Args:
        model: images (B, C, H, W) to logits (B, classes, H, W); on the device to use.
        image: (C, H, W), normalised, on that device; the network sees it at once, not through windows.
        classes: by default those that occur, the most frequent first.
        layer: a name of `map_layers`; by default the end of the backbone's last stage with at least 4 × 4
            positions, after the layer norm that reads it, if one does.

    Raises:
        LayerError: no such layer.
        ValueError: a class does not exist.

    Examples:
        >>> from ctxvision.tasks.segmentation import build_network
        >>> model = build_network("rednet_micro", 5)
        >>> cams = pixel_cams(model, torch.rand(3, 96, 128), [3])
        >>> cams[0].cam.layer.name, cams[0].cam.raw.shape, cams[0].mask.shape
        ('backbone.body.layer3', (6, 8), (96, 128))
    """
    from pytorch_grad_cam.utils.model_targets import SemanticSegmentationTarget

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
        mask = (predicted == target).numpy()
        seen = look(model, image[None], chosen.name, SemanticSegmentationTarget(target, mask.astype(np.float32)))
        in_place = _over_image(seen.in_place[0], image)
        found.append(PixelCam(mask, GradCam(chosen, seen.scaled[0], seen.raw[0], target, None), in_place))
    return found


def _after_norm(model: nn.Module, layers: Sequence[MapLayer], stage: MapLayer) -> MapLayer:
    """Return the layer norm of a backbone that reads the end of a stage, or the end itself.

    What a layer norm reads cannot be weighed in place: a position's gradient is at right angles to its features,
    because the norm does not see their size.
    """
    for layer in layers:
        if layer.name.startswith("backbone.norms.") and (layer.size, layer.channels) == (
            stage.size,
            stage.channels,
        ):
            return stage if isinstance(model.get_submodule(layer.name), nn.Identity) else layer
    return stage


def _over_image(raw: np.ndarray, image: Tensor) -> np.ndarray:
    """Spread a map (h, w) over an image (C, H, W), and scale it to [0, 1] by its highest value."""
    heat = torch.from_numpy(raw).clamp(min=0)[None, None]
    heat = torch.nn.functional.interpolate(heat, image.shape[1:], mode="bilinear")[0, 0]
    return (heat / heat.max().clamp(min=1e-12)).numpy()
