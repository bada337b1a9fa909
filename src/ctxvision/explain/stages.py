"""Which of the layers of a kind stand for the stages of a network in a picture."""

from collections.abc import Sequence

from torch import nn

from .layers import stage_places


def last_of_each_stage(model: nn.Module, names: Sequence[str], limit: int = 4) -> list[tuple[int, str]]:
    """Choose the last of some layers in each stage.

    Args:
        model: a network, or one that has it for a backbone, with timm's ``feature_info``; without it the layers
            are chosen evenly, and numbered.
        names: of the layers, in their order.
        limit: how many to choose at most; the last stages are kept.

    Returns:
        Number of the stage, from 1, and name of the layer.
    """
    chosen = []
    for number, places in enumerate(stage_places(model)[-4:], 1):
        inside = [name for name in names if any(name.startswith(f"{place}.") for place in places)]
        if inside:
            chosen.append((number, inside[-1]))
    if not chosen:
        count = min(len(names), limit)
        chosen = [(i + 1, names[(i + 1) * len(names) // count - 1]) for i in range(count)]
    return chosen[-limit:]
