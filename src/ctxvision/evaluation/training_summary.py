"""The summary of a training, for the numbers of an evaluation."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from ctxvision.runs import Run


def training_summary(run: Run, metric: str, settings: Sequence[str]) -> dict[str, Any] | None:
    """Return a summary of a training for readers; ``None`` if nothing of the training is left.

    Args:
        run: The run of the training.
        metric: The validation metric by which the best checkpoint was chosen, such as ``"top1"``.
        settings: The names of the settings to list; settings that are off or 0 are left out.
    """
    if not run.epochs:
        return None
    value = f"val_{metric}"
    pairs = zip(run.epochs, run.rows, strict=True)
    curve: list[dict[str, Any]] = [asdict(epoch) | {value: row.get(value)} for epoch, row in pairs]
    measured = [row for row in curve if row[value] is not None]
    best = max(measured, key=lambda row: float(row[value]), default=None)
    seconds = [epoch.seconds for epoch in run.epochs if epoch.seconds is not None]
    return {
        "data": run.settings.get("data"),
        "epochs": run.epochs[-1].epoch,
        "planned_epochs": run.settings.get("epochs"),
        "seconds": sum(seconds) if seconds else None,
        "best_epoch": best["epoch"] if best else None,
        f"best_{metric}": best[value] if best else None,
        "is_best": run.checkpoint.name == "best.ckpt",
        "settings": {name: run.settings[name] for name in settings if run.settings.get(name)},
        "curve": curve,
    }
