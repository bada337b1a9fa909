"""The multiply-adds that one image costs a detector."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.detection.roi_heads import RoIHeads

from ctxvision.models._figures import evaluation_mode

from .cascade import CascadeRoIHeads
from .detector import Detector


def count_detector_macs(
    detector: Detector, size: Sequence[int] = (800, 1280), *, proposals: int = 1000, masks: int = 100
) -> int:
    """Return the multiply-adds of one image, counted as in the detectors' papers (MMDetection's ``get_flops``).

    Counted are backbone, FPN, and the dense heads over the whole image; the box heads over 1000 RoIs, whatever the
    region proposal network finds, and the mask head over 100. Resizing, RoIAlign and NMS are not. What a
    multiply-add is, `ctxvision.models.count_macs` says. On ``torch.device("meta")`` it takes no time.

    Args:
        detector: A detector that `build_detector` made.
        size: The height and width of the resized image in pixels; the papers that write 800 x 1333 have 800 x
            1280.
        proposals: The number of RoIs of the box head.
        masks: The number of RoIs of the mask head.
    """
    parameter, network = next(detector.parameters()), detector.network

    def zeros(*shape: int) -> Tensor:
        return torch.zeros(shape, device=parameter.device, dtype=parameter.dtype)

    with evaluation_mode(detector), FlopCounterMode(display=False) as counter:
        pyramid = list(network.backbone(zeros(1, detector.in_chans, *size)).values())
        width = pyramid[0].shape[1]
        if not detector.has_background:
            network.head(pyramid)
        else:
            network.rpn.head(pyramid)
            for stage in _stages(network.roi_heads):
                stage.box_predictor(stage.box_head(zeros(proposals, width, 7, 7)))
                if stage.has_mask():
                    stage.mask_predictor(stage.mask_head(zeros(masks, width, 14, 14)))
    return int(counter.get_total_flops()) // 2


def _stages(heads: nn.Module) -> list[RoIHeads]:
    return heads.in_order() if isinstance(heads, CascadeRoIHeads) else [heads]
