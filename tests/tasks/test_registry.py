"""What every registered task offers to the rooms above: a class, a description of its data, named properties."""

from types import SimpleNamespace

import pytest

from ctxvision.data import DataError, open_data, spec_class
from ctxvision.tasks import TASKS, ClassificationTask, Task, task_class
from ctxvision.tasks.registry import COMMAND_WORDS, task_named

SCENES = "digits-scenes#train=2,val=2,size=64"
SOURCES = {
    "classification": "digits",
    "detection": SCENES,
    "segmentation": SCENES,
    "video": "moving-digits#train=8,val=8",
}
OPTIONS = {"detection": {"width": 32, "hidden": 32}, "segmentation": {"decoder_args": {"channels": 32}}}


@pytest.mark.parametrize("name", TASKS)
def test_class_data_and_description_belong_together(name):
    data = open_data(SOURCES[name], name)
    options = SimpleNamespace(lr=0.25, unrelated=1, **OPTIONS.get(name, {}))
    task = task_class(name).from_options("cotnet_micro", data.spec, options)
    assert isinstance(task, Task)
    assert task.kind == data.task == name == task_named(COMMAND_WORDS[name])
    assert task.spec == data.spec
    assert type(task.spec) is spec_class(name) is type(data).spec_class
    assert (task.model_name, task.model_args) == ("cotnet_micro", {})
    assert task.class_names == data.spec.class_names
    assert task.optimization.lr == 0.25


@pytest.mark.parametrize("name", TASKS)
def test_every_option_is_in_the_checkpoint(name):
    spec = open_data(SOURCES[name], name).spec.to_dict()
    task = task_class(name)("cotnet_micro", spec, **OPTIONS.get(name, {}))
    assert set(task.hparams) == {"model", "data_spec", *task_class(name).option_names()}
    assert task.optimization == task.defaults


def test_an_option_that_there_is_not_is_refused():
    spec = {"class_names": ["a", "b"], "input_size": [3, 32, 32]}
    with pytest.raises(TypeError, match="surprise"):
        ClassificationTask("test_resnet", spec, surprise=1)


def test_tasks_that_there_are_not():
    with pytest.raises(ValueError, match="there is no task 'depth'; there are classify, detect"):
        task_class("depth")
    with pytest.raises(DataError, match="there is no task 'depth'; there are classification, detection"):
        open_data("digits", "depth")
