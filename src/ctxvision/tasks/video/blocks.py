"""Where a network has residual blocks, and which layer begins the branch beside the shortcut."""

from collections.abc import Sequence

from torch import nn

from ctxvision.tasks.error import TaskError

# what the first convolution of a branch is called in timm's networks and in ours
_FIRST = ("conv1", "conv_dw", "conv_pw", "conv_exp", "dwconv")
# what else a block with a shortcut has
_SHORTCUT = ("downsample", "shortcut", "drop_path")
_LAYERS = ", ".join(_FIRST)


def residual_layers(model: nn.Module, layers: Sequence[str] = ()) -> dict[str, nn.Module]:
    """Find the first layer of every residual branch, by its name in the network.

    A residual block is known by what timm's networks and ours call its parts: a first convolution (``conv1`` of a
    ResNet's block, ``conv_dw`` of a ConvNeXt's, ``conv_pw`` of an inverted bottleneck) and something that belongs
    to a shortcut. Blocks that say themselves that they have none (``has_skip`` of EfficientNet) are left out.

    Args:
        model: The network.
        layers: The names of the layers themselves, for networks whose blocks are not known.

    Raises:
        TaskError: There is no such block, or no such layer.
    """
    if layers:
        known = dict(model.named_modules())
        missing = [name for name in layers if name not in known]
        if missing:
            raise TaskError(f"temporal shift: the network has no layer {missing[0]!r}")
        return {name: known[name] for name in layers}
    found: dict[str, nn.Module] = {}
    for name, block in model.named_modules():
        # in the order in which they are used: a depthwise convolution may come first or second
        first = next((part for part, _ in block.named_children() if part in _FIRST), None)
        if name and first and _has_shortcut(block):
            found[f"{name}.{first}"] = block.get_submodule(first)
    if not found:
        raise TaskError(
            f"temporal shift: {type(model).__name__} has no residual blocks that begin with a convolution "
            f"({_LAYERS}); name the layers with shift_layers, or choose a ResNet, a ConvNeXt or one of ours"
        )
    return found


def _has_shortcut(block: nn.Module) -> bool:
    if hasattr(block, "has_skip"):
        return bool(block.has_skip)
    return any(hasattr(block, part) for part in _SHORTCUT)
