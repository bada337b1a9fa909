"""Arguments that are passed on: what a task gives itself, what others do not take, which optimisers can train."""

import pytest
import torch
from torch import nn

from ctxvision.cli import main
from ctxvision.nn.contextual_conv import WeightOffsets
from ctxvision.tasks import ClassificationTask, load_task
from ctxvision.tasks.error import TaskError
from ctxvision.tasks.features import FeatureBackbone
from ctxvision.tasks.networks import create_network
from ctxvision.tasks.optimization import (
    Optimization,
    build_optimizer,
    build_schedule,
    list_optimizers,
    require_optimizer,
    usable_optimizers,
    why_unusable,
)
from ctxvision.tasks.segmentation.network import build_network

SCENES, CLIPS = "digits-scenes#train=2,val=2,size=64", "moving-digits#train=8,val=8"
DATA = {"classify": "digits", "detect": SCENES, "segment": SCENES, "video": CLIPS}
SPEC = {"class_names": ["a", "b"], "input_size": [3, 32, 32], "mean": [0.0] * 3, "std": [1.0] * 3}


class Net(nn.Module):
    """One parameter of each kind: kernels, groups, a matrix, a norm, a bias, a number."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 3, groups=2))
        self.bend = WeightOffsets(8, kernel_size=3, prior_dim=0, hidden=4)
        self.head = nn.Linear(8, 4)
        self.temperature = nn.Parameter(torch.tensor(1.0))

    def forward(self, x):
        features = self.body(x)
        bent = features.mean((2, 3)) + self.bend(features, None).sum((2, 3))
        return self.head(bent) * self.temperature


@pytest.mark.parametrize("name", usable_optimizers())
def test_every_listed_optimiser_trains(name):
    model = Net()
    before = {key: value.clone() for key, value in model.named_parameters()}
    optimizer = build_optimizer(model, Optimization(optimizer=name, lr=1e-3, offset_lr_scale=0.5))
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.randn(4, 3, 8, 8)).square().mean().backward()
        optimizer.step()
    after = dict(model.named_parameters())
    assert all(value.isfinite().all() for value in after.values())
    for trained in ("head.weight", "bend.fc2.weight"):
        assert not torch.equal(after[trained], before[trained])


def test_only_what_can_train_is_listed(monkeypatch):
    assert "adahessian" in set(list_optimizers()) - set(usable_optimizers())
    with pytest.raises(
        TaskError, match=r"adahessian cannot be used: it needs second derivatives.*there are .*adamw"
    ):
        build_optimizer(Net(), Optimization(optimizer="adahessian"))
    assert why_unusable("adamw") is None
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert why_unusable("fusedsgd") == "it needs the package apex, which is not installed"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert why_unusable("bnblion8bit") == "bitsandbytes needs a CUDA device"


@pytest.mark.parametrize("task", DATA)
def test_an_optimiser_that_cannot_train_is_refused_before_training(task, tmp_path, capsys):
    words = [f"--task={task}", f"--out={tmp_path / 'run'}", "--optimizer=adahessian", "--device=cpu"]
    assert main(["train", "resnet10t", DATA[task], *words]) == 1
    said = capsys.readouterr()
    assert said.err.startswith(
        "ctxvision: error: optimizer adahessian cannot be used: it needs second derivatives"
    )
    assert not said.out
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_of_an_optimiser_of_another_machine_can_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr("ctxvision.tasks.optimization.why_unusable", lambda name: "there is no apex")
    task = ClassificationTask("test_resnet", SPEC, optimizer="fusedsgd")
    path = tmp_path / "a.ckpt"
    contents = {"hyper_parameters": dict(task.hparams), "state_dict": task.state_dict()}
    torch.save({"ctxvision": {"task": task.kind}, **contents}, path)
    assert load_task(path).hparams["optimizer"] == "fusedsgd"


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"in_chans": 1}, "cannot set in_chans: it follows from the data; --in-chans"),
        ({"num_classes": 7}, "cannot set num_classes: it follows from the classes of the data"),
        ({"pretrained": True}, "cannot set pretrained: weights to start from are given with --init-from"),
        ({"checkpoint_path": "x"}, "cannot set checkpoint_path: weights to start from are given with --init-from"),
        ({"features_only": False}, "cannot set features_only: the task takes the feature maps that it needs"),
        ({"out_indices": [0, 1]}, "cannot set out_indices: the task takes"),
        ({"model_name": "x"}, "cannot set model_name"),
        ({"drop_path_rate": 0.2}, "cannot set drop_path_rate: --drop-path-rate has set it"),
        ({3: 4}, "3 is not the name of an argument"),
        ({"nonsense": 1}, "no argument 'nonsense'; there are block, layers"),
        ({"layers": "abc"}, r"test_resnet with {'layers': 'abc'}: "),
        ({"layers": [1]}, r"test_resnet with {'layers': \[1\]}: "),
        ({"act_layer": "nothing"}, r"test_resnet with {'act_layer': 'nothing'}: "),
    ],
)
def test_arguments_of_networks(args, words):
    rates = {"drop_path_rate": 0.1} if "drop_path_rate" in args else {}
    with pytest.raises(TaskError, match=words):
        create_network("test_resnet", num_classes=3, in_chans=3, model_args=args, **rates)
    with pytest.raises(TaskError, match=words):
        FeatureBackbone("test_resnet", (4, 8), model_args=args, **rates)


def test_arguments_that_nobody_else_sets_are_passed_on():
    network = create_network("rednet_micro", num_classes=3, in_chans=3, model_args={"drop_path_rate": 0.2})
    assert any(getattr(module, "drop_prob", 0) for module in network.modules())
    assert create_network("test_resnet", num_classes=3, in_chans=3, model_args={"drop_rate": 0.3}).drop_rate == 0.3


@pytest.mark.parametrize("task", DATA)
def test_arguments_of_networks_on_the_command_line(task, tmp_path, capsys):
    words = [f"--task={task}", f"--out={tmp_path / 'run'}", "--device=cpu"]
    for args, reason in (("{in_chans: 1}", "cannot set in_chans"), ("{num_classes: 3}", "cannot set num_classes")):
        assert main(["train", "resnet10t", DATA[task], *words, f"--model-args={args}"]) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
        assert line.startswith(f"ctxvision: error: model_args of resnet10t {reason}: ")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("adamw", {"lr": 1}, "optimizer_args of adamw cannot set lr: --lr sets it"),
        ("adamw", {"weight_decay": 1}, "cannot set weight_decay: --weight-decay sets it"),
        ("adamw", {"layer_decay": 0.5}, "cannot set layer_decay: --layer-decay sets it"),
        ("adamw", {"opt": "sgd"}, "cannot set opt: --optimizer names it"),
        ("adamw", {"params": []}, "cannot set params: it follows from the network"),
        ("adamw", {"model_or_params": []}, "cannot set model_or_params"),
        ("adamw", {"nonsense": 1}, "no argument 'nonsense'; there are betas"),
        ("adamw", {"betas": 3}, "optimizer adamw with {'betas': 3}"),
        ("adamw", {"betas": [0.9]}, r"optimizer adamw with {'betas': \[0.9\]}"),
        ("sgd", {"momentum": "much"}, "optimizer sgd with {'momentum': 'much'}"),
        ("adamw", {1: 2}, "1 is not the name of an argument"),
    ],
)
def test_arguments_of_optimisers(name, args, words):
    with pytest.raises(TaskError, match=words):
        build_optimizer(Net(), Optimization(optimizer=name, optimizer_args=args))


@pytest.mark.parametrize(("name", "argument"), [("sgd", "betas"), ("sgd", "eps"), ("adamw", "momentum")])
def test_what_timm_would_leave_out_silently_is_refused(name, argument):
    with pytest.raises(TaskError, match=f"optimizer {name} takes no {argument}"):
        require_optimizer(name, {argument: 0.5})


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"min_lr": 1}, "schedule_args cannot set min_lr: --min-lr sets it"),
        ({"num_epochs": 3}, "cannot set num_epochs: --epochs or --steps sets it"),
        ({"warmup_lr": 3}, "cannot set warmup_lr: --warmup-factor sets it"),
        ({"updates_per_epoch": 3}, "cannot set updates_per_epoch: it follows from the run"),
        ({"sched": "step"}, "cannot set sched: --schedule names it"),
        ({"nonsense": 3}, "nonsense"),
        ({"decay_milestones": 3}, "schedule multistep with {'decay_milestones': 3}"),
    ],
)
def test_arguments_of_schedules(args, words):
    o = Optimization(optimizer="sgd", schedule="multistep", schedule_args=args)
    optimizer = build_optimizer(Net(), o)
    with pytest.raises(TaskError, match=words):
        build_schedule(optimizer, o, epochs=3, steps_per_epoch=2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"schedule": "multistep", "schedule_args": {"decay_milestones": ["a"]}}, "schedule multistep with"),
        ({"optimizer": "lamb", "optimizer_args": {"betas": [0.9]}}, r"optimizer lamb with {'betas': \[0.9\]}"),
    ],
)
def test_what_only_a_step_would_show_is_found_before_training(options, words):
    with pytest.raises(TaskError, match=words):
        ClassificationTask("test_resnet", SPEC, warmup_epochs=2, **options)


@pytest.mark.parametrize("decoder", ["semantic_fpn", "upernet"])
@pytest.mark.parametrize(
    ("args", "words"),
    [
        ({"num_classes": 3}, "cannot set num_classes: it follows from the classes of the data"),
        ({"in_channels": [3]}, "cannot set in_channels: it follows from the backbone"),
        ({"nonsense": 3}, "no argument 'nonsense'; there are"),
        ({"norm": ["batch"]}, "norm must be batch or group"),
        ({"channels": "many"}, "with {'channels': 'many'}"),
        ({"channels": 0}, "channels must be at least 1, got 0"),
        ({"dropout": "much"}, "with {'dropout': 'much'}"),
    ],
)
def test_arguments_of_decoders(decoder, args, words):
    with pytest.raises(TaskError, match=words):
        build_network("test_resnet", 3, decoder=decoder, decoder_args=args)


WRONG_ARGUMENTS = {
    "network": (["train", "rednet_micro", "digits", "--model-args", '{"kernle_size": 7}'], "kernel_size"),
    "contextual": (["train", "contextual_resnet_micro", "digits", "--model-args", '{"selecton": 1}'], "selection"),
    "of timm": (["train", "resnet10t", "digits", "--model-args", '{"avg_dwn": 1}'], "avg_down"),
    "backbone": (["train", "cotnet_micro", SCENES, "--task=detect", "--model-args", '{"plan": 1}'], "plain"),
    "decoder": (["train", "cotnet_micro", SCENES, "--task=segment", "--decoder-args", '{"nek": 1}'], "neck"),
    "optimiser": (["train", "cotnet_micro", CLIPS, "--task=video", "--optimizer-args", '{"bets": 1}'], "betas"),
    "schedule": (["train", "cotnet_micro", "digits", "--schedule-args", '{"cycle_lim": 1}'], "cycle_limit"),
}


@pytest.mark.parametrize("case", WRONG_ARGUMENTS)
def test_a_wrong_argument_is_named_with_the_nearest_and_all(case, tmp_path, capsys):
    words, right = WRONG_ARGUMENTS[case]
    assert main([*words, f"--out={tmp_path / 'run'}", "--device=cpu"]) == 1
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert f", did you mean {right}?; there are " in said
    listed = said.partition("; there are ")[2].split(", ")
    assert right in listed
    assert not {"matcher", "placed", "spatial", "num_classes", "lr", "params", "strides"} & {*listed}
