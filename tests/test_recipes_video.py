"""The recipes of video against the paper's numbers, written here once more."""

import dataclasses
import inspect

import pytest
import torch

from ctxvision.data import VideoData
from ctxvision.recipes import load_recipe, recipe_names
from ctxvision.tasks.optimization import build_optimizer, build_schedule
from ctxvision.tasks.video import VideoTask
from ctxvision.training import TrainOptions

KINETICS, DEMO = "video-contextual-resnet50-tsm", "demo-video"
MODELS = {KINETICS: "contextual_resnet50", DEMO: "cotnet_micro"}


def arguments(function):
    return set(inspect.signature(function).parameters)


def build(name):
    settings = load_recipe(name).settings_for(MODELS[name])
    spec = {"class_names": list(map(str, range(400))), "input_size": [3, 224, 224], "frames": settings["frames"]}
    options = {k: v for k, v in settings.items() if k in VideoTask.option_names()}
    with torch.device("meta"):
        return VideoTask(MODELS[name], spec, **options), settings


def test_all_are_listed():
    assert sorted(MODELS) == [name for name in recipe_names() if load_recipe(name).task == "video"]


@pytest.mark.parametrize("name", MODELS)
def test_every_setting_is_one_of_the_run_the_task_or_the_data(name):
    recipe = load_recipe(name)
    of_run = {field.name for field in dataclasses.fields(TrainOptions)}
    known = of_run | set(VideoTask.option_names()) | arguments(VideoData.__init__)
    assert set(recipe.settings) <= known
    header = recipe.text[: recipe.text.index("source:")]
    assert all(line.startswith("#") for line in header.splitlines())
    assert f"--task video --recipe {name}" in header
    for what in ("Paper: ", "Expected: ", "Cost: "):
        assert f"# {what}" in header
    assert max(map(len, recipe.text.splitlines())) <= 120


def test_kinetics_is_the_paper_s():
    task, settings = build(KINETICS)
    recipe = load_recipe(KINETICS)
    assert recipe.expected == {"contextual_resnet50": {"top1": 77.0, "top5": 93.1}}
    assert recipe.requires == ("init_from",)
    assert (settings["epochs"], settings["batch_size"], settings["frames"]) == (50, 64, 16)
    assert settings["image_size"] == 224
    assert (task.shifts.shift, task.shifts.divisor, len(task.shifts.layers)) == ("both", 8, 16)
    assert task.model.drop_rate == 0.5
    assert (task.train_loss.alpha, task.train_loss.label_smoothing) == (0.15, 0)
    o = task.optimization
    layer = torch.nn.Linear(2, 2)
    optimizer = build_optimizer(layer, o)
    assert type(optimizer) is torch.optim.SGD
    assert {(g["momentum"], g["nesterov"]) for g in optimizer.param_groups} == {(0.9, False)}
    assert {g["weight_decay"] for g in optimizer.param_groups} == {0.0, 1e-4}
    schedule = build_schedule(optimizer, dataclasses.replace(o, warmup_epochs=0.0), epochs=50, steps_per_epoch=4)
    rates = []
    for step in range(200):
        schedule.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    # timm falls one step before a milestone
    assert rates == pytest.approx([0.01] * 79 + [0.001] * 80 + [0.0001] * 41)


def test_demo_is_small():
    task, settings = build(DEMO)
    assert (settings["epochs"], settings["frames"], task.shifts.shift) == (12, 4, "both")
    assert sum(p.numel() for p in task.model.parameters()) < 2e6
