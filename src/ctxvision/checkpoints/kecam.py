"""Layers of keras_cv_attention_models' CoTNets → names of our networks.

Source: https://github.com/leondgarse/keras_cv_attention_models (MIT), ``cotnet`` and ``aotnet``, version 1.4.3.
"""

import re
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from ctxvision.models._weights import WITHHELD

from .digest import digest_of
from .error import CheckpointError, name_some
from .keras_file import MAGIC, KerasLayers, read_layers

_OUTSIDE = {
    "stem_conv": "conv1",
    "stem_bn": "bn1",
    "stem_1_conv": "conv1.0",
    "stem_1_bn": "conv1.1",
    "stem_2_conv": "conv1.3",
    "stem_2_bn": "conv1.4",
    "stem_3_conv": "conv1.6",
    "predictions": "fc",
}
_IN_BLOCK = {
    "deep_1_conv": "conv1",
    "deep_1_bn": "bn1",
    "deep_2_cot_key_conv": "conv2.key_embed.0",
    "deep_2_cot_key_bn": "conv2.key_embed.1",
    "deep_2_cot_embed_ww_1_conv": "conv2.embed.0",
    "deep_2_cot_embed_ww_1_bn": "conv2.embed.1",
    "deep_2_cot_embed_ww_2_conv": "conv2.embed.3",
    "deep_2_cot_embed_ww_group_norm": "conv2.embed.4",
    "deep_2_cot_embed_1_conv": "conv2.conv1x1.0",
    "deep_2_cot_embed_1_bn": "conv2.conv1x1.1",
    "deep_2_cot_embed_2_bn": "conv2.bn",
    "deep_2_cot_attn_se_1_conv": "conv2.se.0",
    "deep_2_cot_attn_se_bn": "conv2.se.1",
    "deep_2_cot_attn_se_2_conv": "conv2.se.3",
    "deep_2_sa_1_conv": "conv2.conv",
    "deep_2_sa_1_bn": "conv2.bn0",
    "deep_2_sa_2_conv": "conv2.fc1",
    "deep_2_sa_2_bn": "conv2.bn1",
    "deep_2_sa_3_conv": "conv2.fc2",
    "deep_3_conv": "conv3",
    "3_bn": "bn3",
}
_BLOCK = re.compile(r"stack([1-4])_block(\d{1,3})_(\w+)")


def from_kecam(layers: KerasLayers, path: Path) -> dict[str, Tensor]:
    """Give the weights of a CoTNet of kecam the names that ours has, for any depth and width.

    Its shortcuts are named as what they are: average pools as in ResNet-D (``downsample.1`` and ``.2``), or
    strided convolutions (``downsample.0`` and ``.1``).

    Args:
        layers: Layers of the file, as `read_layers` returns them.
        path: Path of the file, for messages.

    Returns:
        The tensors by our names, with the counters of batches, which Keras does not have, at zero.

    Raises:
        CheckpointError: The layers are those of another network, or of one that no network of ours computes.
    """
    _require_same_pools(layers.names, path)
    tensors, unknown = renamed(layers)
    if unknown or not tensors:
        what = f"{len(unknown)} layers that it does not have ({name_some(unknown)})" if unknown else "no weights"
        raise CheckpointError(path, f"a Keras file, but not of a CoTNet of keras_cv_attention_models: {what}")
    return tensors


class WithheldTensors(NamedTuple):
    """Tensors of a file that kecam publishes for a network that is not the authors'."""

    model: str
    """Name of the authors' network, for which the tensors are named."""
    tensors: dict[str, Tensor]
    caution: str
    """What is not known about them, in one line."""


def withheld_weights(path: Path) -> WithheldTensors | None:
    """Read one of the files that kecam publishes for a network that is not the authors'; None for any other file.

    They are told by their published checksums: whoever trained kecam's network has weights of that, not of the
    authors'. `docs/weights.md` says what speaks for the tensors of the published files being the authors' own.

    Args:
        path: Path of a file.

    Raises:
        CheckpointError: The file is damaged, or h5py is not installed.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        if file.read(len(MAGIC)) != MAGIC:
            return None
    digest = digest_of(path, "md5")
    for model, (files, reason) in WITHHELD.items():
        if digest in {file.md5 for file in files}:
            # only the D networks of the authors have average pools in their shortcuts
            tensors, _ = renamed(read_layers(path), averages=model.startswith("se_cotnetd"))
            caution = (
                f"{path.name}: {files[0].project} publishes it for a network that is not the authors' ({reason}); "
                f"written for the authors' {model}, but nobody has proved that the tensors are the authors': "
                "measure the accuracy before you use it"
            )
            return WithheldTensors(model, tensors, caution)
    return None


def renamed(layers: KerasLayers, averages: bool | None = None) -> tuple[dict[str, Tensor], list[str]]:
    """Return the tensors by our names, and the names of the layers that no CoTNet of kecam has.

    Args:
        layers: Layers of the file.
        averages: Whether to name shortcuts as those with average pools; None does where the file has such pools.
    """
    if averages is None:
        averages = any(name.endswith("_shortcut_down") for name in layers.names)
    tensors: dict[str, Tensor] = {}
    unknown: list[str] = []
    for layer, weights in layers.weights.items():
        ours = _our_name(layer, averages)
        if ours is None:
            unknown.append(layer)
            continue
        tensors |= {f"{ours}.{kind}": value for kind, value in weights.items()}
        if "running_mean" in weights:
            tensors[f"{ours}.num_batches_tracked"] = torch.tensor(0)
    return tensors, unknown


def _our_name(layer: str, averages: bool) -> str | None:
    if layer in _OUTSIDE:
        return _OUTSIDE[layer]
    found = _BLOCK.fullmatch(layer)
    if found is None:
        return None
    stage, block, part = found.groups()
    place = f"layer{stage}.{int(block) - 1}."
    if part in ("shortcut_conv", "shortcut_bn"):
        return f"{place}downsample.{int(averages) + int(part == 'shortcut_bn')}"
    return place + _IN_BLOCK[part] if part in _IN_BLOCK else None


def _require_same_pools(names: tuple[str, ...], path: Path) -> None:
    """Refuse CoT layers that are followed by their average pool: in ours it stands before, or is a blur-pool."""
    place = {name: index for index, name in enumerate(names)}
    for name, index in place.items():
        if name.endswith("_cot_pool") and index > place.get(f"{name.removesuffix('pool')}key_conv", len(names)):
            raise CheckpointError(
                path,
                f"refused: {name} follows its CoT layer, as in keras_cv_attention_models' CotNetSE152D; the "
                "authors' SE-CoTNetD-152 has blur-pools there and after its split attention, and computes "
                "something else; convert the authors' own file",
            )
