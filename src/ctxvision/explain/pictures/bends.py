"""Where the taps of contextual convolutions read, and how far they bend by class."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ctxvision.explain.offsets import Bend, ClassBend
from ctxvision.plots.style import (
    FEW,
    HEAT,
    WIDTH,
    Ink,
    Picture,
    bare,
    color_bar,
    enlarged,
    make_picture,
    new_figure,
    plain,
    short,
)

_MARKERS = ("o", "s", "^", "D")


def taps_picture(
    layers: Sequence[tuple[int, Bend]], image: np.ndarray, at: tuple[float, float], name: str
) -> Picture:
    """Draw where the taps of one output position read, and how far taps move at every position.

    Args:
        layers: number of a stage and what a layer of it makes of one image, at most four.
        image: RGB in [0, 1], (H, W, 3).
        at: the pixel (y, x) whose nearest output position is shown.
        name: of the picture.
    """
    height, width = image.shape[:2]
    farthest = max(float(bend.lengths.mean(1).max()) for _, bend in layers) or 1.0

    def draw(ink: Ink) -> Figure:
        columns = max(len(layers), 2)
        figure = new_figure(2 * WIDTH / columns * height / width + 1.1)
        axes = figure.subplots(2, columns, squeeze=False)
        for place in axes[:, len(layers) :].flat:
            place.set_visible(False)
        for column, (stage, bend) in enumerate(layers):
            color = ink.stages[stage - 1]
            place = axes[0, column]
            grey = 0.35 + 0.65 * np.repeat(image.mean(2, keepdims=True), 3, 2)
            place.imshow(enlarged(grey), interpolation="none", extent=(-0.5, width - 0.5, height - 0.5, -0.5))
            row, col = nearest_position(bend, at)
            plain_taps, taps = bend.plain[:, row, col], bend.taps[0, :, row, col]
            for start, end in zip(plain_taps, taps, strict=True):
                place.plot(*zip(start[::-1], end[::-1], strict=True), color=color, linewidth=0.7)
            place.scatter(
                *plain_taps.T[::-1], s=5, facecolors="none", edgecolors=ink.soft, linewidths=0.6, zorder=2
            )
            place.scatter(*taps.T[::-1], s=7, color=color, zorder=3)
            place.scatter(*centre(plain_taps)[::-1], s=70, marker="+", color=ink.true, linewidths=1.6, zorder=4)
            place.add_patch(Rectangle((-0.5, -0.5), width, height, fill=False, edgecolor=ink.text, linewidth=0.8))
            every = np.concatenate([plain_taps, taps, [[0, 0], [height - 1, width - 1]]])
            (low_y, low_x), (high_y, high_x) = every.min(0) - 2, every.max(0) + 2
            place.set_xlim(low_x, high_x)
            place.set_ylim(high_y, low_y)
            bare(place, ink, f"stage {stage}, taps of +")
            lengths = bend.lengths[0].mean(0)
            place = axes[1, column]
            place.imshow(lengths, cmap=HEAT, vmin=0, vmax=farthest, interpolation="none")
            bare(place, ink, f"{lengths.shape[0]} × {lengths.shape[1]} positions")
        color_bar(
            figure, axes[1], ink, HEAT, 0, farthest, "mean distance of the taps from the regular grid, pixels"
        )
        return figure

    words = "; ".join(
        f"stage {stage}: {bend.lengths.mean():.2f} pixels on average, at most {bend.lengths.max():.1f}"
        for stage, bend in layers
    )
    return make_picture(
        draw,
        name,
        pixels=True,
        title="Where contextual convolutions read",
        alt=f"Distance of taps from the grid; {words}",
        caption="Above: hollow, the taps of a plain convolution; filled, where they read instead, all for the "
        "output "
        "position at +; the frame is the image, outside it is zero. Below: how far taps move at every output "
        "position. "
        f"Layers: {', '.join(bend.name for _, bend in layers)}.",
    )


def nearest_position(bend: Bend, at: tuple[float, float]) -> tuple[int, int]:
    """Return the output position (row, column) whose taps are centred nearest to a pixel (y, x)."""
    middle = bend.plain.mean(0)  # (H', W', 2)
    distance = np.square(middle - np.array(at)).sum(-1)
    row, column = np.unravel_index(distance.argmin(), distance.shape)
    return int(row), int(column)


def centre(taps: np.ndarray) -> np.ndarray:
    """Return the middle of some taps, (y, x)."""
    return taps.mean(0)


def class_bends_picture(
    layers: Sequence[tuple[int, ClassBend]], names: Sequence[str], name: str = "bends_by_class"
) -> Picture:
    """Draw how far kernels and taps bend for each predicted class; of many, those that differ most from the mean.

    Args:
        layers: number of a stage and the layer of it that is shown, at most four.
        names: of the classes.
        name: of the picture.
    """
    lengths = np.stack([bend.lengths for _, bend in layers])  # (L, C)
    present = np.flatnonzero(layers[0][1].images)
    if len(present) > FEW:
        apart = np.abs(lengths[:, present] / lengths[:, present].mean(1, keepdims=True) - 1).sum(0)
        present = np.sort(present[np.argsort(-apart, kind="stable")[:FEW]])

    def draw(ink: Ink) -> Figure:
        figure = new_figure(max(2.2, 1.1 + 0.21 * len(present)))
        left, right = figure.subplots(1, 2, sharey=True)
        rows = np.arange(len(present))
        for number, (stage, bend) in enumerate(layers):
            style = {
                "color": ink.stages[stage - 1],
                "marker": _MARKERS[number],
                "linestyle": "none",
                "markersize": 5,
            }
            left.plot(bend.lengths[present], rows, label=f"stage {stage}", **style)
            right.plot(bend.kernel_change[present] * 100, rows, **style)
        left.set_yticks(rows, [short(names[c], 14) for c in present])
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
        f"stage {stage}: taps {np.nanmin(bend.lengths):.2f} to {np.nanmax(bend.lengths):.2f} pixels"
        for stage, bend in layers
    )
    images = int(layers[0][1].images.sum())
    return make_picture(
        draw,
        name,
        title="How far kernels bend for each class",
        alt=f"Bending by predicted class; {words}",
        caption=f"Means over the images that the network takes for the class, of {images:,}. Left: mean distance "
        "of the "
        "taps from the regular grid. Right: norm of the kernel offsets over the norm of the kernel.",
    )
