"""Box heads and predictors over RoI features."""

from collections.abc import Callable
from typing import Literal

from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead

from .precision import in_full_precision

BoxHeadName = Literal["2fc", "4conv1fc"]


def make_box_head(
    kind: BoxHeadName, width: int, hidden: int, norm: Callable[[int], nn.Module] | None = None
) -> nn.Module:
    """Return a box head, which turns RoI features ``(N, width, 7, 7)`` into ``(N, hidden)``.

    Args:
        kind: The layers: ``"2fc"``, two linear layers (FPN's, also in the involution, Swin and ConvNeXt
            detectors), or ``"4conv1fc"``, four 3x3 convolutions and a linear layer (ResNeSt's, whose heads CoTNet
            took over).
        width: The number of channels of the pyramid.
        hidden: The width of the linear layers.
        norm: The function that makes a norm for after every convolution of ``"4conv1fc"``; by default there is
            none.
    """
    head: nn.Module = (
        TwoMLPHead(width * 7 * 7, hidden)
        if kind == "2fc"
        else FastRCNNConvFCHead((width, 7, 7), [width] * 4, [hidden], norm_layer=norm)
    )
    return head


def make_box_predictor(hidden: int, num_classes: int) -> FastRCNNPredictor:
    """Return torchvision's predictor: scores and, for each class of its own, boxes."""
    return in_full_precision(FastRCNNPredictor(hidden, 1 + num_classes))


class ClassAgnosticPredictor(nn.Module):
    """Scores of all classes and one box that all of them share.

    The box is returned once for each class, background included, so that torchvision's losses and
    postprocessing take it as it is.

    Args:
        hidden: The width of the box head.
        num_classes: The number of classes without the background.

    Shape:
        The input is ``(N, hidden)``; the output is logits ``(N, 1 + num_classes)`` and box codes
        ``(N, 4 * (1 + num_classes))``.
    """

    def __init__(self, hidden: int, num_classes: int) -> None:
        super().__init__()
        self.cls_score = nn.Linear(hidden, 1 + num_classes)
        self.bbox_pred = nn.Linear(hidden, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits and the box codes of the box head's output (N, hidden)."""
        logits = self.cls_score(x)
        return logits, self.bbox_pred(x).repeat(1, logits.shape[1])
