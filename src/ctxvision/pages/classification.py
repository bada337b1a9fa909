"""The pages about a classifier: its scores, and its run with curves and the classes that each stage kept."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ctxvision.evaluation import confused_pairs
from ctxvision.evaluation.classification import ClassificationScores
from ctxvision.evaluation.scores import training_summary
from ctxvision.explain import LayerError, grad_cam
from ctxvision.explain.classes import Funnel, class_funnel
from ctxvision.inference import Predictor
from ctxvision.plots.pixels import confusion_picture, is_small, seen_pixels, thumbnail
from ctxvision.runs import Run
from ctxvision.tasks import ClassificationTask
from ctxvision.tasks.classification.class_sets import is_contextual
from ctxvision.wording import percent

from .looks import Look, heat_map, uri
from .template import LOSS, Drawing, data_words, drawn, page_template

_MATRIX = 25  # more classes make a picture and a list of mistakes instead of a table
_ROWS = 30  # of such lists


def render(scores: ClassificationScores) -> str:
    """Return the HTML page about the scores of a classifier."""
    return page_template("classification.html.j2").render(page_values(scores, scores.numbers))


def page_values(scores: ClassificationScores, numbers: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values for the template and for templates that extend it.

    Args:
        scores: The findings of the evaluation.
        numbers: The numbers of the scores, with further numbers in a report.
    """
    classes, mean, std = numbers["classes"], scores.mean, scores.std
    few = len(classes) <= _MATRIX
    confusion = np.array(numbers["confusion"])
    return {
        "r": numbers,
        "what": data_words(numbers["split"], "images"),
        "best_of": None,
        "pictures": {position: thumbnail(image, mean, std) for position, image in scores.pictures.items()},
        "pixelated": all(map(is_small, scores.pictures.values())),
        "cells": numbers["confusion"] if few else None,
        "confusion_image": None if few else confusion_picture(confusion),
        "pairs": numbers["confused"][:_ROWS],
        "kinds": int(np.count_nonzero(confusion) - np.count_nonzero(confusion.diagonal())),
        "weakest": _weakest(classes),
        "others": [row for row in classes if row["images"]] if len(classes) > _ROWS else [],
        "rate": _rate,
    }


def _weakest(classes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return all classes in their order; of many classes, those with the lowest accuracy."""
    if len(classes) <= _ROWS:
        return classes
    return sorted((c for c in classes if c["images"]), key=lambda c: float(c["top1"]))[:_ROWS]


def _rate(speed: Mapping[str, Any] | None) -> str:
    if speed is None:
        return "–"
    rate = speed["images_per_second"]
    return f"{rate:,.0f}" if rate >= 10 else f"{rate:.2g}"


_SETTINGS = (
    "batch_size", "lr", "optimizer", "weight_decay", "warmup_epochs", "label_smoothing", "drop_path_rate",
    "mixup", "cutmix", "ema", "auto_augment", "color_jitter", "random_erasing", "seed", "precision",
)  # fmt: skip
_WORST, _FUNNELS = 12, 6
_BARS = 10  # classes of a funnel's stage


def run_numbers(predictor: Predictor, scores: ClassificationScores, run: Run) -> dict[str, Any]:
    """Return the numbers of a classifier's report: its scores, its training, and answers to selected images."""
    answers, spec, task = scores.answers, predictor.data_spec, predictor.module
    contextual = isinstance(task, ClassificationTask) and is_contextual(task.model)
    confusion = np.array(scores.numbers["confusion"])
    extra = {
        "contextual": contextual,
        "image_size": list(spec.input_size),  # type: ignore[union-attr]
        "class_names": list(scores.class_names),
        "training": training_summary(run, "top1", _SETTINGS),
        "confused": confused_pairs(confusion, scores.class_names),
        "predictions": [scores.describe(p) | {"top": scores.top(p)} for p in scores.spread],
        "mistakes": [scores.describe(p) | {"top": scores.top(p)} for p in answers.mistakes()],
    }
    numbers = {name: value for name, value in scores.numbers.items() if name != "worst"} | extra
    if contextual:
        assert isinstance(task, ClassificationTask)
        numbers["funnel"] = numbers["funnel"] | {"images": _funnel_images(task, scores)}
    return numbers


def looks(predictor: Predictor, scores: ClassificationScores) -> list[Look]:
    """Explain the answers to the worst mistakes and to right ones; of mistakes also the true class."""
    task, names, found = predictor.module, scores.class_names, []
    if not isinstance(task, ClassificationTask):
        return []
    for position in _instructive(scores):
        entry, view = scores.describe(position), scores.pictures[position]
        pixels = seen_pixels(view, scores.mean, scores.std)
        asked = {entry["prediction"]: entry["probability"], entry["truth"]: entry["true_probability"]}
        batch = torch.stack([view] * len(asked)).to(task.device, memory_format=task.memory_format)
        try:
            cams = grad_cam(task.model, batch, [names.index(name) for name in asked])
        except LayerError:  # a network without maps
            return []
        heats = [
            heat_map(pixels, cam.map, f"for “{name}”, {percent(chance)}")
            for cam, (name, chance) in zip(cams, asked.items(), strict=True)
        ]
        found.append(Look(uri(pixels), f"it is “{entry['truth']}”", heats, entry["right"]))
    return found


def render_run(scores: ClassificationScores, numbers: Mapping[str, Any], looks: Sequence[Look] = ()) -> str:
    """Return the HTML page about a classifier's run: its scores with the numbers of a `Report`, and heat maps."""
    training = numbers["training"]
    values = page_values(scores, numbers) | {
        "drawings": _curves(training) if training else [],
        "best_of": training["epochs"] if training and training["is_best"] else None,
        "worst": [entry for entry in numbers["mistakes"] if entry["position"] in scores.pictures][:_WORST],
        "bars": _bars,
        "looks": looks,
        "largest": _largest,
    }
    return page_template("report.html.j2").render(values)


_ACCURACY = (
    "The share of held-out images that are answered right, after each epoch. Higher is better; a flat end "
    "means that more epochs would bring little."
)
_RECALL = (
    "The share of held-out images whose true class is still among those that a stage considers. At 100 % a "
    "stage has lost nothing; the last stage’s curve bounds the accuracy, and curves that are equal are drawn once."
)
_TEMPERATURE = (
    "The number by which similarities are divided before they become probabilities; it is learned. A small one "
    "makes the answers decided, a large one undecided."
)


def _curves(training: Mapping[str, Any]) -> list[Drawing]:
    rows = training["curve"]
    top1, losses = [r["val_top1"] for r in rows], [r["val_loss"] for r in rows]
    accuracy = f"Validation accuracy over {len(rows)} epochs"
    if training["best_epoch"]:
        accuracy += f", best {percent(training['best_top1'])} in epoch {training['best_epoch']}"
    loss = f"Training and validation loss over {len(rows)} epochs"
    if losses[0] is not None and losses[-1] is not None:
        loss += f"; validation from {losses[0]:.3f} to {losses[-1]:.3f}"
    both = {"validation": losses, "training": [r["train_loss"] for r in rows]}
    drawings = [
        drawn("Validation accuracy", {"validation": top1}, accuracy, "accuracy", _ACCURACY, percent=True),
        drawn("Loss", both, loss, "loss", LOSS),
    ]
    stages = sorted({stage for r in rows for stage in r["recalls"]})
    if stages:
        recalls = {f"stage {stage}": [r["recalls"].get(stage) for r in rows] for stage in stages}
        recall = f"Share of true classes in the class set of each stage over {len(rows)} epochs"
        drawings.append(drawn("Recall of the class sets", recalls, recall, "recall", _RECALL, percent=True))
    temperatures = [r["temperature"] for r in rows]
    if any(t is not None for t in temperatures):
        label = f"Temperature over {len(rows)} epochs"
        drawings.append(drawn("Temperature τ", {"τ": temperatures}, label, "temperature", _TEMPERATURE))
    return drawings


def _funnel_images(task: ClassificationTask, scores: ClassificationScores) -> list[dict[str, Any]]:
    positions = _instructive(scores)
    if not positions:
        return []
    images = torch.stack([scores.pictures[p] for p in positions])
    images = images.to(task.device, memory_format=task.memory_format)
    funnels = class_funnel(task.model, images, scores.answers.targets[positions].tolist())
    return [_named(p, funnel, scores.class_names) for p, funnel in zip(positions, funnels, strict=True)]


def _instructive(scores: ClassificationScores) -> list[int]:
    """Choose the worst mistakes, then right answers, from as many different classes as possible."""
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
    """Return the best classes of a stage and the true class, wherever it ranks, with their ranks."""
    ranked = [entry | {"rank": rank} for rank, entry in enumerate(stage["classes"], 1)]
    return [entry for entry in ranked if entry["rank"] <= _BARS or entry["true"]]


def _largest(funnel: Mapping[str, Any]) -> float:
    return max(abs(entry["score"]) for stage in funnel["stages"] for entry in stage["classes"]) or 1.0
