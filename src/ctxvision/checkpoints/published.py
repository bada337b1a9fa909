"""Names of the published checkpoints → names of our networks.

Sources: CoTNet, https://github.com/JDAI-CV/CoTNet (timm's ResNet names, kept by our networks); involution,
https://github.com/d-li14/involution (OpenMMLab's names: ``backbone.*`` with ``head.fc.*`` in a classifier, with
``neck.*``, ``roi_head.*``, ``decode_head.*`` and so on in detectors and segmentation networks); and PaddleClas,
https://github.com/PaddlePaddle/PaddleClas (the classifier's names without ``backbone.`` and ``head.``).
"""

from collections import Counter
from collections.abc import Container, Iterable, Mapping

from torch import Tensor

from .error import CheckpointError, name_some

_OPENMMLAB = {  # where a name begins, or inside it: a dot in front keeps ".conv2." apart from "xconv2."
    "stem.0.conv.": "conv1.0.",
    "stem.0.bn.": "conv1.1.",
    "stem.1.conv1.conv.": "conv1.3.reduce.0.",
    "stem.1.conv1.bn.": "conv1.3.reduce.1.",
    "stem.1.conv2.conv.": "conv1.3.span.",
    "stem.2.": "conv1.4.",
    "stem.4.conv.": "conv1.6.",
    "stem.4.bn.": "bn1.",
    ".conv2.conv1.conv.": ".conv2.reduce.0.",
    ".conv2.conv1.bn.": ".conv2.reduce.1.",
    ".conv2.conv2.conv.": ".conv2.span.",
}

# what stands on the backbone in OpenMMLab's detectors and segmentation networks
_ON_BACKBONE = ("neck", "rpn_head", "roi_head", "bbox_head", "mask_head", "decode_head", "auxiliary_head")


def from_published(state_dict: Mapping[str, Tensor], model_name: str) -> dict[str, Tensor]:
    """Rename a published state dict to our names; the tensors themselves are not touched.

    The layout is told from the names, so a state dict that has our names already comes back as it is.
    Blur-pool filters (``*.filt``) are constants of the network and are dropped. Of a detector or a segmentation
    network only the backbone comes back, without a classifier; `parts_on_backbone` counts the rest.

    Args:
        state_dict: Tensors by name, as `read_state_dict` returns them.
        model_name: Name of the network in timm's registry, which messages name and which excludes some layouts.

    Returns:
        The tensors by our names, in the same order.

    Raises:
        CheckpointError: Nothing was ever published for this network, or there are tensors beside those of a
            classifier, or of a backbone with what stands on it.
    """
    if model_name.startswith("contextual_"):
        raise CheckpointError(
            model_name,
            "no weights were published for this family; start from a plain network with warm_start",
        )
    if is_paddleclas(state_dict):
        return {_from_openmmlab(name): value for name, value in state_dict.items()}
    if not any(name.startswith("backbone.") for name in state_dict):
        return {name: value for name, value in state_dict.items() if not name.endswith(".filt")}
    is_classifier = any(name.startswith("head.fc.") for name in state_dict)
    known = ("backbone.", "head.fc.") if is_classifier else ("backbone.", *(f"{part}." for part in _ON_BACKBONE))
    others = [name for name in state_dict if not name.startswith(known)]
    if others:
        kind = "a classification" if is_classifier else "a detector's or segmentation"
        raise CheckpointError(
            model_name, f"not {kind} checkpoint: {len(others)} more tensors ({name_some(others)})"
        )
    return {
        _from_openmmlab(name): value
        for name, value in state_dict.items()
        if name.startswith(("backbone.", "head.fc."))
    }


def parts_on_backbone(names: Iterable[str]) -> dict[str, int]:
    """Count the tensors of what stands on the backbone in OpenMMLab's detectors and segmentation networks.

    Args:
        names: Names of the tensors of a published state dict.

    Returns:
        Number of tensors by the name of the part, such as ``"neck"``; empty for other layouts and classifiers.
    """
    names = list(names)
    if not any(name.startswith("backbone.") for name in names):
        return {}
    return dict(Counter(part for name in names if (part := name.partition(".")[0]) in _ON_BACKBONE))


def is_paddleclas(names: Container[str]) -> bool:
    """Tell whether names are those of PaddleClas' RedNet, whose stem is that of OpenMMLab without a prefix."""
    return "stem.0.conv.weight" in names


def _from_openmmlab(name: str) -> str:
    if name.startswith("head."):
        return name.removeprefix("head.")
    name = name.removeprefix("backbone.")
    for theirs, ours in _OPENMMLAB.items():
        if name.startswith(theirs) or (theirs.startswith(".") and theirs in name):
            return name.replace(theirs, ours, 1)
    return name
