"""Start a detector's backbone from the weights of a classifier."""

import re
from collections.abc import Mapping

from torch import Tensor

from ctxvision.tasks.error import TaskError

from .detector import Detector


def load_backbone(detector: Detector, weights: Mapping[str, Tensor]) -> None:
    """Copy a classification network's weights into the backbone; FPN and heads stay as they are.

    Weights of another kind of network, or in the authors' layout, go through
    `ctxvision.checkpoints.warm_start` into a classification network first.

    Args:
        detector: whose backbone is the same network without its classifier.
        weights: the network's state dict.

    Raises:
        TaskError: a tensor of the backbone is absent or of another shape; the detector is unchanged.
    """
    body = detector.network.backbone.features.body
    sources: dict[str, Tensor] = {}
    for name, own in body.state_dict().items():
        found = next((source for source in _names_in_classifier(name) if source in weights), None)
        if found is None:
            if name.endswith("num_batches_tracked"):  # older checkpoints have none
                continue
            raise TaskError(
                f"the weights have no {name!r}, which the backbone needs; are they of another network?"
            )
        if weights[found].shape != own.shape:
            shapes = f"{tuple(weights[found].shape)}, not {tuple(own.shape)}"
            raise TaskError(f"the weights' {found!r} has shape {shapes}; are they of another network?")
        sources[name] = weights[found]
    body.load_state_dict(sources, strict=False)


def _names_in_classifier(name: str) -> tuple[str, ...]:
    """Return what a tensor of timm's feature networks is called in the whole network."""
    return name, name.removeprefix("model."), re.sub(r"^(\w+)_(\d+)\.", r"\1.\2.", name)
