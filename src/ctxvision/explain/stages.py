"""Which of the layers of a kind stand for the stages of a network in a picture."""

from collections.abc import Sequence

from torch import nn


def last_of_each_stage(model: nn.Module, names: Sequence[str], limit: int = 4) -> list[tuple[int, str]]:
    """Choose the last of some layers in each stage.

    Args:
        model: with timm's ``feature_info``; without it the layers are chosen evenly, and numbered.
        names: of the layers, in their order.
        limit: how many to choose at most; the last stages are kept.

    Returns:
        Number of the stage, from 1, and name of the layer.
    """
    info = getattr(model, "feature_info", None)
    stages = [entry["module"] for entry in info] if isinstance(info, list) else []
    chosen = []
    for number, stage in enumerate(stages[-4:], 1):
        inside = [name for name in names if name.startswith(f"{stage}.")]
        if inside:
            chosen.append((number, inside[-1]))
    if not chosen:
        count = min(len(names), limit)
        chosen = [(i + 1, names[(i + 1) * len(names) // count - 1]) for i in range(count)]
    return chosen[-limit:]
