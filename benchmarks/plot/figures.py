"""The figures: speed against accuracy, cost against resolution, speed against batch."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from benchmarks import rows as table
from benchmarks.plot.published import published
from benchmarks.plot.selection import Rows, fastest, newest, subtitle
from benchmarks.plot.style import COLORS, FAINT, INK, STYLE, label_ends, label_points, title
from ctxvision.models import paper_result


def draw(path: Path, folder: Path, format: str) -> list[Path]:
    """Draw what the rows allow, from the newest run of each kind; return the files.

    Raises:
        FileNotFoundError: If there is no CSV file.
        ValueError: If it holds no inference rows.
    """
    rows = table.read(path)
    figures = {"accuracy": accuracy(rows), "resolution": sweep(rows, "resolution"), "batch": sweep(rows, "batch")}
    drawn = {name: figure for name, figure in figures.items() if figure is not None}
    if not drawn:
        raise ValueError(f"{path.name} holds no inference rows that a figure could show")
    folder.mkdir(parents=True, exist_ok=True)
    files = []
    for name, figure in drawn.items():
        files.append(folder / f"{name}.{format}")
        # no date inside: the same rows give the same file
        metadata = {"Date": None} if format == "svg" else {}
        with matplotlib.rc_context(STYLE):
            figure.savefig(files[-1], dpi=150, metadata=metadata)
    return files


def accuracy(rows: Rows) -> Figure | None:
    """Return images/s against the papers' top-1 accuracy; networks without a published figure are named below."""
    chosen = newest(rows, "none")
    if not chosen:
        return None
    lines = {name: next(iter(at.values())) for name, at in fastest(chosen, "resolution").items()}
    known = {name: row for name, row in lines.items() if published(name) is not None}
    if not known:
        return None
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 4.6))
        axes = figure.add_axes((0.09, 0.17, 0.87, 0.68))
        points, texts, colors = {}, {}, {name: _color(name) for name in known}
        for name, row in known.items():
            found = published(name)
            assert found is not None
            points[name] = (float(row["images_s"]), found.top1)
            texts[name] = name + ("*" if _is_short(found.source) else "")
            fill = colors[name] if paper_result(name) is not None else "w"
            marker = "s" if fill == "w" else "o"
            axes.plot(*points[name], marker, color=colors[name], markersize=7, markerfacecolor=fill)
        axes.margins(0.17, 0.12)
        label_points(axes, points, texts, colors)
        axes.set_xlabel("inference, images per second (median)")
        axes.set_ylabel("ImageNet-1k top-1 in the papers, %")
        batch = f"batch {chosen[0]['batch']}, {_sizes(known)}"
        title(figure, "Speed measured here against published accuracy", subtitle(chosen, batch))
        absent = ", ".join(sorted(set(lines) - set(known)))
        notes = "● ours   □ timm's" + (
            "   * trained for only 100 to 130 epochs" if "*" in "".join(texts.values()) else ""
        )
        notes += f"\nno published accuracy: {absent}" if absent else ""
        figure.text(0.02, 0.02, notes, fontsize=7, color=FAINT)
    return figure


def sweep(rows: Rows, over: str) -> Figure | None:
    """Return milliseconds per megapixel against resolution, or images/s against batch."""
    chosen = newest(rows, over)
    if not chosen:
        return None
    lines = fastest(chosen, over)
    by_size = over == "resolution"
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, 4.6))
        axes = figure.add_axes((0.09, 0.12, 0.64, 0.72))
        axes.set_xscale("log", base=2)
        ends, ticks = {}, sorted({at for line in lines.values() for at in line})
        for name, line in lines.items():
            at = sorted(line)
            speed = [float(line[n]["images_s"]) for n in at]
            value = (
                [1e3 / images * 1e6 / side**2 for side, images in zip(at, speed, strict=True)]
                if by_size
                else speed
            )
            ours = paper_result(name) is not None
            axes.plot(at, value, "-o" if ours else "--s", color=_color(name), markersize=4, linewidth=1.6,
                      markerfacecolor=_color(name) if ours else "w")  # fmt: skip
            ends[name] = (at[-1], value[-1])
        axes.xaxis.set_major_locator(FixedLocator(ticks))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_xlabel("side of the image, px" if by_size else "images per batch")
        axes.set_ylabel(
            "inference, ms per megapixel (median)" if by_size else "inference, images per second (median)"
        )
        head = "Cost of a pixel by resolution" if by_size else "Speed by batch size"
        fixed = f"batch {chosen[0]['batch']}" if by_size else f"{chosen[0]['resolution']} px"
        title(figure, head, subtitle(chosen, fixed))
        label_ends(axes, ends, {name: _color(name) for name in ends})
    return figure


def _color(name: str) -> str:
    return COLORS.get(name, INK if paper_result(name) is not None else FAINT)


def _is_short(source: str) -> bool:
    return "default training" in source or "130 epochs" in source


def _sizes(rows: Mapping[str, Mapping[str, str]]) -> str:
    return " and ".join(f"{size} px" for size in sorted({row["resolution"] for row in rows.values()}))
