"""A report as one HTML page that needs nothing else: no script, no font, no other file."""

from importlib.resources import files
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined, Template
from markupsafe import Markup

from ctxvision.evaluation.report import Report
from ctxvision.foreign import visible
from ctxvision.plots.figures import curve
from ctxvision.tasks.means import over_classes

_MATRIX = 25  # more classes make a table of mistakes by kind instead
_ROWS = 30  # of such tables
_BARS = 10  # classes of a funnel's stage


def render(report: Report) -> str:
    """Return the page."""
    numbers, pictures = report.numbers, report.pictures.by_place()
    return page_template("report.html.j2").render(
        r=numbers,
        pictures=pictures,
        pixelated=report.pixelated,
        curves=_curves(numbers["training"]) if numbers["training"] else [],
        matrix=_matrix(numbers) if len(numbers["class_names"]) <= _MATRIX else None,
        rows=_ROWS,
        classes=_weakest(numbers["classes"]),
        what={"val": "held-out images", "train": "training images", "all": "images"}[numbers["split"]],
        worst=[m for m in numbers["mistakes"] if m["position"] in pictures][:12],
        bars=_bars,
        largest=_largest,
        wbr=Markup("<wbr>"),
    )


def page_template(name: str) -> Template:
    """Open a template of this folder; it escapes what is put in, and has filters that write numbers for people."""
    environment = Environment(
        autoescape=True,
        finalize=_finalized,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        loader=FunctionLoader(lambda name: files(__package__).joinpath(name).read_text("utf-8")),
    )
    environment.filters |= {"percent": _percent, "duration": _duration, "count": "{:,}".format, "score": _score}
    environment.globals["over_classes"] = over_classes
    return environment.get_template(name)


def _finalized(value: object) -> object:
    """Show names of others as `visible` does; what is a piece of a page already keeps its lines."""
    if isinstance(value, Markup):
        return Markup(visible(value, lines=True))
    return visible(value) if isinstance(value, str) else value


def _percent(share: float | None, digits: int = 1) -> str:
    if share is None:
        return "–"
    text = f"{100 * share:.{digits}f}"
    if float(text) in (0, 100) and share not in (0, 1):  # never round to certainty
        text = f"{'<' if share < 0.5 else '>'}\u2009{10**-digits if share < 0.5 else 100 - 10**-digits:.{digits}f}"
    return f"{text}\u202f%"


def _score(score: float) -> str:
    return f"{round(score, 2) + 0.0:.2f}".replace("-", "−")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return f"{minutes // 60}\u202fh {minutes % 60}\u202fmin"
    return f"{minutes}\u202fmin {rest}\u202fs" if minutes else f"{rest}\u202fs"


def _curves(training: dict[str, Any]) -> list[tuple[str, Markup]]:
    """Draw the curves; the label is a sentence for readers who do not see them."""
    rows = training["curve"]
    top1, losses = [r["val_top1"] for r in rows], [r["val_loss"] for r in rows]
    accuracy = f"Validation accuracy over {len(rows)} epochs"
    if training["best_epoch"]:
        accuracy += f", best {_percent(training['best_top1'])} in epoch {training['best_epoch']}"
    loss = f"Training and validation loss over {len(rows)} epochs"
    if losses[0] is not None and losses[-1] is not None:
        loss += f"; validation from {losses[0]:.3f} to {losses[-1]:.3f}"
    drawings = [
        ("Validation accuracy", curve({"validation": top1}, accuracy, "accuracy", percent=True)),
        ("Loss", curve({"validation": losses, "training": [r["train_loss"] for r in rows]}, loss, "loss")),
    ]
    stages = sorted({stage for r in rows for stage in r["recalls"]})
    if stages:
        recalls = {f"stage {stage}": [r["recalls"].get(stage) for r in rows] for stage in stages}
        recall = f"Share of true classes in the class set of each stage over {len(rows)} epochs"
        drawings.append(("Recall of the class sets", curve(recalls, recall, "recall", percent=True)))
    temperatures = [r["temperature"] for r in rows]
    if any(t is not None for t in temperatures):
        label = f"Temperature over {len(rows)} epochs"
        drawings.append(("Temperature τ", curve({"τ": temperatures}, label, "temperature")))
    # nothing but numbers and our own words is in them
    return [(title, Markup(svg)) for title, svg in drawings]


def _matrix(numbers: dict[str, Any]) -> list[list[int]]:
    place = {name: index for index, name in enumerate(numbers["class_names"])}
    cells = [[0] * len(place) for _ in place]
    for index, row in enumerate(numbers["classes"]):
        cells[index][index] = row["right"]
    for pair in numbers["confused"]:
        cells[place[pair["truth"]]][place[pair["prediction"]]] = pair["images"]
    return cells


def _weakest(classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return all classes in their order, or of many the least accurate."""
    if len(classes) <= _ROWS:
        return classes
    return sorted((c for c in classes if c["images"]), key=lambda c: c["top1"])[:_ROWS]


def _bars(stage: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the best classes of a stage and, wherever it stands, the true one, with their ranks."""
    ranked = [entry | {"rank": rank} for rank, entry in enumerate(stage["classes"], 1)]
    return [entry for entry in ranked if entry["rank"] <= _BARS or entry["true"]]


def _largest(funnel: dict[str, Any]) -> float:
    return max(abs(entry["score"]) for stage in funnel["stages"] for entry in stage["classes"]) or 1.0
