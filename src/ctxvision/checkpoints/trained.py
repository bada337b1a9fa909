"""Weights of whole trained networks of a task, neck and heads with their backbone: ours, torchvision's detectors.

Other than `warm_start`, which is about networks for classification, this takes what is left of a training for the
next one of the same task, whose classes may be others.
"""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from ctxvision.models import ContextualNet

from .error import CheckpointError, name_some
from .finite import require_finite
from .layout import alike, describe
from .warm_starting import WarmStartReport

_COUNTER = "num_batches_tracked"  # absent from frozen norms and from older files
# from the names of torchvision's detectors, and those that its published files have, to ours
_TORCHVISION = (
    (r"^backbone\.body\.", "backbone.features.body."),
    (r"^(backbone\.fpn\.(?:inner|layer)_blocks\.\d)\.(weight|bias)$", r"\1.0.\2"),
    (r"^rpn\.head\.conv\.(weight|bias)$", r"rpn.head.conv.0.0.\1"),
    (r"^roi_heads\.mask_head\.mask_fcn(\d)\.", lambda match: f"roi_heads.mask_head.{int(match[1]) - 1}.0."),
    (
        r"^(head\.\w+_head\.conv)\.(\d)\.(weight|bias)$",  # a convolution and a ReLU by turns
        lambda match: f"{match[1]}.{int(match[2]) // 2}.0.{match[3]}",
    ),
)


class ClassTensors(NamedTuple):
    """Which tensors of a network belong to its classes, and whether those of a source are for the same classes."""

    pattern: re.Pattern[str]
    """Matches the beginning of the names of these tensors."""
    same: bool
    """Whether the source has the same classes, as far as is known; where it has not, these tensors stay new."""


def from_torchvision(tensors: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """Name the tensors of one of torchvision's detectors with FPN as our detectors do.

    Args:
        tensors: A state dict, such as that of ``fasterrcnn_resnet50_fpn``, ``maskrcnn_resnet50_fpn`` or
            ``retinanet_resnet50_fpn``, also in the layout of the files that torchvision publishes.

    Returns:
        The tensors by the names that `ctxvision.tasks.detection.Detector` gives them; ``None`` if they are not
        those of such a detector.
    """
    if not {name.split(".")[0] for name in tensors} <= {"backbone", "rpn", "roi_heads", "head"}:
        return None
    if not any(name.startswith("backbone.body.") for name in tensors):
        return None
    renamed = {}
    for name, value in tensors.items():
        for old, new in _TORCHVISION:
            name = re.sub(old, new, name)
        renamed[f"network.{name}"] = value
    return renamed


def load_trained(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    where: str,
    *,
    backbone: str,
    classes: ClassTensors,
    partial: bool = False,
) -> WarmStartReport:
    """Load what a trained network of the same task has in common with a network.

    Tensors of the classes stay new where the classes are others or their number is. The backbones must be equal;
    of neck and heads, what has the same name and shape is loaded, so that a Mask R-CNN can start from a Faster
    R-CNN.

    Args:
        model: The network to load into.
        tensors: The tensors by the names that such a network gives them.
        where: The name of the source in messages and in the report.
        backbone: The name of the backbone in the network.
        classes: The tensors that belong to the classes.
        partial: Whether to load what fits of another backbone too.

    Raises:
        CheckpointError: The backbone is another one, nothing fits, or a tensor is not finite. The network is
            unchanged.
    """
    for name, module in model.named_modules():
        if isinstance(module, ContextualNet) and any(key.startswith(f"{name}.context.") for key in tensors):
            try:
                module.adopt_design(tensors, f"{name}.")
            except RuntimeError as error:
                raise CheckpointError(where, str(error)) from error
    own = model.state_dict()
    loaded = {name: value for name, value in tensors.items() if name in own and alike(value, own[name])}
    if not classes.same:
        loaded = {name: value for name, value in loaded.items() if not classes.pattern.search(name)}
    if not partial:
        _require_same_backbone(own, tensors, f"{backbone}.", classes, where)
    if not any(value.ndim > 1 for value in loaded.values()):
        raise CheckpointError(
            where, f"nothing in it fits: it has {name_some(list(tensors))}, the network {name_some(list(own))}"
        )
    require_finite(loaded, where)
    model.load_state_dict(loaded, strict=False)
    new = tuple(name for name in own if name not in loaded and not name.endswith(_COUNTER))
    unused = tuple(name for name in tensors if name not in loaded and not name.endswith(_COUNTER))
    reasons = {name: _why(name, tensors[name], own.get(name), classes) for name in unused}
    return WarmStartReport(where, tuple(loaded), new, unused, reasons)


def _require_same_backbone(
    own: Mapping[str, Tensor], tensors: Mapping[str, Tensor], prefix: str, classes: ClassTensors, where: str
) -> None:
    def belongs(name: str) -> bool:
        return name.startswith(prefix) and not name.endswith(_COUNTER) and not classes.pattern.search(name)

    ours, theirs = ({name for name in names if belongs(name)} for names in (own, tensors))
    unlike = [name for name in sorted(ours & theirs) if not alike(tensors[name], own[name])]
    problems: list[tuple[Collection[str], str]] = [
        (
            [f"{name} is {describe(tensors[name])}, not {describe(own[name])}" for name in unlike],
            "of another shape",
        ),
        (sorted(ours - theirs), "missing"),
        (sorted(theirs - ours), "without a place here"),
    ]
    said = [f"{len(names)} {what} ({name_some(list(names))})" for names, what in problems if names]
    if said:
        raise CheckpointError(
            where,
            f"its backbone is another one: of its tensors are {'; '.join(said)}; nothing was loaded; name the "
            "backbone that it was trained with, or let partial=True (--init-partial) load what fits",
        )


def _why(name: str, theirs: Tensor, ours: Tensor | None, classes: ClassTensors) -> str:
    if ours is None:
        return "no place in the network"
    if classes.pattern.search(name):
        return "other classes"
    return f"{describe(theirs)}, not {describe(ours)}"
