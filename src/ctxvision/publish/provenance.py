"""Where a checkpoint comes from, and how good it was found to be: from the files of its run, never guessed."""

import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ctxvision.files import reason
from ctxvision.models._weights import WEIGHTS
from ctxvision.runs import RunFolder
from ctxvision.tasks import ClassificationTask
from ctxvision.tasks.checkpoint_file import read_progress
from ctxvision.tasks.classification.task import is_pretrained_name


class PublishError(ValueError):
    """A network cannot be published; the message is one line with the reason and the way out."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


# of the author's machine, or of no consequence for the result
_PRIVATE = {
    "accelerator", "callbacks", "data", "device", "devices", "init_from", "logger", "nodes", "out", "pictures",
    "prefetch", "recipe", "resume", "save_minutes", "save_top_k", "strategy", "strict", "workers",
}  # fmt: skip


@dataclass(frozen=True)
class Score:
    """One measured figure.

    Attributes:
        metric: Name of the metric, ``"top-1 accuracy"`` or ``"top-5 accuracy"``.
        value: Score between 0 and 1.
        split: Part of the data set that was scored, such as ``"val"``.
        measured_by: Command that measured the score, for readers.
        images: Number of images that were scored; ``None`` where that was not noted.
        interval: Confidence interval of 95 %, where it was computed.
        data: Name of the data set that was scored; ``None`` means the data set of the training.
    """

    metric: str
    value: float
    split: str
    measured_by: str
    images: int | None = None
    interval: tuple[float, float] | None = None
    data: str | None = None


@dataclass(frozen=True)
class Provenance:
    """What the run folder of a checkpoint says about it.

    Attributes:
        settings: Settings of the training that another person could repeat; without paths and what belongs to a
            machine.
        data: Name of the data set, without its folder; ``None`` where no settings were found.
        data_id: Name of the data set on the hub, where it comes from there.
        recipe: Name of the recipe, where one was used.
        start: Pretrained weights that the training began with, if any.
        epoch: Epoch after which the checkpoint was saved, counted from 1; 0 is before the first step.
        scores: Validation scores after that epoch.
        converted: Sentence that says which file of which project the weights were converted from, where they were
            not trained here.
        license: Identifier of the license that the project states for them.
    """

    settings: Mapping[str, Any] = field(default_factory=dict)
    data: str | None = None
    data_id: str | None = None
    recipe: str | None = None
    start: str | None = None
    epoch: int | None = None
    scores: tuple[Score, ...] = ()
    converted: str | None = None
    license: str | None = None


def read_provenance(checkpoint: str | os.PathLike[str]) -> Provenance:
    """Read the settings and metrics that lie beside a checkpoint, in the folder of its run.

    Paths keep their last part only: they are the author's, not the readers'.

    Args:
        checkpoint: Path of a ``.ckpt`` file, of which one that was taken out of its run folder has no provenance;
            or name of a network with pretrained weights.

    Raises:
        CheckpointError: The checkpoint is damaged. What is damaged beside it is left out, with a warning.
    """
    if is_pretrained_name(os.fspath(checkpoint)):
        return _of_pretrained(os.fspath(checkpoint))
    run = RunFolder.around(checkpoint)
    settings = run.read_settings()
    epoch, step = read_progress(checkpoint)
    name, hub_id = _data_name(str(settings["data"])) if settings.get("data") else (None, None)
    return Provenance(
        settings={key: value for key, value in settings.items() if key not in _PRIVATE and value is not None},
        data=name,
        data_id=hub_id,
        recipe=_last_part(settings.get("recipe")),
        start=_last_part(settings.get("init_from")),
        epoch=epoch,
        scores=_validation(run, epoch, step),
    )


def _of_pretrained(name: str) -> Provenance:
    architecture = name.partition(".")[0]
    found = WEIGHTS.get(architecture)
    if found is None:
        return Provenance(data="ImageNet", converted=f"The weights are timm's pretrained weights {name}.")
    return Provenance(
        data="ImageNet",
        converted=f"The authors trained the weights; they were converted from the file {found.url} of "
        f"{found.project}, which states {found.top1} % top-1 accuracy. That was not measured here.",
        license=found.license.lower(),
    )


def read_scores(path: str | os.PathLike[str], task: ClassificationTask, checkpoint: str) -> tuple[Score, ...]:
    """Read what ``ctxvision evaluate --json`` has written about a checkpoint.

    Args:
        path: Path of the JSON file.
        task: Task of the checkpoint.
        checkpoint: Path of the checkpoint, for comparison.

    Raises:
        PublishError: The file is something else, or about another network.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        images, data = int(found["images"]), str(found["data"])
        values = {"top1": _share(found["top1"])}
        if found["top5"] is not None:
            values["top5"] = _share(found["top5"])
        intervals = {
            name: (_share(low), _share(high)) for name in values for low, high in [found[f"{name}_interval95"]]
        }
        about = (found["model"], found["parameters"], [row["name"] for row in found["classes"]])
        measured, split = Path(found["checkpoint"]), {"val": "validation"}.get(found["split"], found["split"])
    except OSError as error:
        raise PublishError(f"{path}: cannot be read ({reason(error)})") from error
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise PublishError(f"{path}: not a JSON file of `ctxvision evaluate` for a classifier") from error
    own = (task.model_name, _parameters(task), list(task.class_names))
    if about != own or (measured.exists() and not measured.samefile(checkpoint)):
        raise PublishError(f"{path}: is about {measured}, not about {checkpoint}; evaluate this one")
    name, _ = _data_name(data)
    return tuple(
        Score(
            f"{key[:3]}-{key[3]} accuracy", value, str(split), "ctxvision evaluate", images, intervals[key], name
        )
        for key, value in values.items()
    )


def _validation(run: RunFolder, epoch: int | None, step: int | None) -> tuple[Score, ...]:
    """Find the row that was written when the checkpoint was: a later one is about other weights."""
    if epoch is None or step is None or not run.metrics_file.exists():
        return ()
    rows = [row for row in run.read_metrics() if (row["epoch"], row.get("step")) == (epoch, step)]
    columns = {"val_top1": "top-1 accuracy", "val_top5": "top-5 accuracy"}
    values = {name: rows[-1].get(column) for column, name in columns.items() if rows}
    return tuple(
        Score(name, value, "validation", f"ctxvision train, epoch {epoch}")
        for name, value in values.items()
        if value is not None and 0 <= value <= 1
    )


def _data_name(data: str) -> tuple[str, str | None]:
    """Return the name of a data set, and its name on the hub if it has one."""
    if data.startswith("hf:") and not Path(data[3:].partition("?")[0]).exists():
        hub_id = data[3:].partition("?")[0].partition(":")[0]
        return hub_id, hub_id
    return _last_part(data) or data, None


def _last_part(path: object) -> str | None:
    return Path(str(path)).name or str(path) if path else None


def _share(value: Any) -> float:
    share = float(value)
    if not 0 <= share <= 1 or math.isnan(share):
        raise ValueError(f"{value} is not between 0 and 1")
    return share


def _parameters(task: ClassificationTask) -> int:
    return sum(parameter.numel() for parameter in task.model.parameters())
