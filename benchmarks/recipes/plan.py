"""What is trained: for every recipe a small network of its family and the plain one beside it, on small data."""

import math
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from ctxvision.recipes import Recipe, load_recipe, recipe_names

Side = Literal["ours", "plain"]
SIDES: tuple[Side, ...] = ("ours", "plain")
_PLAIN_RESNET: tuple[str, Mapping[str, Any]] = ("cotnet_micro", {"cot_stages": []})
_LEAST_ADAPTIVE_RATE = 1e-3
"""Of optimisers that divide by the size of the gradient: one step moves a weight by at most the rate.

What a recipe reaches by small steps in a million, some hundred of them cannot: its rate, scaled to the batch,
leaves a ResNet about where it began. `small` trains the same networks at twice this rate.
"""


class Family(NamedTuple):
    """A small network of a family, and its plain counterpart: names and arguments."""

    ours: tuple[str, Mapping[str, Any]]
    plain: tuple[str, Mapping[str, Any]]


FAMILIES: Mapping[str, Family] = {
    "cotnet": Family(("cotnet_micro", {}), _PLAIN_RESNET),
    "rednet": Family(("rednet_micro", {}), _PLAIN_RESNET),
    "contextual_convnext": Family(
        # ranks all classes anew at every stage, as `contextual_resnet_micro` does by itself
        ("contextual_convnext_micro", {"selection": "rerank"}),
        ("contextual_convnext_micro", {"stages": []}),
    ),
    "contextual_resnet": Family(("contextual_resnet_micro", {}), ("contextual_resnet_micro", {"stages": []})),
    "cotnext": Family(
        ("cotnet_micro", {"cardinality": 2, "base_width": 48, "key_groups": 8}),
        ("cotnet_micro", {"cot_stages": [], "cardinality": 2, "base_width": 48}),
    ),
    "se_cotnetd": Family(
        ("cotnet_micro", {"cot_stages": [3, 4], "alternate_stage": 3, "plain": "se", "avg_down": True}),
        ("cotnet_micro", {"cot_stages": [], "plain": "se", "avg_down": True}),
    ),
}
"""By the beginning of the names of the networks in recipes."""


class Data(NamedTuple):
    """Small data in the place of the recipe's, what they need, and how large the recipe's are."""

    source: str
    """DATA of `ctxvision train`; "files", "boards" and "sheets" stand for what `pictures` makes."""
    size: int
    """Training images."""
    batch: int
    steps: int
    metric: str
    chance: float
    """What guessing reaches, in per cent."""
    recipe_size: int
    """Training images of the recipe's own data."""
    settings: Mapping[str, Any]
    """Sizes that fit the data and a CPU."""


_FILES = {"image_size": 32, "crop_pct": 1.0}
_CLIPS = {"frames": 4, "image_size": 32}
# digits of one size, of which a mirror image is none; most pixels are background
_CROPS = {"crop_size": [64, 64], "scale": [1.0, 1.0], "flip": 0.0, "class_weights": [0.4, *[1.0] * 10]}
_BOXES = {
    "width": 32, "hidden": 128, "anchor_sizes": [12, 24, 32, 48, 64], "min_size": 64, "max_size": 128,
    "train_candidates": 200, "train_proposals": 100, "test_candidates": 100, "test_proposals": 100,
    "sampled_rois": 64, "detections": 30,
}  # fmt: skip

DATA: Mapping[str, Data] = {
    "classification": Data("files", 1437, 64, 440, "val_top1", 10.0, 1_281_167, _FILES),
    "video": Data("moving-digits#train=640,val=160", 640, 16, 400, "val_top1", 12.5, 240_000, _CLIPS),
    # chance: background known, digits guessed
    "segmentation": Data("boards", 400, 8, 600, "val_miou", 14.0, 2975, _CROPS),
    "detection": Data("sheets", 400, 4, 600, "val_box_ap50", 0.0, 118_287, _BOXES),
}
_RETINANET: Mapping[str, Any] = {
    "width": 64, "anchor_sizes": [24, 32, 40, 48, 64],  # the levels begin at stride 8
    "train_candidates": None, "test_candidates": None, "clip_grad": 5.0,
}  # fmt: skip
"""With the rate of the authors' other detectors, 0.02, twice its own, and more steps than those need.

The four convolutions of its towers pass on a hundredth of what they get until they are trained: the loss of
classes stays where it begins for 100 steps at this rate, for 300 at that which follows from the batch (0.0025;
AP50 was 15 % after 800). At 0.02 without clipping, to which the authors resort too, training ended in infinities
at step 114.
"""
_STEPS: Mapping[str, int] = dict.fromkeys(
    (
        "detect-rednet-retinanet-1x",
        "detect-rednet-retinanet-neck-1x",
        "detect-rednet-faster-rcnn-neck-1x",
        "detect-rednet-faster-rcnn-neck-head-1x",
        "detect-rednet-mask-rcnn-neck-1x",
        "segment-rednet-upernet-80k",
    ),
    1200,
)
"""Optimiser steps of recipes that need more than `DATA` has: of RetinaNet, for the reason above; of RedNet under a
neck of involutions or under UPerNet, which learns slower than the plain network. Both sides have them."""
_NARROW = {"semantic_fpn": {"pyramid_channels": 64, "channels": 64}, "upernet": {"channels": 64}}


class Pair(NamedTuple):
    """A family and a recipe of its own."""

    recipe: str
    family: str


def pairs() -> list[Pair]:
    """Return all families with each recipe that names networks of theirs, the papers' recipes only."""
    found = []
    for recipe in map(load_recipe, recipe_names()):
        if recipe.source != "ours":
            families = {family: None for model in recipe.models if (family := family_of(model))}
            found += [Pair(recipe.name, family) for family in families]
    order = {"classification": 0, "video": 1, "segmentation": 2, "detection": 3}
    wide = ("cotnext", "se_cotnetd")  # last: they differ from cotnet in their arguments alone
    return sorted(found, key=lambda pair: (order[load_recipe(pair.recipe).task], pair.family in wide, pair))


def family_of(model: str) -> str | None:
    """Return the family of a network in a recipe; dense tasks have one of CoT's alone."""
    return next((family for family in FAMILIES if model.startswith(family)), None)


def settings_of(pair: Pair, side: Side, seed: int, steps: int | None = None) -> dict[str, Any]:
    """Return the settings of a run beside those of the recipe: what has to change on small data.

    Rates follow the batch: in proportion for SGD (as the recipes' authors do it; not for RetinaNet, see
    `_RETINANET`), by the square root for the others, which have at least `_LEAST_ADAPTIVE_RATE`. Warm-up,
    cool-down, milestones and the memory of the average keep their share of the run.

    Args:
        pair: The family and the recipe.
        side: Its own network, or the plain one.
        seed: The seed of the run.
        steps: The number of optimiser steps; by default that of `_STEPS` or of `DATA`.
    """
    recipe = load_recipe(pair.recipe)
    data, usual = DATA[recipe.task], recipe.settings_for(next(iter(recipe.models)))
    network, arguments = getattr(FAMILIES[pair.family], side)
    per_epoch = data.size // data.batch
    epochs = max(2, math.ceil((steps or _STEPS.get(pair.recipe, data.steps)) / per_epoch))
    usual_steps = usual.get("steps") or usual["epochs"] * data.recipe_size / usual["batch_size"]
    share = epochs * per_epoch / usual_steps
    ratio = data.batch / usual["batch_size"]
    plain_descent = usual["optimizer"] in ("sgd", "momentum")
    rate = ratio if plain_descent else max(math.sqrt(ratio), _LEAST_ADAPTIVE_RATE / usual["lr"])
    if usual.get("detector") == "retinanet":
        rate = 2.0
    changed: dict[str, Any] = {
        "model": network, "epochs": epochs, "steps": None, "val_every": epochs, "batch_size": data.batch,
        "micro_batch": None, "lr": usual["lr"] * rate, "min_lr": usual.get("min_lr", 0.0) * rate, "seed": seed,
        "workers": 0, "accelerator": "cpu", "logger": ["csv"], "pictures": False, "save_minutes": 0.0,
        **data.settings,
    }  # fmt: skip
    whole = usual.get("epochs") or 1
    for name in ("warmup_epochs", "cooldown_epochs"):
        if usual.get(name):
            changed[name] = usual[name] / whole * epochs
    if usual.get("warmup_steps"):
        changed["warmup_steps"] = max(1, round(usual["warmup_steps"] * share))
    schedule = dict(usual.get("schedule_args") or {})
    if "decay_milestones" in schedule:
        schedule["decay_milestones"] = [max(1, round(at / whole * epochs)) for at in schedule["decay_milestones"]]
        changed["schedule_args"] = schedule
    if usual.get("ema"):
        changed["ema"] = max(0.0, 1 - (1 - usual["ema"]) / share)
    if arguments:
        changed["model_args"] = {**_asked(recipe, network), **arguments}
    return changed | _of_task(recipe, usual)


def _asked(recipe: Recipe, network: str) -> dict[str, Any]:
    asked = dict(recipe.settings.get("model_args") or {})
    return asked if network.startswith("rednet") else {}


def _of_task(recipe: Recipe, usual: Mapping[str, Any]) -> dict[str, Any]:
    if recipe.task == "classification" and (usual.get("mixup") or usual.get("cutmix")):
        # 8 % of a photograph is a picture; of a digit it is five pixels, and mixed with another nothing at all
        return {"crop_scale": 0.5}
    if recipe.task == "segmentation":
        return {"decoder_args": {**(usual.get("decoder_args") or {}), **_NARROW[usual["decoder"]]}}
    if recipe.task == "detection" and usual["detector"] == "retinanet":
        return dict(_RETINANET)
    return {}
