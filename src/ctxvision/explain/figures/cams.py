"""Figures of Grad-CAM over an image: for a class in one network or two, for parts, for frames of a clip."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from ctxvision.explain.cams import GradCam
from ctxvision.plots.palette import HEAT, Ink
from ctxvision.plots.picture import Picture, make_picture
from ctxvision.plots.pixels import Pixels, enlarged, under_heat
from ctxvision.plots.style import WIDTH, bare, color_bar, new_figure, short

_COLUMNS = 4  # frames in a row


@dataclass(frozen=True)
class CamPanel:
    """The answer of one network for an image, with its Grad-CAM.

    Attributes:
        network: The name of the network.
        image: The image as the network saw it, RGB from 0 to 1, (H, W, 3).
        cam: The Grad-CAM of the class.
        class_name: The name of the class.
        probability: The probability of the class, from 0 to 1.
    """

    network: str
    image: Pixels
    cam: GradCam
    class_name: str
    probability: float


@dataclass(frozen=True)
class Part:
    """One row of `parts_picture`.

    Attributes:
        words: A few words that name the part.
        box: The part as a box, x0, y0, x1, y1 in pixels, (4,); ``None`` if it is not a box.
        mask: The part as pixels, (H, W) bool; ``None`` if it is not a mask.
        cam: The Grad-CAM of the part; ``None`` where there is nothing to explain.
    """

    words: str
    box: np.ndarray | None = None
    mask: np.ndarray | None = None
    cam: GradCam | None = None


def cam_picture(panels: Sequence[CamPanel], name: str) -> Picture:
    """Draw an image and the Grad-CAM of a class in it, for one network or for two (paper, Fig. 4)."""
    first = panels[0]

    def draw(ink: Ink) -> Figure:
        columns = max(len(panels) + 1, 3)
        figure = new_figure(WIDTH / columns * first.image.shape[0] / first.image.shape[1] + 0.95)
        axes = figure.subplots(1, columns, squeeze=False)[0]
        axes[0].imshow(enlarged(first.image))
        bare(axes[0], ink, "input\n")
        for place, panel in zip(axes[1:], panels, strict=False):
            place.imshow(enlarged(under_heat(panel.image, panel.cam.map)))
            says = f"{short(panel.class_name, 12)} {panel.probability:.0%}"
            bare(place, ink, f"{short(panel.network, 24 - 3 * len(panels))}\n{says}")
        for place in axes[1 + len(panels) :]:
            place.set_visible(False)
        color_bar(figure, axes, ink, HEAT, 0, 1, "evidence for the class (share of the highest)")
        return figure

    words = [f"evidence of {p.network} for {p.class_name}: {_where(p.cam.map, 'none anywhere')}" for p in panels]
    layers = "; ".join(
        _read_at(panel.network, panel.cam) + (f", scored at {panel.cam.scored_by}" if panel.cam.scored_by else "")
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


def parts_picture(
    picture: Image.Image,
    parts: Sequence[Part],
    name: str,
    network: str,
    *,
    title: str,
    caption: str,
    missing: str,
) -> Picture:
    """Draw parts of an image, one in each row, beside their Grad-CAMs.

    Args:
        picture: The image, of any mode.
        parts: The parts, at least one.
        name: The name of the picture.
        network: The name of the network.
        title: The title of the figure, in a few words.
        caption: A sentence that explains how to read the figure; the names of the layers are added.
        missing: The words that are shown in rows without Grad-CAM.
    """
    image = np.asarray(picture.convert("RGB"), np.float32) / 255
    height, width = image.shape[:2]

    def draw(ink: Ink) -> Figure:
        figure = new_figure(len(parts) * (WIDTH / 3 * height / width + 0.3) + 0.75)
        axes = figure.subplots(len(parts), 3, squeeze=False)
        for row, (places, part) in enumerate(zip(axes, parts, strict=True)):
            _show(places[0], image if part.mask is None else _dimmed(image, part.mask))
            bare(places[0], ink, part.words)
            shown = [places[0]]
            if part.cam is None:
                for place in places[1:]:
                    place.set_axis_off()
                places[1].text(0, 0.5, missing, transform=places[1].transAxes, color=ink.text, va="center")
            else:
                heats = (("Grad-CAM", part.cam.map), ("in place", part.cam.in_place))
                for place, (head, heat) in zip(places[1:], heats, strict=True):
                    _show(place, under_heat(image, heat))
                    bare(place, ink, head if row == 0 else "")
                    shown.append(place)
            if part.box is not None:
                for place in shown:
                    _frame(place, part.box)
        if any(part.cam is not None for part in parts):
            color_bar(figure, axes, ink, HEAT, 0, 1, "evidence (share of the highest)")
        return figure

    def where(part: Part) -> str:
        return missing if part.cam is None else _where(part.cam.in_place, "no evidence in place", " in place")

    words = "; ".join(f"{part.words}: {where(part)}" for part in parts)
    read = sorted({_read_at("", part.cam).removeprefix(" at ") for part in parts if part.cam is not None})
    layers = f" {network} at {' and '.join(read)}." if read else ""
    return make_picture(
        draw, name, pixels=True, title=title, alt=f"Grad-CAM; {words}", caption=f"{caption}{layers}"
    )


def frames_picture(
    frames: np.ndarray, maps: np.ndarray, names: Sequence[str], name: str, *, title: str, caption: str
) -> Picture:
    """Draw the frames of a clip, each above its Grad-CAM.

    Args:
        frames: The T frames, RGB from 0 to 1, (T, H, W, 3).
        maps: The Grad-CAMs of the frames, (T, H, W) from 0 to 1.
        names: The names of the T frames.
        name: The name of the picture.
        title: The title of the figure, in a few words.
        caption: A sentence that explains how to read the figure.
    """
    columns = max(min(len(frames), _COLUMNS), 2)
    rows = -(-len(frames) // columns)
    height, width = frames.shape[1:3]

    def draw(ink: Ink) -> Figure:
        figure = new_figure(2 * rows * WIDTH / columns * height / width + 0.25 * rows + 0.75)
        axes = figure.subplots(2 * rows, columns, squeeze=False)
        for place in axes.flat[len(frames) :]:
            place.set_visible(False)
        for index, (frame, heat) in enumerate(zip(frames, maps, strict=True)):
            above, below = axes[2 * (index // columns) : 2 * (index // columns) + 2, index % columns]
            above.set_visible(True)
            below.set_visible(True)
            above.imshow(enlarged(frame))
            below.imshow(enlarged(under_heat(frame, heat)))
            bare(above, ink, names[index])
            bare(below, ink)
        color_bar(figure, axes, ink, HEAT, 0, 1, "evidence (share of the highest in the clip)")
        return figure

    highest = maps.max((1, 2))
    words = ", ".join(f"{frame} {value:.0%}" for frame, value in zip(names, highest, strict=True))
    return make_picture(
        draw, name, pixels=True, title=title, alt=f"Grad-CAM by frame; highest values: {words}", caption=caption
    )


def _show(place: Axes, image: Pixels) -> None:
    """Show an image so that coordinates are its pixels, however it is enlarged."""
    height, width = image.shape[:2]
    place.imshow(enlarged(image), extent=(-0.5, width - 0.5, height - 0.5, -0.5))


def _dimmed(image: Pixels, mask: np.ndarray) -> Pixels:
    """Make the pixels of an image (H, W, 3) that are not in a mask (H, W) dark and grey."""
    grey = np.repeat(image.mean(2, keepdims=True), 3, 2)
    return np.where(mask[..., None], image, 0.25 * grey)


def _frame(place: Axes, box: np.ndarray) -> None:
    x0, y0, x1, y1 = box - 0.5  # a box covers pixels, whose centres have whole numbers
    for color, line in (("black", 2.6), ("white", 1.2)):  # seen on any ground
        place.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, linewidth=line))


def _read_at(network: str, cam: GradCam) -> str:
    return f"{network} at {cam.layer.name}, {cam.layer.size[0]} × {cam.layer.size[1]} positions"


def _where(heat: np.ndarray, nowhere: str, how: str = "") -> str:
    """Describe in words where a map (H, W) is highest."""
    if not heat.max() > 0:
        return nowhere
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    rows, columns = heat.shape
    return f"most{how} at {(x + 0.5) / columns:.0%} from the left and {(y + 0.5) / rows:.0%} from the top"
