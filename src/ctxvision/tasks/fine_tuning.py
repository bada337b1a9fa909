"""Start a task from what another training of the same task has left: the classes may be others."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from ctxvision.checkpoints import WarmStartReport
from ctxvision.checkpoints.reading import read_contents
from ctxvision.checkpoints.sources import Source, classifiers_of, names_a_network
from ctxvision.checkpoints.trained import ClassTensors, from_torchvision, load_trained
from ctxvision.models import ContextualNet

if TYPE_CHECKING:
    from .task import Task

# the tensors that belong to classes, by the names in a task's network
_OF_CLASSES = {
    # the stages of a cascade have one box for all classes
    "detection": r"box_predictor\.cls_score\.|roi_heads\.box_predictor\.bbox_pred\.|\.mask_fcn_logits\."
    r"|classification_head\.cls_logits\.",
    "segmentation": r"^decoder\.classifier\.|^auxiliary\.1\.",
}
# words for the parts of networks, the first that fits
_PARTS = (
    (r"box_predictor\.", "box predictor"),
    (r"mask_predictor\.", "mask predictor"),
    (r"box_head\.", "box head"),
    (r"mask_head\.", "mask head"),
    (r"(^|\.)fpn\.|\.pyramid\.", "FPN"),
    (r"^network\.rpn\.", "region proposals"),
    (r"classification_head\.cls_logits\.", "class logits"),
    (r"^network\.head\.", "dense heads"),
    (r"^decoder\.classifier\.|^(fc|head\.fc|head|classifier)\.(weight|bias)$", "classifier"),
    (r"^auxiliary\.1\.", "auxiliary classifier"),
    (r"^auxiliary\.", "auxiliary head"),
    (r"^decoder\.", "decoder"),
    (r"^context\.embedding\.", "class embeddings"),
    (r"backbone\.", "backbone"),
)


class Trained(NamedTuple):
    """What is known of weights to start from."""

    where: str
    """The name of the source."""
    tensors: Mapping[str, Tensor]
    class_names: tuple[str, ...] | None
    """The names of the classes that the network was trained for, in order; ``None`` if they are not known."""
    model_args: Mapping[str, object] = MappingProxyType({})
    """The arguments that its network was built with, as far as they are known."""


def read_trained(source: Source) -> Trained | None:
    """Read weights and what is known of them; ``None`` for networks, also those that are named and not in a file.

    Raises:
        CheckpointError: The file cannot be read, or there is neither a file nor a network of that name.
    """
    from .task import Task

    if isinstance(source, Task):
        return Trained(type(source).__name__, source.state_dict(), source.class_names, source.model_args)
    if isinstance(source, Mapping):
        return Trained("state dict", source, None)
    if not isinstance(source, str | os.PathLike) or (isinstance(source, str) and names_a_network(source)):
        return None
    contents = read_contents(Path(source))
    return Trained(os.fspath(source), contents.tensors, contents.class_names, contents.model_args)


def continue_from(task: "Task", trained: Trained, *, partial: bool = False) -> WarmStartReport | None:
    """Load a trained detector or segmentation network; ``None`` if the weights are not those of a whole one.

    For a detector that is a checkpoint of ours or the state dict of one of torchvision's detectors with FPN, for a
    segmentation network a checkpoint of ours.

    Raises:
        CheckpointError: The weights cannot be used; the network is unchanged.
    """
    if task.backbone is None:
        return None
    tensors = trained.tensors
    if all(name.startswith("model.") for name in tensors):
        tensors = {name.removeprefix("model."): value for name, value in tensors.items()}
    if task.kind == "detection":
        tensors = from_torchvision(tensors) or tensors
    backbone = next(name for name, module in task.model.named_modules() if module is task.backbone)
    beside = {name.split(".")[0] for name in task.model.state_dict() if not name.startswith(f"{backbone}.")}
    has_body = any(name.startswith(f"{backbone}.body.") for name in tensors)
    has_more = any(name.split(".")[0] in beside and not name.startswith(f"{backbone}.") for name in tensors)
    if not has_body or not has_more:
        return None
    same = trained.class_names in (None, task.class_names)
    classes = ClassTensors(re.compile(_OF_CLASSES[task.kind]), same)
    return load_trained(task.model, tensors, trained.where, backbone=backbone, classes=classes, partial=partial)


def for_other_classes(task: "Task", trained: Trained) -> Mapping[str, Tensor]:
    """Return the weights for a classifier without those of other classes.

    Shapes tell of another number of classes; as many classes of other names need to be known.
    """
    if trained.class_names in (None, task.class_names) or task.backbone is not None:
        return trained.tensors
    layers = [*classifiers_of(task.model), "context.embedding"]
    of_classes = tuple(f"{prefix}{layer}." for layer in layers for prefix in ("", "model."))
    return {name: value for name, value in trained.tensors.items() if not name.startswith(of_classes)}


def other_class_sets(task: "Task", trained: Trained) -> str:
    """Say in a line that a contextual network would narrow its classes otherwise than the one that was trained.

    Names and shapes of tensors do not tell. Empty if it would not, or if nothing is known.
    """
    context = next((net.context for net in task.model.modules() if isinstance(net, ContextualNet)), None)
    if context is None or not any(name.endswith("context.embedding.weight") for name in trained.tensors):
        return ""
    own = {"class_ratios": list(context.ratios), "selection": context.selection}
    theirs = {name: trained.model_args[name] for name in own if name in trained.model_args}
    theirs = {name: list(value) if isinstance(value, tuple) else value for name, value in theirs.items()}
    other = ", ".join(f"{name}: {value}" for name, value in theirs.items() if value != own[name])
    if not other:
        return ""
    return (
        f"{trained.where}: its network was trained with {other}, and the stages of this one consider other "
        f"classes; --model-args '{{{other}}}' makes them alike"
    )


def in_short(report: WarmStartReport) -> str:
    """Say in a line what was loaded, which parts are new, and what the source has beside.

    Examples:
        >>> new = ("network.roi_heads.box_predictor.bbox_pred.bias",)
        >>> in_short(WarmStartReport("run", ("a.weight",), new, ()))
        'run: loaded 1 of 2 tensors; new: box predictor'
    """
    count = len(report.loaded) + len(report.new)
    line = f"{report.source}: loaded {len(report.loaded)} of {count} tensors"
    if report.new:
        line += f"; new: {_some(parts(report.new))}"
    elsewhere = [name for name in report.unused if "classes" not in report.reasons.get(name, "")]
    if elsewhere:
        reasons = list(dict.fromkeys(filter(None, map(report.reasons.get, elsewhere))))
        why = f" ({reasons[0]}{', …' if len(reasons) > 1 else ''})" if reasons else ""
        line += f"; not taken from it: {_some(parts(elsewhere))}{why}"
    return line


def _some(words: Sequence[str], limit: int = 6) -> str:
    more = f" and {len(words) - limit} more" if len(words) > limit else ""
    return f"{', '.join(words[:limit])}{more}"


def parts(names: Sequence[str]) -> list[str]:
    """Name the parts of a network that tensors belong to, each once, in the order of the tensors."""

    def part(name: str) -> str:
        layer = re.sub(r"(^layer|(?<=\.))\d+(?=\.)", r"\1*", name).rpartition(".")[0]
        return next((words for pattern, words in _PARTS if re.search(pattern, name)), layer)

    return list(dict.fromkeys(map(part, names)))
