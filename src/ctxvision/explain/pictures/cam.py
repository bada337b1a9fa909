"""Grad-CAM over an image, one network beside another (paper, Fig. 4)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure

from ctxvision.explain.grad_cam import GradCam
from ctxvision.plots.style import (
    HEAT,
    WIDTH,
    Ink,
    Picture,
    bare,
    color_bar,
    enlarged,
    make_picture,
    new_figure,
    short,
)


@dataclass(frozen=True)
class CamPanel:
    """One network's view.

    Attributes:
        network: what to call it.
        image: what it saw, RGB in [0, 1], (H, W, 3).
        cam: what spoke for the class.
        class_name: that class.
        probability: of it.
    """

    network: str
    image: np.ndarray
    cam: GradCam
    class_name: str
    probability: float


def overlay(image: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Lay a heat map (H, W) in [0, 1] over an image (H, W, 3), of which the brightness remains."""
    grey = image.mean(2, keepdims=True)
    return np.clip(0.45 * grey + 0.55 * colormaps[HEAT](heat)[..., :3], 0, 1)


def cam_picture(panels: Sequence[CamPanel], name: str) -> Picture:
    """Draw the image and what speaks for a class in it, for one network or for two."""
    first = panels[0]

    def draw(ink: Ink) -> Figure:
        columns = max(len(panels) + 1, 3)
        figure = new_figure(WIDTH / columns * first.image.shape[0] / first.image.shape[1] + 0.95)
        axes = figure.subplots(1, columns, squeeze=False)[0]
        axes[0].imshow(enlarged(first.image), interpolation="none")
        bare(axes[0], ink, "input\n")
        for place, panel in zip(axes[1:], panels, strict=False):
            place.imshow(enlarged(overlay(panel.image, panel.cam.map)), interpolation="none")
            says = f"{short(panel.class_name, 12)} {panel.probability:.0%}"
            bare(place, ink, f"{short(panel.network, 24 - 3 * len(panels))}\n{says}")
        for place in axes[1 + len(panels) :]:
            place.set_visible(False)
        color_bar(figure, axes, ink, HEAT, 0, 1, "evidence for the class (share of the highest)")
        return figure

    words = []
    for panel in panels:
        rows, columns = panel.cam.map.shape
        y, x = np.unravel_index(panel.cam.map.argmax(), panel.cam.map.shape)
        where = (
            f"most at {(x + 0.5) / columns:.0%} from the left and {(y + 0.5) / rows:.0%} from the top"
            if panel.cam.map.max() > 0
            else "none anywhere"
        )
        words.append(f"evidence of {panel.network} for {panel.class_name}: {where}")
    layers = "; ".join(
        f"{panel.network} at {panel.cam.layer.name}, {panel.cam.layer.size[0]} × {panel.cam.layer.size[1]} "
        "positions" + (f", scored at {panel.cam.scored_by}" if panel.cam.scored_by else "")
        for panel in panels
    )
    return make_picture(
        draw,
        name,
        pixels=True,
        title="What speaks for the class",
        alt=f"Grad-CAM; {'; '.join(words)}",
        caption=f"Grad-CAM; the percentage is the probability of the class. {layers}.",
    )
