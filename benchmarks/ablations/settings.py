"""How the networks of the ablations are trained: data, recipe, at three sizes of the class set."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Family = Literal["contextual", "residual"]
SizeName = Literal["100", "400", "all"]

ALPHAS = (0.15, 0.5, 1.0)
"""Weights of the losses of the stages before the head, of which the validation artist chooses for each network."""
TRIAL_SEEDS = (100,)
"""Seeds of the runs that choose; the runs that are reported have others."""


@dataclass(frozen=True)
class Recipe:
    """The same for every network of a family."""

    epochs: int
    lr: float
    """Highest, after a linear warm-up; then half a cosine to zero, moved with every step."""
    batch: int = 64
    warmup_epochs: int = 5
    weight_decay: float = 0.05
    """AdamW's, not on norms, biases, class embeddings and temperature."""
    label_smoothing: float = 0.1
    curve: int = 10
    """Epochs between two points of the curve."""


@dataclass(frozen=True)
class Size:
    """Everything that a run depends on beside the network, the seed and the device."""

    name: SizeName
    classes: str
    """As ``emoji#classes=`` takes it."""
    num_classes: int
    recipes: Mapping[Family, Recipe]
    shared: Mapping[Family, Mapping[str, Any]]
    """Arguments that all networks of a family share."""
    side: int = 48
    """Height and width."""


_SHARED: Mapping[Family, Mapping[str, Any]] = {
    "contextual": {
        "depths": (1, 1, 1, 1), "dim": 64, "hidden": 0.5, "head_hidden": 0.5, "merge_hidden": 32,
        "norm": "batch",
    },
    "residual": {"depths": (1, 1, 1, 1)},
}  # fmt: skip


def _recipes(epochs: int) -> Mapping[Family, Recipe]:
    return {"contextual": Recipe(epochs, lr=8e-3), "residual": Recipe(epochs, lr=5e-3)}


SIZES: Mapping[SizeName, Size] = {
    "100": Size("100", "100", 100, _recipes(100), _SHARED),
    "400": Size("400", "400", 400, _recipes(60), _SHARED),
    "all": Size("all", "all", 1570, _recipes(40), _SHARED),
}
