"""Where converted ImageNet weights of our networks still stand, and why those of some are not offered."""

from typing import NamedTuple


class Weights(NamedTuple):
    """A file of another project from which ``pretrained=True`` makes weights of a network of ours."""

    model: str
    """Name of our network."""
    project: str
    """The project that keeps the file."""
    url: str
    md5: str | None
    """The checksum that the project publishes; None where it publishes none."""
    top1: float
    """Top-1 accuracy in per cent on ImageNet's validation images, as published there; not measured by us."""
    megabytes: int
    """Size of the file, to the megabyte, as the project's code writes it."""
    license: str


class Withheld(NamedTuple):
    """Weights that stand somewhere but are not offered."""

    files: tuple[Weights, ...]
    reason: str
    """How the project's network differs from the authors'."""


KECAM = "keras_cv_attention_models"
PADDLECLAS = "PaddleClas"
_KECAM = "https://github.com/leondgarse/keras_cv_attention_models/releases/download/cotnet"
_PADDLE = "https://paddle-imagenet-models-name.bj.bcebos.com/dygraph"


def _kecam(model: str, file: str, md5: str, top1: float, megabytes: int, size: int = 224) -> Weights:
    return Weights(model, KECAM, f"{_KECAM}/{file}_{size}_imagenet.h5", md5, top1, megabytes, "Apache-2.0")


def _paddle(depth: int, top1: float, megabytes: int) -> Weights:
    url = f"{_PADDLE}/RedNet{depth}_pretrained.pdparams"
    return Weights(f"rednet{depth}", PADDLECLAS, url, None, top1, megabytes, "Apache-2.0")


WEIGHTS = {
    weights.model: weights
    for weights in (
        _kecam("se_cotnetd50", "cotnet_se50d", "d1e40b172d26925794f0c9dea090dba7", 81.6, 94),
        _kecam("se_cotnetd101", "cotnet_se101d", "4e2fc28b9a92259269f1b5544e67ab50", 83.2, 166),
        _paddle(26, 75.95, 37),
        _paddle(38, 77.47, 50),
        _paddle(50, 78.33, 62),
        _paddle(101, 78.94, 103),
        _paddle(152, 79.17, 137),
    )
}

_SHORTCUTS = "its shortcuts average 2x2 pixels where the authors' network takes every second"
_POOLS = "it strides and average-pools where the authors' network has blur-pools"
WITHHELD = {
    "cotnet50": Withheld(
        (_kecam("cotnet50", "cotnet50", "e2b1fd313834deebb1c1f83451525254", 81.3, 91),), _SHORTCUTS
    ),
    "cotnet101": Withheld(
        (_kecam("cotnet101", "cotnet101", "589d2c817699d96085136f2af2dd2036", 82.8, 156),), _SHORTCUTS
    ),
    "se_cotnetd152": Withheld(
        (
            _kecam("se_cotnetd152", "cotnet_se152d", "6a2744af16b8cc4177fef52aba7ff083", 84.0, 227),
            _kecam("se_cotnetd152", "cotnet_se152d", "9dad11a2ec3d2c8ecac9832fcf1e9ad3", 84.6, 227, 320),
        ),
        _POOLS,
    ),
}

PLAIN = {  # timm's networks that the contextual ones extend, with weights
    "contextual_convnext_tiny": "convnext_tiny.fb_in1k",
    "contextual_convnext_small": "convnext_small.fb_in1k",
    "contextual_convnext_base": "convnext_base.fb_in1k",
    "contextual_resnet50": "resnet50.a1_in1k",
}


def why_none(model: str) -> str:
    """Say in one line why a network has no pretrained weights, and what to do instead."""
    if plain := PLAIN.get(model):
        return (
            f"nobody published weights of {model}; start from the plain network that it extends: "
            f'ctxvision.checkpoints.warm_start(model, "{plain}"), or `ctxvision train --init-from {plain}`'
        )
    with_weights = f"networks with weights: {', '.join(WEIGHTS)}"
    if withheld := WITHHELD.get(model):
        return (
            f"no weights of {model} are offered: the network for which {withheld.files[0].project} keeps them is "
            f"not the authors' ({withheld.reason}); convert the authors' own file with `ctxvision convert`; "
            f"{with_weights}"
        )
    return f"there are no pretrained weights of {model}; convert a file with `ctxvision convert`; {with_weights}"
