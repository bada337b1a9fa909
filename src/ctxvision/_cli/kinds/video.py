"""Video: accuracy over clips and crops, classes of videos, clips with the answers written on them."""

from argparse import Namespace
from functools import partial
from typing import TYPE_CHECKING

from ctxvision._cli.errors import UserError
from ctxvision._cli.messages import note
from ctxvision._cli.workers import workers_for
from ctxvision.data.files import Listing
from ctxvision.data.video.clips import ClipSpec
from ctxvision.data.video.data import VideoData
from ctxvision.data.video.source import list_video_files
from ctxvision.evaluation.video import TrainedVideo, make_clips_report, render_clips
from ctxvision.explain import read_run
from ctxvision.tasks import load_task
from ctxvision.wording import plural

from . import Scored

if TYPE_CHECKING:
    from ctxvision.explain import Run
    from ctxvision.tasks.video import VideoTask


def score(task: "VideoTask", run: "Run", data: str, split: str | None, images: int, args: Namespace) -> Scored:
    """Count right videos, beside a control where one is given; see `make_clips_report`."""
    embedded = data.startswith("moving-digits")
    opened = VideoData(
        data,
        batch_size=args.batch_size or 16,
        workers=(0 if embedded else workers_for(None, 1)) if args.workers is None else args.workers,
        strict=args.strict,
        spec=ClipSpec.from_dict(task.data_spec),
        test_clips=args.clips,
        test_crops=args.crops,
        eval_split=split or "val",
    )
    for line in opened.notes:
        note(line)
    trained = [TrainedVideo(_name(task), run, task)]
    if getattr(args, "against", None):
        trained.append(_control(args.against, task, args.trust))
    report = make_clips_report(trained, opened, data)
    numbers = report.numbers
    lines = []
    for network in numbers["networks"]:
        low, high = (f"{value:.2%}" for value in network["top1_interval95"])
        counted = f"top-1 {network['top1']:.2%} of {plural(numbers['videos'], 'video')}"
        limits = f"95% interval {low} to {high}, chance {numbers['chance']:.2%}"
        lines.insert(0, f"{network['name']}: {counted}, {limits} ({split or 'val'} of {data})")
    return Scored(numbers, partial(render_clips, report), lines, numbers["unread"])


def _name(task: "VideoTask") -> str:
    return "TSN" if task.shifts.shift == "none" else "TSM"


def _control(path: str, task: "VideoTask", trust: bool) -> TrainedVideo:
    run = read_run(path)
    other = load_task(run.checkpoint, trust=trust)
    if other.kind != "video" or other.data_spec["class_names"] != task.data_spec["class_names"]:
        raise UserError(f"{path}: a run to compare with must be of videos of the same classes")
    return TrainedVideo(_name(other), run, other.to(task.device))


def list_files(folder: str) -> Listing:
    """List the videos below a folder, and count what else is there."""
    return list_video_files(folder)
