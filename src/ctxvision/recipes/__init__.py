"""The papers' training recipes, one YAML file per kind of result; `ctxvision train --recipe NAME` uses them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ctxvision.wording import did_you_mean

__all__ = ["Recipe", "RecipeError", "load_recipe", "recipe_names"]

_FOLDER = Path(__file__).parent
_OLD_WORDS = {"classify": "classification", "detect": "detection", "segment": "segmentation"}
_EXPECTED = "expected_"


class RecipeError(ValueError):
    """There is no such recipe; the message is one line."""


@dataclass(frozen=True)
class Recipe:
    """The settings of a training run, under a name.

    Attributes:
        name: The name of the file, without its suffix.
        text: The whole file; its header says what the recipe costs and where its numbers come from.
        source: The paper and the table of the accuracy.
        settings: The settings, by their names in `ctxvision train`, the same for every network.
        models: The settings that differ, by network, the usual one first; empty where the recipe is for no network
            in particular.
        task: The name of the task, such as ``"detection"``.
        expected: What the source reports, by network and metric, such as ``{"cotnet50": {"top1": 79.2}}``, in per
            cent.
        requires: The settings that the user must add.
    """

    name: str
    text: str
    source: str
    settings: Mapping[str, Any]
    models: Mapping[str, Mapping[str, Any]]
    expected: Mapping[str, Mapping[str, float]]
    requires: tuple[str, ...] = ()
    task: str = "classification"

    def settings_for(self, model: str) -> dict[str, Any]:
        """Return all settings for a network; one that the recipe does not name gets those of the first named."""
        own = self.models.get(model) or self.models.get(self.model_instead_of(model) or "", {})
        return {**self.settings, **own}

    def model_instead_of(self, model: str) -> str | None:
        """Return the network whose settings another gets, the first; ``None`` where the recipe is for this one."""
        return None if not self.models or model in self.models else next(iter(self.models))


def recipe_names() -> list[str]:
    """List the recipes, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_recipe(name: str) -> Recipe:
    """Read a recipe of this library.

    Raises:
        RecipeError: There is no recipe of this name.
    """
    if name not in recipe_names():
        near = did_you_mean(name, recipe_names())
        listed = "`ctxvision recipes` lists them" if near else f"there are {', '.join(recipe_names())}"
        raise RecipeError(f"there is no recipe {name!r}{near}; {listed}")
    text = (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    content = yaml.safe_load(text)
    models = {model: dict(own or {}) for model, own in content.get("models", {}).items()}
    expected = {
        model: {name.removeprefix(_EXPECTED): own.pop(name) for name in [*own] if name.startswith(_EXPECTED)}
        for model, own in models.items()
    }
    word = content.get("task", "classification")
    return Recipe(
        name,
        text,
        content["source"],
        content["settings"],
        models,
        expected,
        tuple(content.get("requires", ())),
        _OLD_WORDS.get(word, word),
    )
