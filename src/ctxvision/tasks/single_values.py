"""Batch norms that get one value per channel of each image, as those of pooled features do.

Over a single image there is nothing to normalise, and torch refuses it in training. CoT layers, split attention,
squeeze-and-excitation with a norm, pyramid pooling, and the last stage on small images are of this kind.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

_BatchNorm = nn.modules.batchnorm._BatchNorm


def single_value_norms(model: nn.Module, run: Callable[[], Any]) -> tuple[str, ...]:
    """Name the batch norms in training mode that get one value per channel of one sample.

    Args:
        model: The network; it is in evaluation mode meanwhile, and no statistics change.
        run: A function that calls the network with one sample.
    """
    modes = {module: module.training for module in model.modules()}
    found: list[str] = []

    def looking(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def look(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            if inputs[0].numel() == inputs[0].shape[1] and name not in found:
                found.append(name)

        return look

    norms = [(n, m) for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m.training]
    handles = [norm.register_forward_pre_hook(looking(name)) for name, norm in norms]
    try:
        model.eval()
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
        for module, mode in modes.items():
            module.training = mode
    return tuple(found)


def keep_statistics(model: nn.Module, names: tuple[str, ...], keep: bool) -> None:
    """Put batch norms into eval mode or back into training mode; their affine part is trained either way.

    It lasts until the next call, because activations may be recomputed in the backward pass. What is synchronised
    between processes gets more values and stays as it is.

    Args:
        model: The network that `single_value_norms` was asked about.
        names: The names that `single_value_norms` returned.
        keep: Whether the norms use their statistics, because the next batch is of one sample.
    """
    together = torch.distributed.is_available() and torch.distributed.is_initialized()
    for name in names:
        norm = model.get_submodule(name)
        if not (together and isinstance(norm, nn.SyncBatchNorm)):
            norm.train(not keep)
