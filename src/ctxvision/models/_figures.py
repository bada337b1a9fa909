"""What the papers report for each network, and what one image costs by our count."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


class PaperResult(NamedTuple):
    """One row of a paper's result table."""

    top1: float
    """Top-1 accuracy in per cent with the paper's own training, best single-crop setting at 224 px."""
    top5: float | None
    """Top-5 accuracy in per cent."""
    params_m: float
    """Parameters in millions."""
    gmacs: float
    """Multiply-adds of one 224 px image in billions, as the paper prints them; it calls them FLOPs.

    The 17.0 of SE-CoTNetD-152 is what 256 px cost.
    """
    source: str
    """Paper and table."""


_COT = "CoTNet, Table 4 (advanced training)"
_RED = "Involution, CVPR 2021, ImageNet results (130 epochs)"
_CTX = "Contextual CNN, Table 1"

_RESULTS = {
    "cotnet50": PaperResult(81.3, 95.6, 22.2, 3.3, _COT),
    "cotnext50_2x48d": PaperResult(82.1, 95.9, 30.1, 4.3, _COT),
    "se_cotnetd50": PaperResult(81.6, 95.8, 23.1, 4.1, _COT),
    "cotnet101": PaperResult(82.8, 96.2, 38.3, 6.1, _COT),
    "cotnext101_2x48d": PaperResult(83.2, 96.4, 53.4, 8.2, _COT),
    "se_cotnetd101": PaperResult(83.2, 96.5, 40.9, 8.5, _COT),
    "se_cotnetd152": PaperResult(84.0, 97.0, 55.8, 17.0, _COT),
    "rednet26": PaperResult(75.96, 93.19, 9.23, 1.73, _RED),
    "rednet38": PaperResult(77.48, 93.57, 12.39, 2.22, _RED),
    "rednet50": PaperResult(78.35, 94.13, 15.54, 2.71, _RED),
    "rednet101": PaperResult(78.92, 94.35, 25.65, 4.74, _RED),
    "rednet152": PaperResult(79.12, 94.38, 33.99, 6.79, _RED),
    "contextual_convnext_tiny": PaperResult(83.9, None, 32, 4.6, _CTX),
    "contextual_convnext_small": PaperResult(84.6, None, 53, 8.9, _CTX),
    "contextual_convnext_base": PaperResult(85.2, None, 93, 15.8, _CTX),
    "contextual_resnet50": PaperResult(79.35, None, 27.9, 4.3, "Contextual CNN, Tables 4 to 6"),
}


def paper_result(name: str) -> PaperResult | None:
    """Return what the paper reports for a network, or ``None`` for our own small ones."""
    return _RESULTS.get(name)


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, without gradients, and each part back as it was afterwards."""
    training = [module for module in model.modules() if module.training]  # parts may be frozen
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def count_macs(model: nn.Module, input_size: Sequence[int] = (3, 224, 224)) -> int:
    """Return the multiply-adds of one image, as the papers' "FLOPs".

    Counted are convolutions and matrix products, and our operators by their formulas: one multiply-add per tap,
    channel and position of a local aggregation; four more for the bilinear sample in a contextual convolution.
    Element-wise work, norms and pooling are not counted. The model runs once, in eval mode, as it is; on
    ``torch.device("meta")`` that takes no time and no memory.

    Args:
        model: Any network that takes ``(1, C, H, W)``.
        input_size: Number of channels, height and width of the image, ``(C, H, W)``, the latter two in pixels.
    """
    parameter = next(model.parameters())
    image = torch.zeros(1, *input_size, device=parameter.device, dtype=parameter.dtype)
    with evaluation_mode(model), FlopCounterMode(display=False) as counter:
        model(image)
    return int(counter.get_total_flops()) // 2
