"""What a contextual network does with weights of a contextual network that was designed in another way.

Earlier versions made the last of every three blocks contextual where the first is now, and had a norm before the
head's projection. Names of tensors tell: such weights load, into the network that they were made with.
"""

import re
from collections.abc import Collection
from typing import Any

from torch import nn

from ctxvision.nn import ContextualConv2d

from ._backbone import layer_norm
from ._contextual_blocks import ContextualBottleneck, ContextualNeXtBlock

_GENERATOR = re.compile(r"\.(weight|sampling)_offsets\..*$")


def adopt_design(model: Any, names: Collection[str], prefix: str = "") -> None:
    """Move a network's contextual convolutions, and give its head a norm, so that it is the one of these weights.

    Args:
        model: Contextual network.
        names: Names of the tensors of the weights; those of a plain network, or of none, change nothing.
        prefix: What the names of the network's own tensors start with.

    Raises:
        RuntimeError: If the weights are of a contextual network that this one cannot become.
    """
    own = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    theirs = {_GENERATOR.sub("", name) for name in own if _GENERATOR.search(name)}
    if model.context is None or "context.embedding.weight" not in own:
        return
    norms = {name for name in own if name.startswith("context.") and name.endswith("projection.1.running_mean")}
    layer = next(
        (step.projection[1] for step in [*model.context.steps.values(), model.context.head] if step), None
    )
    if layer is not None and bool(norms) != isinstance(layer, nn.BatchNorm1d):
        there, here = ("batch", "layer") if norms else ("layer", "batch")
        raise RuntimeError(
            f'these weights are of a contextual network with norm="{there}", this one has "{here}"; '
            "contextual_resnet50 has become the authors' network (BatchNorm, contextual blocks 0, 2, 4 of a "
            "stage): train it anew, weights of before it fit no longer"
        )
    for stage in model.stages:
        _adopt_stage(stage, {name for name, module in model.named_modules() if module is stage}.pop(), theirs)
    if "head.norm.weight" in own and "norm" not in model.head and model.context.head is not None:
        weight = next(model.parameters())
        norm = layer_norm(model.num_features, device=weight.device, dtype=weight.dtype)
        model.head["norm"] = norm.train(model.training)


def _adopt_stage(stage: nn.Module, path: str, theirs: Collection[str]) -> None:
    convs: dict[str, nn.Module] = {}
    for name, block in stage.named_modules():
        if isinstance(block, ContextualNeXtBlock | ContextualBottleneck):
            layer = "conv_dw" if isinstance(block, ContextualNeXtBlock) else "conv2"
            convs[f"{name}.{layer}"] = block.get_submodule(layer)
    ours = {name for name, conv in convs.items() if isinstance(conv, ContextualConv2d)}
    wanted = {name for name in convs if f"{path}.{name}" in theirs}
    if ours == wanted or not theirs:
        return
    come, go = sorted(wanted - ours), sorted(ours - wanted)
    if len(come) != len(go) or not all(name.endswith("conv_dw") for name in come):
        there, here = (", ".join(sorted(blocks)) or "none" for blocks in (wanted, ours))
        raise RuntimeError(
            f"these weights are of a network with other contextual blocks: in {path} {there}, here {here}; "
            "build this network with their contextual_blocks and stages"
        )
    for new, old in zip(come, go, strict=True):
        stage.set_submodule(new, convs[old])
        stage.set_submodule(old, convs[new])
