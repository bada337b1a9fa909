"""Look at a network without changing it."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn


@contextmanager
def looking_at(model: nn.Module) -> Iterator[None]:
    """Put a network into evaluation mode, without gradients, and back afterwards."""
    was_training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(was_training)
