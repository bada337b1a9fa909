"""Networks with fewer blocks that still have every kind of block: more of one kind only take longer."""

from torch import nn


def shorter(name):
    """Return constructor arguments that leave one or two blocks of each kind; the small networks have no more."""
    if name.endswith("micro"):
        return {}
    for family, depths in (("convnext", (3, 3, 3, 3)), ("contextual_resnet", (2, 2, 3, 2))):
        if family in name:
            return {"depths": depths}
    return {"depths": (1, 2, 3, 1)}


def kinds(model):
    """Return what the residual blocks are made of, each kind once, without widths."""
    return {
        tuple((name, type(part).__name__, _stride(part)) for name, part in block.named_modules())
        for block in model.modules()
        if any(word in type(block).__name__ for word in ("Bottleneck", "Block"))
    }


def _stride(part):
    # nn.Sequential has an attribute of its blocks' making
    return None if isinstance(part, nn.Sequential) else getattr(part, "stride", None)
