"""Memory formats of a network's weights."""

from typing import Literal

import torch
from torch import nn

Layout = Literal["channels_last", "nchw"]
LAYOUTS: dict[Layout, torch.memory_format] = {
    "channels_last": torch.channels_last,
    "nchw": torch.contiguous_format,
}


def to_layout(model: nn.Module, layout: Layout) -> None:
    """Move the 4-d weights; `nn.Module.to` refuses networks that have 5-d ones."""
    for parameter in model.parameters():
        if parameter.dim() == 4:
            parameter.data = parameter.data.contiguous(memory_format=LAYOUTS[layout])
