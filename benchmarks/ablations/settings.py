"""How the networks of the ablations are trained: data, recipe, budget, at two sizes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.ablations.scenes import SceneSettings

Family = Literal["contextual", "residual"]
SizeName = Literal["small", "large"]


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
    shift: int = 1
    """Training scenes are moved by up to so many pixels, in either direction."""


@dataclass(frozen=True)
class Size:
    """Everything that a run depends on beside the network, the seed and the device."""

    name: SizeName
    scenes: SceneSettings
    recipes: Mapping[Family, Recipe]
    """The contextual family learns more slowly and trains for longer: compare networks within a family."""
    shared: Mapping[Family, Mapping[str, Any]]
    """Arguments that all networks of a family share."""


SIZES: Mapping[SizeName, Size] = {
    "small": Size(
        "small",
        SceneSettings(),
        {"contextual": Recipe(epochs=54, lr=8e-3), "residual": Recipe(epochs=40, lr=5e-3)},
        {
            "contextual": {
                "depths": (1, 1, 1, 1), "dim": 64, "hidden": 32, "head_hidden": 128, "merge_hidden": 32,
            },
            "residual": {"depths": (1, 1, 1, 1)},
        },
    ),
    "large": Size(
        "large",
        SceneSettings(
            digits=10, side=64, digit_side=(24.0, 36.0), angle=20.0, left=(15.0, 21.0), height=(18.0, 46.0),
            fragments=8, train_per_class=100, test_per_class=50,
        ),
        {
            "contextual": Recipe(epochs=90, batch=128, lr=2e-3, warmup_epochs=5, shift=4),
            "residual": Recipe(epochs=30, batch=128, lr=2e-3, warmup_epochs=5, shift=4),
        },
        {
            "contextual": {
                "depths": (2, 2, 4, 2), "dim": 128, "hidden": 64, "head_hidden": 256, "merge_hidden": 64,
            },
            "residual": {"depths": (2, 2, 4, 2)},
        },
    ),
}  # fmt: skip
