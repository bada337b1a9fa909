"""What one image costs."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from ctxvision.models._mode import looking_at


def count_macs(model: nn.Module, input_size: Sequence[int] = (3, 224, 224)) -> int:
    """Return the multiply-adds of one image, as the papers' "FLOPs".

    Counted are convolutions and matrix products, and our operators by their formulas: one multiply-add per tap,
    channel and position of a local aggregation; four more for the bilinear sample in a contextual convolution.
    Element-wise work, norms and pooling are not counted. The model runs once, in eval mode, as it is; on
    ``torch.device("meta")`` that takes no time and no memory.

    Args:
        model: Any network that takes ``(1, C, H, W)``.
        input_size: ``(C, H, W)`` in pixels.
    """
    parameter = next(model.parameters())
    image = torch.zeros(1, *input_size, device=parameter.device, dtype=parameter.dtype)
    with looking_at(model), FlopCounterMode(display=False) as counter:
        model(image)
    return int(counter.get_total_flops()) // 2
