"""The recipes of semantic segmentation against the paper's numbers, written here once more."""

import inspect

import pytest
import timm
import torch

from ctxvision.data import SegmentationData
from ctxvision.models import count_macs
from ctxvision.recipes import load_recipe, recipe_names
from ctxvision.tasks.segmentation import SegmentationTask

CITYSCAPES = {  # mIoU, millions of parameters, GMACs of a whole image, 1024 × 2048
    "segment-rednet-fpn-80k": (78.0, 18.5, 293.9),
    "segment-rednet-fpn-neck-80k": (79.1, 16.4, 205.2),
    "segment-rednet-upernet-80k": (80.6, 56.4, 1825.6),
}
NAMES = [*CITYSCAPES, "demo-segment"]
OF_RUN = {"steps", "epochs", "batch_size", "micro_batch", "sync_batchnorm"}


def arguments(function):
    return set(inspect.signature(function).parameters)


def build(name, model, classes=19):
    recipe = load_recipe(name)
    settings = recipe.settings_for(model)
    spec = {"class_names": [str(i) for i in range(classes)], "input_size": [3, 512, 1024]}
    options = {k: v for k, v in settings.items() if k in SegmentationTask.option_names()}
    with torch.device("meta"):
        return SegmentationTask(model, spec, **options), settings


def test_all_are_listed():
    assert sorted(NAMES) == [name for name in recipe_names() if load_recipe(name).task == "segmentation"]


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_one_of_the_run_the_task_or_the_data(name):
    recipe = load_recipe(name)
    known = OF_RUN | set(SegmentationTask.option_names()) | arguments(SegmentationData.__init__)
    assert set(recipe.settings) <= known
    header = recipe.text[: recipe.text.index("task:")]
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"--task segment --recipe {name}" in header
    for what in ("Paper: ", "Expected: ", "Cost: "):
        assert f"# {what}" in header
    assert max(map(len, recipe.text.splitlines())) <= 120
    assert all(timm.is_model(model) for model in recipe.models)


@pytest.mark.parametrize("name", CITYSCAPES)
def test_cityscapes_is_the_supplement_s_section_a_3(name):
    miou, millions, gmacs = CITYSCAPES[name]
    assert load_recipe(name).expected == {"rednet50": {"miou": miou}}
    assert load_recipe(name).requires == ("init_from",)
    task, settings = build(name, "rednet50")
    assert (settings["steps"], settings["batch_size"], settings["micro_batch"]) == (80_000, 8, 2)
    assert settings["sync_batchnorm"] is True
    assert settings["crop_size"] == [512, 1024]
    assert (settings["scale"], settings["flip"], settings["photometric"]) == ([0.5, 2.0], 0.5, True)
    assert settings["max_category_ratio"] == 0.75
    o = task.optimization
    assert (o.optimizer, o.lr, o.weight_decay, dict(o.optimizer_args)) == (
        "momentum",
        0.01,
        5e-4,
        {"momentum": 0.9},
    )
    assert (o.schedule, dict(o.schedule_args), o.min_lr) == ("poly", {"decay_rate": 0.9}, 0.0)
    assert (o.warmup_epochs, o.warmup_steps) == (0.0, None)
    assert round(sum(p.numel() for p in task.model.parameters()) / 1e6, 1) == millions
    assert count_macs(task.model, (3, 1024, 2048)) / 1e9 == pytest.approx(gmacs, rel=0.02)
    assert (task.model.auxiliary is not None) == ("upernet" in name)
    assert task.auxiliary_weight == 0.4


def test_demo_costs_what_its_header_says():
    task, settings = build("demo-segment", "cotnet_micro", 11)
    assert round(count_macs(task.model, (3, 96, 96)) / 1e9, 3) == 0.249
    assert settings["epochs"] == 2
