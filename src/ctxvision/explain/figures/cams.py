"""Figures of Grad-CAM over an image: for a class in one network or two, for parts, for frames of a clip."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from ctxvision.explain.cams import GradCam
from ctxvision.plots.palette import HEAT, Ink
from ctxvision.plots.picture import Picture, make_picture
from ctxvision.plots.pixels import Pixels, enlarged, under_heat, under_own_heat
from ctxvision.plots.style import WIDTH, bare, color_bar, new_figure, short

_BESIDE = 2  # pictures in a row: they are large enough to see where the evidence is, on a phone too


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
    """Draw an image and the Grad-CAM of a class in it, for one network or for two (paper, Fig. 4).

    Two pictures stand in a row, so that they are large on a phone, too.
    """
    first = panels[0]

    def draw(ink: Ink) -> Figure:
        rows = -(-(len(panels) + 1) // _BESIDE)
        height = WIDTH / _BESIDE * first.image.shape[0] / first.image.shape[1] + 0.4
        figure = new_figure(rows * height + (0.6 if rows == 1 else 0))
        axes = figure.subplots(rows, _BESIDE, squeeze=False)
        places, bar = list(axes.flat), "evidence for the class (share of the highest)"
        places[0].imshow(enlarged(first.image))
        bare(places[0], ink, "input\n")
        for place, panel in zip(places[1:], panels, strict=False):
            place.imshow(enlarged(under_own_heat(panel.image, panel.cam.map)))
            says = f"“{short(panel.class_name, 16)}” {panel.probability:.0%}{_silent(panel.cam.map)}"
            bare(place, ink, f"{short(panel.network, 30)}\n{says}")
        spare = places[1 + len(panels) :]
        color_bar(figure, axes if not spare else spare[0], ink, HEAT, 0, 1, bar, inside=bool(spare))
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
        what="Where in the image the network found evidence for the class that is named above the picture, beside "
        "the probability that it gives the class.",
        where=f"Grad-CAM of {layers}.",
        how="Yellow places speak most for the class, dark ones do not; every picture has a scale of its own, so "
        "colours say where the evidence is and not how much of it there is.",
    )


def parts_picture(
    picture: Image.Image,
    parts: Sequence[Part],
    name: str,
    network: str,
    *,
    title: str,
    what: str,
    missing: str,
) -> Picture:
    """Draw the Grad-CAMs of parts of an image, one part in each row, with the outline of the part.

    Args:
        picture: The image, of any mode.
        parts: The parts, at least one.
        name: The name of the picture.
        network: The name of the network.
        title: The title of the figure, in a few words.
        what: A sentence that says what the figure shows; the names of the layers are added.
        missing: The words that are shown in rows without Grad-CAM.
    """
    image = np.asarray(picture.convert("RGB"), np.float32) / 255
    height, width = image.shape[:2]

    def draw(ink: Ink) -> Figure:
        figure = new_figure(len(parts) * (WIDTH / _BESIDE * height / width + 0.35) + 0.75)
        axes = figure.subplots(len(parts), _BESIDE, squeeze=False)
        for places, part in zip(axes, parts, strict=True):
            if part.cam is None:
                _show(places[0], image)
                bare(places[0], ink, part.words)
                _outline(places[0], part)
                places[1].set_axis_off()
                places[1].text(0.5, 0.5, missing, transform=places[1].transAxes, color=ink.text, ha="center")
                continue
            heats = ((part.words, part.cam.map), ("in place", part.cam.in_place))
            for place, (head, heat) in zip(places, heats, strict=True):
                _show(place, under_own_heat(image, heat))
                bare(place, ink, head + _silent(heat))
                _outline(place, part)
        if any(part.cam is not None for part in parts):
            color_bar(figure, axes, ink, HEAT, 0, 1, "evidence (share of the highest)")
        return figure

    def where(part: Part) -> str:
        return missing if part.cam is None else _where(part.cam.in_place, "no evidence in place", " in place")

    words = "; ".join(f"{part.words}: {where(part)}" for part in parts)
    read = sorted({_read_at("", part.cam).removeprefix(" at ") for part in parts if part.cam is not None})
    layers = f"Grad-CAM of {network} at {' and '.join(read)}." if read else ""
    return make_picture(
        draw,
        name,
        pixels=True,
        title=title,
        alt=f"Grad-CAM; {words}",
        what=what,
        where=layers,
        how="Left, Grad-CAM: yellow where features like those of the outlined part are found, on other objects "
        "too; right, “in place”: only the places that this very answer was read from.",
    )


def frames_picture(
    frames: np.ndarray, maps: np.ndarray, names: Sequence[str], name: str, *, title: str, what: str, where: str
) -> Picture:
    """Draw the Grad-CAM over every frame of a clip.

    Args:
        frames: The T frames, RGB from 0 to 1, (T, H, W, 3).
        maps: The Grad-CAMs of the frames, (T, H, W) from 0 to 1.
        names: The names of the T frames.
        name: The name of the picture.
        title: The title of the figure, in a few words.
        what: A sentence that says what the figure shows.
        where: The network and the layer that the maps were read from.
    """
    columns = _columns(len(frames))
    rows = -(-len(frames) // columns)
    height, width = frames.shape[1:3]

    def draw(ink: Ink) -> Figure:
        figure = new_figure(rows * (WIDTH / columns * height / width + 0.25) + 0.75)
        axes = figure.subplots(rows, columns, squeeze=False)
        for place in axes.flat[len(frames) :]:
            place.remove()
        for place, frame, heat, called in zip(axes.flat, frames, maps, names, strict=False):
            place.imshow(enlarged(under_heat(frame, heat)))
            bare(place, ink, called)
        bar = "evidence (share of the highest in the clip)"
        color_bar(figure, axes.flat[: len(frames)], ink, HEAT, 0, 1, bar)
        return figure

    highest = maps.max((1, 2))
    words = ", ".join(f"{frame} {value:.0%}" for frame, value in zip(names, highest, strict=True))
    return make_picture(
        draw,
        name,
        pixels=True,
        title=title,
        alt=f"Grad-CAM by frame; highest values: {words}",
        what=what,
        where=where,
        how="Yellow places speak most for the class, dark ones do not; all frames share one scale, so a frame "
        "that stays dark mattered little.",
    )


def _columns(count: int) -> int:
    """Return how many frames stand in a row, so that none is small and, if possible, the last row is full."""
    wanted = (2, 3, 4) if count <= 8 else (4, 3)
    return next((columns for columns in wanted if count % columns == 0), min(wanted[-1], max(count, 1)))


def _show(place: Axes, image: Pixels) -> None:
    """Show an image so that coordinates are its pixels, however it is enlarged."""
    height, width = image.shape[:2]
    place.imshow(enlarged(image), extent=(-0.5, width - 0.5, height - 0.5, -0.5))


def _outline(place: Axes, part: Part) -> None:
    """Draw the outline of a part, in two colours that are seen on any ground."""
    strokes: tuple[tuple[Literal["black", "white"], float], ...] = (("black", 2.6), ("white", 1.2))
    if part.box is not None:
        x0, y0, x1, y1 = part.box - 0.5  # a box covers pixels, whose centres have whole numbers
        for color, line in strokes:
            place.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, edgecolor=color, linewidth=line))
    if part.mask is not None and part.mask.any() and not part.mask.all():
        for color, line in strokes:
            lines = place.contour(part.mask.astype(np.float32), levels=[0.5], colors=color, linewidths=0.7 * line)
            lines.set_rasterized(True)  # the outlines of many small pieces would make a page of megabytes


def _read_at(network: str, cam: GradCam) -> str:
    return f"{network} at {cam.layer.name}, {cam.layer.size[0]} × {cam.layer.size[1]} positions"


def _where(heat: np.ndarray, nowhere: str, how: str = "") -> str:
    """Describe in words where a map (H, W) is highest."""
    if not heat.max() > 0:
        return nowhere
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    rows, columns = heat.shape
    return f"most{how} at {(x + 0.5) / columns:.0%} from the left and {(y + 0.5) / rows:.0%} from the top"


def _silent(heat: np.ndarray) -> str:
    """Return words for a map that is dark everywhere, which is no evidence and not a failed picture."""
    return "" if heat.max() > 0 else ", no evidence"
