"""The page about a training run: its curves, the scores of the network, and the classes that it considered."""

import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from ctxvision.data import DataModule
from ctxvision.evaluation import EvaluationError, Scores, evaluate
from ctxvision.evaluation.classification import ClassificationScores
from ctxvision.evaluation.video import VideoScores, beside, watch_videos
from ctxvision.files import write_whole
from ctxvision.foreign import finite_values, json_text
from ctxvision.inference import Predictor, open_predictor
from ctxvision.inference.video import VideoPredictor
from ctxvision.runs import Run, read_run
from ctxvision.tasks.registry import module_of

from . import classification
from .classification import render_run, run_numbers

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Report:
    """The contents of a report on a training run.

    Attributes:
        numbers: The plain Python values that the JSON file beside the page holds.
        scores: The findings of the evaluation.
        render: A function that returns the HTML page.
    """

    numbers: dict[str, Any]
    scores: Scores
    render: Callable[[], str]

    def write_numbers(self, path: str | os.PathLike[str]) -> None:
        """Write the numbers as JSON; raises `WriteError` if the file cannot be written."""
        write_whole(path, json_text(finite_values(self.numbers), indent=1) + "\n")

    def write_page(self, path: str | os.PathLike[str]) -> None:
        """Draw the page and write it; raises `WriteError` if the file cannot be written."""
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
    """Evaluate the best network of a run, and collect the contents of a report on it.

    Args:
        run_folder: The path of a run folder, or of a checkpoint, which need not be in one.
        data: A DATA argument, or a data module of this library; by default the data that the run was trained on.
        predictor: The network of the run, if it is open already.
        against: The path of another run to show beside this one, for video networks only.
        images: The number of samples to show, spread over the data.
        device: The device that computes, such as ``"cpu"`` or ``"cuda"``.
        trust: Whether the checkpoint is trusted; see `ctxvision.inference.open_predictor`.
        options: Further arguments of `ctxvision.evaluation.evaluate`, such as ``batch_size``.

    Returns:
        The report, which can write its page and its numbers.

    Raises:
        RunError: There is no such run, or nothing to evaluate.
        CheckpointError: The checkpoint cannot be used.
        DataError: The data cannot be used, or have classes that the network does not have.
    """
    run = read_run(run_folder)
    data = data or run.settings.get("data")
    if not data:
        raise EvaluationError(f"{run_folder}: does not say what it was trained on; name the DATA")
    predictor = predictor or open_predictor(run.checkpoint, device, trust=trust)
    if against and predictor.task != "video":
        raise EvaluationError("--against compares runs of videos; leave it out, and see `ctxvision compare`")
    if predictor.task == "classification":
        scores = evaluate(predictor, data, examples=0, spread=images, run=run, **options)
        classified = cast(ClassificationScores, scores)
        numbers = run_numbers(predictor, classified, run)
        return Report(
            numbers, scores, lambda: render_run(classified, numbers, classification.looks(predictor, classified))
        )
    scores = evaluate(predictor, data, examples=images, run=run, **options)
    if against:
        control = open_predictor(read_run(against).checkpoint, device, trust=trust)
        scores = _beside(cast(VideoScores, scores), control, read_run(against), against, data, options)
    page = module_of("pages", scores.task)
    return Report(scores.numbers, scores, lambda: page.render(scores, page.looks(predictor, scores)))


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
        run_folder: The path of a run folder, or of a checkpoint, which need not be in one.
        out: The path of the page, which ends with ``.html``.
        data: A DATA argument, or a data module of this library; by default the data that the run was trained on.
        required: Whether a failure raises an error; if not, it causes a warning, so that a successful training is
            not lost because of its report.
        options: Further arguments of `make_report`.

    Returns:
        The report; ``None`` if it could not be made or written.

    Raises:
        RunError: There is no such run, or nothing to evaluate.
        WriteError: A file cannot be written.

    Examples:
        ::

            write_report("runs/first", "report.html")
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
