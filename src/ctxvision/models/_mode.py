"""Look at a network without changing it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def looking_at(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, without gradients, and each part back as it was afterwards."""
    training = [module for module in model.modules() if module.training]  # parts may be frozen
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True
