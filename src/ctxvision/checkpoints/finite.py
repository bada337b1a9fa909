"""Whether weights are numbers that a network can compute with."""

from collections.abc import Mapping

import torch
from torch import Tensor

from .error import CheckpointError, name_some


def require_finite(tensors: Mapping[str, Tensor], where: object, *, infinity: bool = False) -> None:
    """Raise `CheckpointError` if any value is NaN or infinite, or a variance is negative.

    Args:
        tensors: Parameters and buffers by name.
        where: The file, for the message.
        infinity: Whether infinite values are accepted, as masks have them.
    """
    if infinity:
        broken = [name for name, value in tensors.items() if bool(torch.isnan(value).any())]
    else:
        broken = [name for name, value in tensors.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise CheckpointError(
            where,
            f"{len(broken)} tensors hold NaN or infinity ({name_some(broken)}); take another checkpoint",
        )
    # a root is taken of them
    negative = [
        name for name, value in tensors.items() if name.endswith("running_var") and bool((value < 0).any())
    ]
    if negative:
        raise CheckpointError(
            where,
            f"{len(negative)} tensors hold negative variances ({name_some(negative)}); take another checkpoint",
        )
