"""The heads over feature pyramids and RoI features: region proposals, boxes, masks; their predictions in float32.

Heads are torchvision's; with involutions they are those that Involution (Li et al., CVPR 2021) calls "head".
"""

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.models.detection.rpn import RPNHead

from ctxvision.tasks.features import LayerKind, make_involution

Module = TypeVar("Module", bound=nn.Module)
_RETINANET_WIDTH = 256  # of the paper, for which its initial weights are meant
_HALF = (torch.float16, torch.bfloat16)


def in_full_precision(module: Module) -> Module:
    """Let a module return float32 where it would return float16 or bfloat16; float64 stays.

    A box of 1333 pixels has no place in bfloat16.
    """
    module.register_forward_hook(_promote_output)
    return in_own_precision(module)


def in_own_precision(module: Module) -> Module:
    """Let a module of float16 or bfloat16 weights take the float32 that others have made of their outputs."""
    module.register_forward_pre_hook(_cast_inputs)
    return module


def _promote_output(module: nn.Module, args: Any, output: Any) -> Any:
    return _cast(output, _HALF, torch.float32)


def _cast_inputs(module: nn.Module, args: Any) -> Any:
    own = next((p.dtype for p in module.parameters() if p.is_floating_point()), torch.float32)
    return _cast(args, (torch.float32,), own) if own in _HALF else args


def _cast(value: Any, kinds: tuple[torch.dtype, ...], dtype: torch.dtype) -> Any:
    if isinstance(value, Tensor):
        return value.to(dtype) if value.dtype in kinds else value
    if isinstance(value, dict):
        return {name: _cast(item, kinds, dtype) for name, item in value.items()}
    return type(value)(_cast(item, kinds, dtype) for item in value)


BoxHeadName = Literal["2fc", "4conv1fc"]


def make_rpn_head(width: int, anchors: int, kind: LayerKind) -> RPNHead:
    """Return torchvision's head; with ``"involution"`` its 3x3 convolution is a 7x7 involution.

    Args:
        width: The number of channels of the pyramid.
        anchors: The number of anchors per position.
        kind: The kind of the layer before the predictions.
    """
    head = RPNHead(width, anchors)
    if kind == "involution":
        head.conv = nn.Sequential(make_involution(width), nn.ReLU(inplace=True))
    return in_full_precision(head)


def make_retinanet_head(width: int, anchors: int, num_classes: int) -> RetinaNetHead:
    """Return RetinaNet's head of torchvision, whose towers begin at the same gain whatever their width.

    The paper's four convolutions of 256 channels begin with weights of deviation 0.01 and pass on a hundredth of
    what they get. Of 32 channels and the same deviation they pass on 0.00015, and gradients vanish: the weights
    begin larger as the square root of the width is smaller.

    Args:
        width: The number of channels of the pyramid.
        anchors: The number of anchors per position.
        num_classes: The number of classes without the background.
    """
    head = RetinaNetHead(width, anchors, num_classes)
    with torch.no_grad():
        for tower in (head.classification_head.conv, head.regression_head.conv):
            for layer in tower.modules():
                if isinstance(layer, nn.Conv2d):
                    layer.weight.mul_((_RETINANET_WIDTH / width) ** 0.5)
    return in_full_precision(head)


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


def make_mask_head(width: int, kind: LayerKind, norm: Callable[[int], nn.Module] | None = None) -> nn.Sequential:
    """Return four layers over RoI features ``(N, width, 14, 14)``, whose shape they keep.

    Args:
        width: The number of channels of the pyramid and of every layer.
        kind: The kind of the layers, convolutions or involutions.
        norm: The function that makes a norm for after every layer; by default there is none.
    """
    if kind == "convolution":
        head: nn.Sequential = MaskRCNNHeads(width, (width,) * 4, dilation=1, norm_layer=norm)
        return head
    layers = []
    for _ in range(4):
        between = [] if norm is None else [norm(width)]
        layers.append(nn.Sequential(make_involution(width), *between, nn.ReLU(inplace=True)))
    return nn.Sequential(*layers)


def make_mask_predictor(width: int, num_classes: int) -> MaskRCNNPredictor:
    """Return torchvision's predictor, from ``(N, width, 14, 14)`` to logits ``(N, 1 + num_classes, 28, 28)``."""
    return in_full_precision(MaskRCNNPredictor(width, width, 1 + num_classes))
