"""Figures of the places that the taps of contextual convolutions read, and of the mean offsets by class."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ctxvision.explain.offsets import ClassOffsets, ContextualOffsets
from ctxvision.plots.palette import HEAT, Ink
from ctxvision.plots.picture import Picture, make_picture
from ctxvision.plots.pixels import Pixels, enlarged
from ctxvision.plots.style import FEW, WIDTH, bare, color_bar, new_figure, plain, short

_MARKERS = ("o", "s", "^", "D")


def taps_picture(
    layers: Sequence[tuple[int, ContextualOffsets]], image: Pixels, at: tuple[float, float], name: str
) -> Picture:
    """Draw where the taps of one output position read, and how far the taps move at every position.

    Args:
        layers: Pairs, one for each of at most four layers, of the number of the layer's stage and its offsets for
            one image.
        image: The image, RGB from 0 to 1, (H, W, 3).
        at: The pixel (y, x) whose nearest output position is shown.
        name: The name of the picture.
    """
    height, width = image.shape[:2]
    farthest = max(float(found.sampling_offset.mean(1).max()) for _, found in layers) or 1.0

    def draw(ink: Ink) -> Figure:
        columns = max(len(layers), 2)
        figure = new_figure(2 * WIDTH / columns * height / width + 1.1)
        axes = figure.subplots(2, columns, squeeze=False)
        for place in axes[:, len(layers) :].flat:
            place.set_visible(False)
        for column, (stage, found) in enumerate(layers):
            color = ink.stages[stage - 1]
            place = axes[0, column]
            grey = 0.35 + 0.65 * np.repeat(image.mean(2, keepdims=True), 3, 2)
            place.imshow(enlarged(grey), interpolation="none", extent=(-0.5, width - 0.5, height - 0.5, -0.5))
            row, col = nearest_position(found, at)
            regular, sampled = found.regular[:, row, col], found.sampled[0, :, row, col]
            for start, end in zip(regular, sampled, strict=True):
                place.plot([start[1], end[1]], [start[0], end[0]], color=color, linewidth=0.7)
            y, x = regular.T
            place.scatter(x, y, s=5, facecolors="none", edgecolors=ink.soft, linewidths=0.6, zorder=2)
            place.scatter(x.mean(), y.mean(), s=70, marker="+", color=ink.true, linewidths=1.6, zorder=4)
            y, x = sampled.T
            place.scatter(x, y, s=7, color=color, zorder=3)
            place.add_patch(Rectangle((-0.5, -0.5), width, height, fill=False, edgecolor=ink.text, linewidth=0.8))
            every = np.concatenate([regular, sampled, [[0, 0], [height - 1, width - 1]]])
            (low_y, low_x), (high_y, high_x) = every.min(0) - 2, every.max(0) + 2
            place.set_xlim(low_x, high_x)
            place.set_ylim(high_y, low_y)
            bare(place, ink, f"stage {stage}, taps of +")
            lengths = found.sampling_offset[0].mean(0)
            place = axes[1, column]
            place.imshow(lengths, cmap=HEAT, vmin=0, vmax=farthest, interpolation="none")
            bare(place, ink, f"{lengths.shape[0]} × {lengths.shape[1]} positions")
        color_bar(
            figure, axes[1], ink, HEAT, 0, farthest, "mean distance of the taps from the regular grid, pixels"
        )
        return figure

    words = "; ".join(
        f"stage {stage}: {found.sampling_offset.mean():.2f} pixels on average, "
        f"at most {found.sampling_offset.max():.1f}"
        for stage, found in layers
    )
    return make_picture(
        draw,
        name,
        pixels=True,
        title="Where contextual convolutions read",
        alt=f"Distance of taps from the grid; {words}",
        caption="Above: hollow, the taps of a plain convolution; filled, where they read instead, all for the "
        "output position at +; the frame is the image, outside it is zero. Below: how far taps move at every "
        f"output position. Layers: {', '.join(found.name for _, found in layers)}.",
    )


def nearest_position(found: ContextualOffsets, at: tuple[float, float]) -> tuple[int, int]:
    """Return the output position (row, column) whose taps are centred nearest to a pixel (y, x)."""
    middle = found.regular.mean(0)  # (H', W', 2)
    distance = np.square(middle - np.array(at)).sum(-1)
    row, column = np.unravel_index(distance.argmin(), distance.shape)
    return int(row), int(column)


def class_offsets_picture(
    layers: Sequence[tuple[int, ClassOffsets]], names: Sequence[str], name: str = "bends_by_class"
) -> Picture:
    """Draw the mean offsets for each predicted class; of many classes, those that differ most from the mean.

    Args:
        layers: Pairs, one for each of at most four layers, of the number of the layer's stage and its mean offsets
            by class.
        names: The names of the C classes.
        name: The name of the picture.
    """
    lengths = np.stack([found.sampling_offset for _, found in layers])  # (L, C)
    present = np.flatnonzero(layers[0][1].images)
    if len(present) > FEW:
        apart = np.abs(lengths[:, present] / lengths[:, present].mean(1, keepdims=True) - 1).sum(0)
        present = np.sort(present[np.argsort(-apart, kind="stable")[:FEW]])

    def draw(ink: Ink) -> Figure:
        figure = new_figure(max(2.2, 1.1 + 0.21 * len(present)))
        left, right = figure.subplots(1, 2, sharey=True)
        rows = np.arange(len(present))
        for number, (stage, found) in enumerate(layers):
            style: dict[str, Any] = {"color": ink.stages[stage - 1], "marker": _MARKERS[number], "markersize": 5}
            left.plot(found.sampling_offset[present], rows, label=f"stage {stage}", linestyle="none", **style)
            right.plot(found.weight_offset[present] * 100, rows, linestyle="none", **style)
        left.set_yticks(rows, [short(names[c], 14) for c in present.tolist()])
        left.invert_yaxis()
        left.set_ylabel("predicted class")
        left.set_xlabel("taps moved by, pixels")
        right.set_xlabel("kernel changed by, %")
        for axes in (left, right):
            axes.set_xlim(left=0)
            plain(axes, ink)
        figure.legend(loc="outside upper center", ncols=4, frameon=False, labelcolor=ink.text)
        return figure

    words = "; ".join(
        f"stage {stage}: taps {np.nanmin(found.sampling_offset):.2f} to "
        f"{np.nanmax(found.sampling_offset):.2f} pixels"
        for stage, found in layers
    )
    images = int(layers[0][1].images.sum())
    return make_picture(
        draw,
        name,
        title="Offsets by class",
        alt=f"Offsets by predicted class; {words}",
        caption=f"Means over the images that the network takes for the class, of {images:,}. Left: mean distance "
        "of the taps from the regular grid, the length of Δp. Right: norm of Δw over the norm of the kernel.",
    )
