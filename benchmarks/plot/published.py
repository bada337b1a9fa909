"""ImageNet-1k top-1 accuracies that papers report."""

from typing import NamedTuple

from ctxvision.models import paper_result


class Accuracy(NamedTuple):
    """A published figure."""

    top1: float
    """Per cent."""
    source: str
    """Paper, table and training."""


# Only figures from the tables that hold ours, so that the training is as alike as it gets. No paper trained timm's
# halonet26t, lambda_resnet26t and botnet26t_256, nor the D variant of SE-ResNet-50 with SE-CoTNetD-50's stem.
_PEERS = {
    "resnet50": Accuracy(78.3, "CoTNet, Table 4 (advanced training)"),
    "seresnet50": Accuracy(79.4, "CoTNet, Table 4 (advanced training)"),
    "resnext50_32x4d": Accuracy(78.2, "CoTNet, Table 3 (default training)"),
    "convnext_tiny": Accuracy(82.1, "Contextual CNN, Table 1"),
}


def published(network: str) -> Accuracy | None:
    """Return what a paper reports for a network of ours or timm's, or ``None``."""
    ours = paper_result(network)
    return _PEERS.get(network) if ours is None else Accuracy(ours.top1, ours.source)
