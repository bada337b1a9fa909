"""A plain network's weights in its contextual counterpart: everything that is shared, or nothing."""

import copy

import pytest
import safetensors.torch
import timm
import torch
from torch import nn

import ctxvision.models  # noqa: F401 - registers the networks
from _oracle import assert_close
from ctxvision.checkpoints import CheckpointError, warm_start


def plain_resnet(**options):
    return timm.create_model("resnet26", layers=(1, 1, 2, 1), num_classes=7, **options)


class Contextual(nn.Module):
    """A stand-in with a contextual network's names: plain ones, generators', a table of class embeddings."""

    def __init__(self, plain, convolutions):
        super().__init__()
        for name, child in plain.named_children():
            self.add_module(name, child)
        for name in convolutions:
            self.get_submodule(name).generator = nn.Linear(3, 5)
        self.context = nn.Embedding(7, 4)


def contextual_resnet():
    model = Contextual(plain_resnet(), ["layer3.0.conv2", "layer3.1.conv2"])
    del model.fc
    return model


NEW = {f"layer3.{block}.conv2.generator.{leaf}" for block in (0, 1) for leaf in ("weight", "bias")} | {
    "context.weight"
}


@pytest.mark.parametrize("kind", ["module", "state dict", "torch file", "safetensors"])
def test_loads_everything_that_is_shared(tmp_path, kind):
    plain, model = plain_resnet(), contextual_resnet()
    weights, before = plain.state_dict(), {name: value.clone() for name, value in model.state_dict().items()}
    if kind == "torch file":
        torch.save(
            {"state_dict": {f"module.{name}": value for name, value in weights.items()}}, tmp_path / "a.pth"
        )
    elif kind == "safetensors":
        safetensors.torch.save_file(weights, tmp_path / "a.safetensors")
    source = {
        "module": plain,
        "state dict": weights,
        "torch file": tmp_path / "a.pth",
        "safetensors": str(tmp_path / "a.safetensors"),
    }[kind]
    report = warm_start(model, source)

    assert set(report.new) == NEW
    assert set(report.unused) == {"fc.weight", "fc.bias"}
    assert set(report.loaded) == set(weights) - set(report.unused)
    after = model.state_dict()
    assert all(torch.equal(after[name], weights[name]) for name in report.loaded)
    assert all(torch.equal(after[name], before[name]) for name in report.new)


@pytest.mark.parametrize(
    ("name", "plain_name", "classifier"),
    [("contextual_resnet50", "resnet50", "fc."), ("contextual_convnext_tiny", "convnext_tiny", "head.")],
)
def test_contextual_networks_start_as_their_plain_counterparts(name, plain_name, classifier):
    plain, model = timm.create_model(plain_name).eval(), timm.create_model(name).eval()
    report = warm_start(model, plain, source_name=plain_name)
    assert set(report.loaded) == {key for key in plain.state_dict() if not key.startswith(classifier)}
    assert all(key.startswith("context.") or "_offsets." in key for key in report.new)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, actual = plain.forward_features(image), model.forward_features(image)
    assert_close(actual, expected, torch.float32)


def test_report_reads_well():
    report = warm_start(contextual_resnet(), plain_resnet(), source_name="resnet26")
    assert str(report).splitlines() == [
        f"resnet26: {len(report.loaded)} tensors loaded",
        "5 new",
        "  4 in layer*.*.conv2.generator",
        "  1 in context",
        "2 unused",
        "  2 in fc: no place in the model",
    ]
    assert warm_start(contextual_resnet(), plain_resnet()).source == "ResNet"


def test_a_shared_classifier_is_loaded_if_it_fits():
    model = Contextual(plain_resnet(), ["layer3.0.conv2"])
    assert "fc.weight" in warm_start(model, plain_resnet()).loaded
    report = warm_start(model, timm.create_model("resnet26", layers=(1, 1, 2, 1), num_classes=9))
    assert {"fc.weight", "fc.bias"} <= set(report.new)
    assert report.reasons == dict.fromkeys(("fc.weight", "fc.bias"), "9 classes there, 7 here")
    assert str(report).endswith("2 unused\n  2 in fc: 9 classes there, 7 here")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"in_chans": 1}, r"1 tensors have another shape \(conv1.weight is 64×1×7×7, not 64×3×7×7\)"),
        ({"layers": (1, 2, 2, 1)}, r"tensors have no place in the model \(layer2.1.conv1.weight, "),
        ({"layers": (1, 1, 1, 1)}, r"tensors that the model needs are absent \(layer3.1.conv1.weight, "),
    ],
)
def test_not_the_counterpart_loads_nothing(options, reason):
    model = contextual_resnet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    source = timm.create_model("resnet26", **{"layers": (1, 1, 2, 1), **options})
    with pytest.raises(CheckpointError, match=reason):
        warm_start(model, source)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_values_that_are_not_finite():
    source = plain_resnet().state_dict()
    source["bn1.weight"][0] = torch.nan
    with pytest.raises(CheckpointError, match=r"given: 1 tensors hold NaN or infinity \(bn1.weight\)"):
        warm_start(contextual_resnet(), source, source_name="given")


def test_missing_file(tmp_path):
    with pytest.raises(CheckpointError, match="no such file"):
        warm_start(contextual_resnet(), tmp_path / "nowhere.pth")


@pytest.mark.parametrize("design", [{}, {"modulation": True}, {"stages": (3,)}])
def test_small_networks_of_custom_size_start_equal(design):
    size = {"depths": (1, 1, 3, 1), "dims": (8, 16, 24, 32), "num_classes": 11}
    plain = timm.create_model("convnext_tiny", **size).double().eval()
    for name, parameter in plain.named_parameters():
        if name.endswith("gamma"):
            nn.init.ones_(parameter)
    model = timm.create_model("contextual_convnext_tiny", **size, **design).double().eval()
    report = warm_start(model, plain)
    # a contextual network has no norm before its head
    assert set(report.unused) == {
        f"head.{layer}.{name}" for layer in ("norm", "fc") for name in ("weight", "bias")
    }
    image = torch.randn(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        expected = plain.forward_features(image).mean((2, 3))
        assert_close(model.forward_head(model.forward_features(image), pre_logits=True), expected, torch.float64)


def test_logits_are_equal_where_the_classifier_is_shared():
    plain = timm.create_model("resnet50", num_classes=7).eval()
    model = timm.create_model("contextual_resnet50", num_classes=7, stages=()).eval()
    report = warm_start(model, plain)
    assert (report.new, report.unused) == ((), ())
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert_close(model(image), plain(image), torch.float32)


def test_another_number_of_classes_leaves_the_class_embeddings_new():
    size = {"depths": (1, 1, 3, 1), "dims": (8, 16, 24, 32)}
    source = timm.create_model("contextual_convnext_tiny", num_classes=9, **size)
    model = timm.create_model("contextual_convnext_tiny", num_classes=5, **size)
    report = warm_start(model, source.state_dict())
    assert report.new == ("context.embedding.weight",)
    assert report.reasons == {"context.embedding.weight": "9 classes there, 5 here"}


# parts of a network ----------------------------------------------------------------------------------------


def test_parts_that_fit():
    source = timm.create_model("resnet26", layers=(1, 1, 2, 1), in_chans=1, num_classes=5)
    model = timm.create_model("cotnet_micro", num_classes=5)
    source.conv1 = nn.Sequential(copy.deepcopy(model.conv1[0]))
    with pytest.raises(
        CheckpointError,
        match=r"nothing was loaded \(--init-partial, in Python partial=True, loads the \d+ tensors",
    ):
        warm_start(model, source)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    report = warm_start(model, source, partial=True)
    assert "conv1.0.weight" in report.loaded
    after, weights = model.state_dict(), source.state_dict()
    assert set(report.loaded) | set(report.new) == set(after)
    assert set(report.loaded) | set(report.unused) == set(weights)
    assert set(report.reasons) == set(report.unused)
    assert all(torch.equal(after[name], weights[name]) for name in report.loaded)
    assert all(torch.equal(after[name], before[name]) for name in report.new)
    assert report.reasons["layer3.1.conv1.weight"] == "256×1024×1×1, not 96×384×1×1"
    assert report.reasons["layer3.0.bn2.weight"] == "no place in the model"
    assert "classes" not in report.reasons["layer1.0.bn1.weight"]


@pytest.mark.parametrize("partial", [False, True])
def test_another_architecture_changes_nothing(partial):
    model = contextual_resnet()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    source = timm.create_model("convnext_atto")
    with pytest.raises(CheckpointError, match=r"nothing was loaded$"):
        warm_start(model, source, partial=partial)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_classifier_alone_is_nothing():
    source = {name: value for name, value in plain_resnet().state_dict().items() if name.startswith("fc.")}
    with pytest.raises(
        CheckpointError, match=r"nothing in it fits: it has 2 tensors \(fc.weight, fc.bias\), the model"
    ):
        warm_start(contextual_resnet(), source)
