"""The options of a training run: each is documented, and each reaches what it is for."""

import dataclasses
import inspect
import re
from pathlib import Path

import pytest
import yaml

from ctxvision.cli import main
from ctxvision.data import DetectionData, ImageData, SegmentationData, VideoData
from ctxvision.tasks.registry import COMMAND_WORDS, TASKS, task_class
from ctxvision.training import TrainOptions, options_class
from ctxvision.training.settings import basis_of

DATA = {
    "classification": ImageData, "detection": DetectionData, "segmentation": SegmentationData, "video": VideoData
}  # fmt: skip
OWN = {field.name for field in dataclasses.fields(TrainOptions)}


@pytest.mark.parametrize("task", TASKS)
def test_every_option_of_a_task_reaches_its_network_or_its_data(task):
    kind = options_class(task)
    taken = {*task_class(task).option_names(), *DATA[task].option_names()}
    assert {field.name for field in dataclasses.fields(kind)} - OWN <= taken
    passed = kind(model="x").only(DATA[task].option_names())
    assert {"workers", "prefetch", "strict", "seed", "val_fraction", "split_seed"} <= set(passed)
    assert {"lr", "schedule", "warmup_factor", "channels_last"} <= OWN & {*task_class(task).option_names()}


@pytest.mark.parametrize("task", TASKS)
def test_every_option_is_described_in_sentences(task):
    kind = options_class(task)
    text = inspect.getdoc(TrainOptions) + "\n" + inspect.getdoc(kind)
    for field in dataclasses.fields(kind):
        found = re.search(rf"^    {field.name}: (.+(?:\n        .+)*)", text, re.MULTILINE)
        if found is None:
            assert field.name == "task" or field.name in OWN, field.name
            continue
        description = " ".join(found[1].split())
        assert description[0].isupper(), field.name
        assert description.endswith("."), field.name
        assert len(description.split()) >= 4, field.name
        if field.default is None and field.name != "model":
            assert re.search(r"[Nn]ull", description), f"{field.name}: what null means"
        assert "likewise" not in description


@pytest.mark.parametrize("task", TASKS)
def test_name_and_word_of_a_task_mean_the_same(task, capsys):
    printed = []
    for word in (task, COMMAND_WORDS[task]):
        with pytest.raises(SystemExit, match="0"):
            main(["train", "test_resnet", "--task", word, "--print-config"])
        printed.append(yaml.safe_load(capsys.readouterr().out))
    assert printed[0] == printed[1]
    assert printed[0]["task"] == task


@pytest.mark.parametrize("task", TASKS)
def test_settings_of_an_old_run_are_understood(task, capsys):
    """They name the task by its word, and have the options of then."""
    config = Path(__file__).parents[1] / "old_runs" / task / "config.yaml"
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--config", str(config), "--print-config"])
    printed, old = yaml.safe_load(capsys.readouterr().out), yaml.safe_load(config.read_text())
    old["device"] = old.pop("accelerator")
    assert {name: printed[name] for name in old if name != "task"} == {k: v for k, v in old.items() if k != "task"}


@pytest.mark.parametrize(
    ("recipe", "given", "kept"),
    [("demo-detect", {"steps": 7}, (7, None)), ("segment-rednet-fpn-80k", {"epochs": 3}, (None, 3))],
)
def test_steps_of_the_user_take_the_place_of_a_recipes_epochs_and_the_other_way_round(recipe, given, kept):
    first = {"model": "rednet50", "recipe": recipe, "data": "anything", "init_from": "net.ckpt"}
    options = basis_of(first).complete(first | given | {"batch_size": 8})
    assert (options.steps, options.epochs) == kept


def test_class_weights_of_a_recipe_are_for_its_own_classes(caplog):
    first = {"model": "cotnet_micro", "recipe": "demo-segment", "data": "anything"}
    options = basis_of(first).complete(first | {"batch_size": 8})
    assert len(options._for_classes("ABCDEFGHIJK").class_weights) == 11
    assert not caplog.text
    assert options._for_classes("ABC").class_weights is None
    assert "recipe demo-segment: its 11 class weights are not for these 3 classes" in caplog.text
    own = basis_of(first).complete(first | {"batch_size": 8, "class_weights": [1.0, 2.0]})
    assert own._for_classes("ABC").class_weights == [1.0, 2.0]  # which the network refuses
