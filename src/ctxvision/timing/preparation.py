"""What is done to a network with random weights before it is timed."""

import torch
from torch import nn


@torch.no_grad()
def fill_zero_weights(model: nn.Module) -> None:
    """Fill weights that start at, or nearly at, zero.

    Zero-initialised norms, layer scales and offset generators would hide a broken operator from a comparison, and
    sampling on the very grid could be cheaper than sampling beside it.
    """
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if name.endswith("bias") or parameter.abs().max() > 1e-5:
            continue
        if parameter.dim() > 1:
            parameter.copy_(
                0.02 * torch.randn(parameter.shape, generator=generator, dtype=torch.float32, device="cpu")
            )
        else:
            parameter.fill_(0.2)


@torch.no_grad()
def set_batch_norm_statistics(model: nn.Module, size: int, channels: int = 3) -> None:
    """Set the batch norms' statistics from one small random batch, so that no activation explodes."""
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    images = torch.randn(
        4, channels, size, size, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu"
    )
    model.train()(images.to(next(model.parameters()).device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
