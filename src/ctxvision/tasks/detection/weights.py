"""Start a detector's backbone from the weights of a classifier."""

import re
from collections.abc import Mapping

from torch import Tensor

from ctxvision.checkpoints import WarmStartReport, warm_start
from ctxvision.checkpoints.sources import Source
from ctxvision.tasks.error import TaskError
from ctxvision.tasks.networks import create_network

from .detector import Detector


def warm_start_backbone(detector: Detector, source: Source, *, partial: bool = False) -> WarmStartReport:
    """Start the backbone from whatever `ctxvision.checkpoints.warm_start` takes; FPN and heads stay as they are.

    A contextual backbone keeps the class embeddings of a source with as many classes as it considers.

    Args:
        detector: whose backbone to load.
        source: weights of the network, of its plain counterpart, or the name of one of timm's pretrained networks.
        partial: load whatever fits.

    Returns:
        What was loaded into the whole network, whose classifier the backbone lacks.

    Raises:
        CheckpointError: the source is unusable or of another network; the detector is unchanged.
    """
    features = detector.network.backbone.features
    classifier = create_network(
        features.name,
        num_classes=features.model_args.get("context_classes", 1000),
        in_chans=detector.in_chans,
        model_args=features.model_args,
    )
    report = warm_start(classifier, source, partial=partial)
    load_backbone(detector, classifier.state_dict())
    return report


def load_backbone(detector: Detector, weights: Mapping[str, Tensor]) -> None:
    """Copy a classification network's weights into the backbone; FPN and heads stay as they are.

    For weights of another kind of network or layout see `warm_start_backbone`.

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
