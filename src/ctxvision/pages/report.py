"""The page about a training run: its curves, how good the network is, and what it considered on the way."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from markupsafe import Markup

from ctxvision.data import DataModule
from ctxvision.evaluation import EvaluationError, Scores, confused_pairs, evaluate
from ctxvision.evaluation.classification import ClassificationScores
from ctxvision.evaluation.video import VideoScores, beside, watch_videos
from ctxvision.explain.funnel import Funnel, class_funnel
from ctxvision.files import write_whole
from ctxvision.foreign import finite_values, json_text
from ctxvision.inference import Predictor, open_predictor
from ctxvision.inference.video import VideoPredictor
from ctxvision.plots.curves import curve
from ctxvision.runs import Run, read_run
from ctxvision.tasks import ClassificationTask
from ctxvision.tasks.classification.class_sets import is_contextual
from ctxvision.tasks.registry import module_of
from ctxvision.wording import percent

from .classification import page_values
from .template import page_template

_log = logging.getLogger(__name__)
_SETTINGS = (
    "batch_size", "lr", "optimizer", "weight_decay", "warmup_epochs", "label_smoothing", "drop_path_rate",
    "mixup", "cutmix", "ema", "auto_augment", "color_jitter", "random_erasing", "seed", "precision",
)  # fmt: skip
_WORST, _FUNNELS = 12, 6
_BARS = 10  # classes of a funnel's stage


@dataclass(frozen=True)
class Report:
    """All that a report says.

    Attributes:
        numbers: Plain Python values, what the JSON file beside the page holds.
        scores: What the evaluation found.
        render: Returns the page.
    """

    numbers: dict[str, Any]
    scores: Scores
    render: Callable[[], str]

    def write_numbers(self, path: str | os.PathLike[str]) -> None:
        """Write the numbers as JSON; raises `WriteError` where that cannot be done."""
        write_whole(path, json_text(finite_values(self.numbers), indent=1) + "\n")

    def write_page(self, path: str | os.PathLike[str]) -> None:
        """Draw the page and write it; raises `WriteError` where that cannot be done."""
        write_whole(path, self.render())


def render_scores(scores: Scores) -> str:
    """Return the scores of a network as an HTML page that needs no script, no font and no other file."""
    page: str = module_of("pages", scores.task).render(scores)
    return page


def make_report(
    run_folder: str | os.PathLike[str],
    data: str | os.PathLike[str] | DataModule | None = None,
    *,
    predictor: Predictor | None = None,
    against: str | os.PathLike[str] | None = None,
    images: int = 24,
    device: str = "cpu",
    trust: bool = False,
    **options: Any,
) -> Report:
    """Evaluate the best network of a run, and put together what a reader should know about it.

    Args:
        run_folder: The path of a run folder, or of a checkpoint, which need not lie in one.
        data: A DATA argument, or a data module of this library; by default what the run was trained on.
        predictor: The network of the run, if it is open already.
        against: Of videos: the path of another run to show beside this one.
        images: How many samples to show, spread over the data.
        device: The device that computes.
        trust: See `ctxvision.inference.open_predictor`.
        options: Further arguments of `ctxvision.evaluation.evaluate`, such as ``batch_size``.

    Raises:
        RunError: There is no such run, or nothing to evaluate.
        CheckpointError: The checkpoint cannot be used.
        DataError: The data cannot be used, or have classes that the network lacks.
    """
    run = read_run(run_folder)
    data = data or run.settings.get("data")
    if not data:
        raise EvaluationError(f"{run_folder}: does not say what it was trained on; name the DATA")
    predictor = predictor or open_predictor(run.checkpoint, device, trust=trust)
    if against and predictor.task != "video":
        raise EvaluationError("--against compares runs of videos; leave it out")
    if predictor.task == "classification":
        scores = evaluate(predictor, data, examples=0, spread=images, run=run, **options)
        return _classification_report(predictor, cast(ClassificationScores, scores), run)
    scores = evaluate(predictor, data, examples=images, run=run, **options)
    if against:
        control = open_predictor(read_run(against).checkpoint, device, trust=trust)
        scores = _beside(cast(VideoScores, scores), control, read_run(against), against, data, options)
    return Report(scores.numbers, scores, partial(render_scores, scores))


def write_report(
    run_folder: str | os.PathLike[str],
    out: str | os.PathLike[str],
    data: str | os.PathLike[str] | DataModule | None = None,
    *,
    required: bool = True,
    **options: Any,
) -> Report | None:
    """Write the report on a run: a page, and its numbers beside it as JSON.

    Args:
        run_folder: The path of a run folder, or of a checkpoint, which need not lie in one.
        out: The path of the page, which ends with ``.html``.
        data: A DATA argument, or a data module of this library; by default what the run was trained on.
        required: Whether what goes wrong raises an error. If not, it is a warning: a training that has succeeded
            is not lost for its report.
        options: Further arguments of `make_report`.

    Returns:
        The report; ``None`` if it could not be made, or not be written.

    Raises:
        RunError: There is no such run, or nothing to evaluate.
        WriteError: A file cannot be written.

    Examples:
        >>> write_report("runs/first", "report.html")  # doctest: +SKIP
    """
    try:
        report = make_report(run_folder, data, **options)
        report.write_numbers(Path(out).with_suffix(".json"))
        report.write_page(out)
    except (Exception, KeyboardInterrupt) as error:
        if required:
            raise
        reason = "interrupted" if isinstance(error, KeyboardInterrupt) else " ".join(str(error).split())
        _log.warning("%s could not be made: %s; `ctxvision report` makes it later", out, reason)
        return None
    return report


def _classification_report(predictor: Predictor, scores: ClassificationScores, run: Run) -> Report:
    answers, spec, task = scores.answers, predictor.data_spec, predictor.module
    contextual = isinstance(task, ClassificationTask) and is_contextual(task.model)
    confusion = np.array(scores.numbers["confusion"])
    extra = {
        "contextual": contextual,
        "image_size": list(spec.input_size),  # type: ignore[union-attr]
        "class_names": list(scores.class_names),
        "training": _training(run),
        "confused": confused_pairs(confusion, scores.class_names),
        "predictions": [scores.describe(p) | {"top": scores.top(p)} for p in scores.spread],
        "mistakes": [scores.describe(p) | {"top": scores.top(p)} for p in answers.mistakes()],
    }
    numbers = {name: value for name, value in scores.numbers.items() if name != "worst"} | extra
    if contextual:
        assert isinstance(task, ClassificationTask)
        numbers["funnel"] = numbers["funnel"] | {"images": _funnel_images(task, scores)}
    return Report(numbers, scores, partial(render_report, scores, numbers))


def render_report(scores: ClassificationScores, numbers: Mapping[str, Any]) -> str:
    """Return the page about a classifier's run: its scores with the numbers of a `Report`."""
    training = numbers["training"]
    values = page_values(scores, numbers) | {
        "drawings": _curves(training) if training else [],
        "best_of": training["epochs"] if training and training["is_best"] else None,
        "worst": [entry for entry in numbers["mistakes"] if entry["position"] in scores.pictures][:_WORST],
        "bars": _bars,
        "largest": _largest,
    }
    return page_template("report.html.j2").render(values)


def _beside(
    scores: VideoScores,
    control: Predictor,
    run: Run,
    name: str | os.PathLike[str],
    data: str | os.PathLike[str] | DataModule,
    options: Mapping[str, Any],
) -> VideoScores:
    if not isinstance(control, VideoPredictor) or list(control.class_names) != scores.numbers["class_names"]:
        raise EvaluationError(f"{name}: a run to compare with must be of videos of the same classes")
    found = cast(VideoScores, evaluate(control, data, examples=0, run=run, **options))
    clips = watch_videos(control, scores.data, [example.file for example in scores.examples])
    return beside(scores, found, clips)


def _training(run: Run) -> dict[str, Any] | None:
    if not run.epochs:
        return None
    measured = [epoch for epoch in run.epochs if epoch.val_top1 is not None]
    best = max(measured, key=lambda epoch: epoch.val_top1 or 0.0, default=None)
    seconds = [epoch.seconds for epoch in run.epochs if epoch.seconds is not None]
    return {
        "data": run.settings.get("data"),
        "epochs": run.epochs[-1].epoch,
        "planned_epochs": run.settings.get("epochs"),
        "seconds": sum(seconds) if seconds else None,
        "best_epoch": best.epoch if best else None,
        "best_top1": best.val_top1 if best else None,
        "is_best": run.checkpoint.name == "best.ckpt",
        "settings": {name: run.settings[name] for name in _SETTINGS if run.settings.get(name)},
        "curve": [asdict(epoch) for epoch in run.epochs],
    }


def _curves(training: Mapping[str, Any]) -> list[tuple[str, Markup]]:
    """Draw the curves; the label is a sentence for readers who do not see them."""
    rows = training["curve"]
    top1, losses = [r["val_top1"] for r in rows], [r["val_loss"] for r in rows]
    accuracy = f"Validation accuracy over {len(rows)} epochs"
    if training["best_epoch"]:
        accuracy += f", best {percent(training['best_top1'])} in epoch {training['best_epoch']}"
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


def _funnel_images(task: ClassificationTask, scores: ClassificationScores) -> list[dict[str, Any]]:
    positions = _instructive(scores)
    if not positions:
        return []
    images = torch.stack([scores.pictures[p] for p in positions])
    images = images.to(task.device, memory_format=task.memory_format)
    funnels = class_funnel(task.model, images, scores.answers.targets[positions].tolist())
    return [_named(p, funnel, scores.class_names) for p, funnel in zip(positions, funnels, strict=True)]


def _instructive(scores: ClassificationScores) -> list[int]:
    """Choose the worst mistakes, then right answers, each of another class as far as possible."""
    answers = scores.answers
    mistakes = [p for p in answers.mistakes()[: _FUNNELS // 2] if p in scores.pictures]
    by_class: dict[int, list[int]] = {}
    for position in sorted(scores.pictures):
        if answers.correct[position]:
            by_class.setdefault(int(answers.targets[position]), []).append(position)
    turns = sorted((turn, p) for queue in by_class.values() for turn, p in enumerate(queue))
    return mistakes + [p for _, p in turns][: _FUNNELS - len(mistakes)]


def _named(position: int, funnel: Funnel, names: tuple[str, ...]) -> dict[str, Any]:
    return {
        "position": position,
        "truth": names[funnel.target],
        "prediction": names[funnel.prediction],
        "right": funnel.target == funnel.prediction,
        "stages": [
            {
                "name": stage.name,
                "true_rank": stage.true_rank,
                "classes": [
                    {"class": names[c], "score": score, "kept": kept, "true": c == funnel.target}
                    for c, score, kept in zip(stage.classes, stage.scores, stage.kept, strict=True)
                ],
            }
            for stage in funnel.stages
        ],
    }


def _bars(stage: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the best classes of a stage and, wherever it stands, the true one, with their ranks."""
    ranked = [entry | {"rank": rank} for rank, entry in enumerate(stage["classes"], 1)]
    return [entry for entry in ranked if entry["rank"] <= _BARS or entry["true"]]


def _largest(funnel: Mapping[str, Any]) -> float:
    return max(abs(entry["score"]) for stage in funnel["stages"] for entry in stage["classes"]) or 1.0
