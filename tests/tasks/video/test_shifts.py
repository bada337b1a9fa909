"""Shifts in finished networks: where they go, what they leave alone, what they cost."""

import copy
import pickle

import pytest
import timm
import torch
from torch import nn

from ctxvision.models import count_macs
from ctxvision.nn import temporal_shift
from ctxvision.tasks import TaskError
from ctxvision.tasks.video import TemporalShifts, residual_layers

BLOCKS = {  # number of residual blocks, first layer of the first
    "resnet18": (8, "layer1.0.conv1"), "resnet50d": (16, "layer1.0.conv1"), "seresnet50": (16, "layer1.0.conv1"),
    "resnetv2_50": (16, "stages.0.blocks.0.conv1"), "regnety_002": (13, "s1.b1.conv1"),
    "convnext_tiny": (18, "stages.0.blocks.0.conv_dw"), "convnextv2_atto": (12, "stages.0.blocks.0.conv_dw"),
    "mobilenetv2_100": (10, "blocks.1.1.conv_pw"), "efficientnet_b0": (9, "blocks.1.1.conv_pw"),
    "cotnet50": (16, "layer1.0.conv1"), "se_cotnetd50": (16, "layer1.0.conv1"), "rednet50": (16, "layer1.0.conv1"),
    "contextual_resnet50": (16, "layer1.0.conv1"),
    "contextual_convnext_tiny": (18, "stages.0.blocks.0.conv_dw"),
}  # fmt: skip
SMALL = ("contextual_convnext_micro", "cotnet_micro", "rednet_micro", "resnet10t")


def awake(name, **options):
    """A small network in evaluation mode whose branches are heard: some begin with a scale of zero."""
    model = timm.create_model(name, num_classes=5, **options).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
    return model


def meta(name, **options):
    with torch.device("meta"):
        return timm.create_model(name, **options)


@pytest.mark.parametrize("name", BLOCKS)
def test_every_residual_block_is_found(name):
    count, first = BLOCKS[name]
    layers = residual_layers(meta(name))
    assert len(layers) == count
    assert next(iter(layers)) == first


@pytest.mark.parametrize("name", ["vgg11", "vit_tiny_patch16_224", "densenet121"])
def test_networks_without_are_refused_with_a_reason(name):
    with pytest.raises(TaskError, match="has no residual blocks that begin with a convolution"):
        TemporalShifts(meta(name), 8)


def test_layers_can_be_named():
    model = meta("vgg11")
    assert TemporalShifts(model, 8, layers=["features.3"]).layers == ("features.3",)
    with pytest.raises(TaskError, match=r"has no layer 'features.99'"):
        TemporalShifts(model, 8, layers=["features.99"])


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("past", [False, True])
def test_branch_sees_shifted_features_and_the_shortcut_does_not(name, past):
    """Each block's branch begins with what a shift makes of the block's input; the input itself is as it was."""
    model = awake(name)
    shifts = TemporalShifts(model, 3, "past" if past else "both")
    seen = {}

    def watch(block, layer):
        block.register_forward_pre_hook(lambda _, args: seen.update({(layer, "block"): args[0].clone()}))
        block.register_forward_hook(lambda _, args, out: seen.update({(layer, "after"): args[0].clone()}))
        model.get_submodule(layer).register_forward_pre_hook(
            lambda _, args: seen.update({(layer, "branch"): args[0].clone()})
        )

    for layer in shifts.layers:
        watch(model.get_submodule(layer.rpartition(".")[0]), layer)
    model(torch.randn(6, 3, 64, 64))
    for layer in shifts.layers:
        block, branch = seen[layer, "block"], seen[layer, "branch"]
        assert torch.equal(branch, temporal_shift(block, 3, past_only=past)), layer
        assert torch.equal(seen[layer, "after"], block)


@pytest.mark.parametrize("name", SMALL)
def test_no_parameters_and_the_same_names(name):
    model = awake(name)
    plain = copy.deepcopy(model)
    images = torch.randn(4, 3, 64, 64)
    shifts = TemporalShifts(model, 4)
    assert model.state_dict().keys() == plain.state_dict().keys()
    assert not torch.allclose(model(images), plain(images))
    shifts.frames = 1  # nothing is beside a single frame: an eighth each way is zero
    assert not torch.allclose(model(images), plain(images))
    shifts.remove()
    assert torch.equal(model(images), plain(images))


def test_none_leaves_the_network_alone():
    model = timm.create_model("resnet10t")
    assert TemporalShifts(model, 4, "none").layers == ()
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_twice_is_refused():
    model = meta("resnet18")
    shifts = TemporalShifts(model, 4)
    with pytest.raises(TaskError, match="has shifts already"):
        TemporalShifts(model, 4)
    shifts.remove()
    TemporalShifts(model, 4)


@pytest.mark.parametrize(("options", "message"), [({"shift": "off"}, "'off'"), ({"divisor": 0}, "at least 1")])
def test_wrong_arguments(options, message):
    with pytest.raises(TaskError, match=message):
        TemporalShifts(meta("resnet18"), 4, **options)


@pytest.mark.parametrize("copier", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_copies_have_shifts_of_their_own(copier):
    model = awake("resnet10t")
    shifts = TemporalShifts(model, 4)
    images = torch.randn(4, 3, 64, 64)
    with_four = model(images)
    model2, shifts2 = copier((model, shifts))
    shifts2.frames = 2
    assert torch.equal(model(images), with_four)
    assert not torch.allclose(model2(images), with_four)
    shifts2.frames = 4
    assert torch.equal(model2(images), with_four)


def test_order_of_the_frames_matters_only_with_shifts():
    model = awake("cotnet_micro")
    clip = torch.randn(4, 3, 64, 64)
    assert torch.allclose(model(clip).mean(0), model(clip.flip(0)).mean(0), atol=1e-6)
    TemporalShifts(model, 4)
    assert not torch.allclose(model(clip).mean(0), model(clip.flip(0)).mean(0), atol=1e-4)


def test_batched_clips_do_not_leak_into_each_other():
    model = awake("cotnet_micro")
    TemporalShifts(model, 3)
    clips = torch.randn(2, 3, 3, 64, 64)
    together = model(clips.flatten(0, 1))
    for clip, logits in zip(clips, together.split(3), strict=True):
        assert torch.allclose(model(clip), logits, atol=1e-5)


def test_gradient_checkpointing_gives_the_same_gradients():
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model = timm.create_model("contextual_convnext_micro", num_classes=5).train()
        model.set_grad_checkpointing(checkpointing)
        TemporalShifts(model, 3)
        model(torch.ones(6, 3, 32, 32).cumsum(0)).sum().backward()
        grads.append([p.grad for p in model.parameters() if p.grad is not None])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads, strict=True))


class _Clip(nn.Module):
    """Sixteen frames as one image of 16 times the channels, for the counter."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x.unflatten(1, (16, 3)).flatten(0, 1))


def test_contextual_resnet50_costs_68_gmacs_at_16_frames_and_not_one_parameter_more():
    model = meta("contextual_resnet50", num_classes=400)
    before = sum(p.numel() for p in model.parameters())
    plain = count_macs(_Clip(model), (48, 224, 224))
    TemporalShifts(model, 16)
    assert sum(p.numel() for p in model.parameters()) == before
    macs = count_macs(_Clip(model), (48, 224, 224))
    assert macs == plain  # a shift multiplies nothing
    assert macs / 1e9 == pytest.approx(68, rel=0.03)


def test_resnet50_costs_65_gmacs_at_16_frames():
    model = meta("resnet50", num_classes=400)
    TemporalShifts(model, 16)
    assert count_macs(_Clip(model), (48, 224, 224)) / 1e9 == pytest.approx(65, rel=0.03)
